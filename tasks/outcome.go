package tasks

import (
	"context"
	"errors"
)

// An Outcome is the class of a handler's result: what the queue does next, and a metric's label.
type Outcome string

// The outcomes. Classify is the only function that decides between them.
const (
	Done       Outcome = "done"
	Permanent  Outcome = "permanent"  // bad input: never retried
	Retry      Outcome = "retry"      // a fault of Redis, the store or the model: retried with back-off
	Overloaded Outcome = "overloaded" // no room now: retried soon, not counted as a failure
	Cancelled  Outcome = "cancelled"  // the worker is stopping: goes back unharmed
	Expired    Outcome = "expired"    // nobody waits for it any more: forgotten
	Revoked    Outcome = "revoked"    // it was cancelled by who enqueued it: forgotten
	Newer      Outcome = "newer"      // it is of a version that this worker does not know: set aside for a newer one
)

// Classify maps an error of [Handler.HandleBatch] to its outcome. Rooms that this package may not import take
// part by methods: an error that has Permanent() bool, Overloaded() bool, Expired() bool or Revoked() bool,
// or wraps one that has, is judged by the outermost such method, in the order of this table.
//
//	nil                                  done
//	Revoked() true                       revoked      cancelled for good, whatever else went wrong
//	Expired() true                       expired
//	Permanent() true                     permanent    bad input, bad payload, another model's task, panic
//	Overloaded() true                    overloaded
//	wraps context.Canceled               cancelled    the queue cancels only when the worker stops
//	a *VersionError                      newer
//	anything else                        retry        a deadline that passed too
func Classify(err error) Outcome {
	var (
		revoked    interface{ Revoked() bool }
		expired    interface{ Expired() bool }
		permanent  interface{ Permanent() bool }
		overloaded interface{ Overloaded() bool }
		newer      *VersionError
	)
	switch {
	case err == nil:
		return Done
	case errors.As(err, &revoked) && revoked.Revoked():
		return Revoked
	case errors.As(err, &expired) && expired.Expired():
		return Expired
	case errors.As(err, &permanent) && permanent.Permanent():
		return Permanent
	case errors.As(err, &overloaded) && overloaded.Overloaded():
		return Overloaded
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.As(err, &newer):
		return Newer
	default:
		return Retry
	}
}
