package tasks

import (
	"errors"
	"fmt"
)

// A Reason is why an input was refused: a bounded set, fit for a metric's label.
type Reason string

// The reasons.
const (
	Empty      Reason = "empty"        // nothing, or only white space
	NotUTF8    Reason = "not_utf8"     // bytes that are no UTF-8
	HasNUL     Reason = "nul_byte"     // a NUL, which C strings and PostgreSQL cannot carry
	HasControl Reason = "control_char" // a control character where a name is wanted
	TooLong    Reason = "too_long"     // more bytes than the bound
	TooMany    Reason = "too_many"     // more items than the bound
	BadSyntax  Reason = "bad_syntax"   // not of the form that is asked for
	OutOfRange Reason = "out_of_range" // a number or a time outside its bounds
)

// An InvalidError says what is wrong with one field of a producer's input. It never quotes a text. It is
// permanent: the same input stays wrong.
type InvalidError struct {
	Field  string // as in the payload: "text", "id", "fields[kind]"
	Reason Reason
	Detail string // with the bound and what was found
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }

// Permanent marks the error for [Classify].
func (e *InvalidError) Permanent() bool { return true }

// Code is the label for [Code].
func (e *InvalidError) Code() string { return "invalid_" + string(e.Reason) }

func invalid(field string, r Reason, format string, args ...any) error {
	return &InvalidError{Field: field, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// A PayloadError says that a payload is not what the wire contract describes. It is permanent.
type PayloadError struct{ Err error }

func (e *PayloadError) Error() string { return "decoding payload: " + e.Err.Error() }

func (e *PayloadError) Unwrap() error { return e.Err }

// Permanent marks the error for [Classify].
func (e *PayloadError) Permanent() bool { return true }

// Code is the label for [Code].
func (e *PayloadError) Code() string { return "bad_payload" }

// A VersionError says that a payload is of a version this worker does not know. The task is set aside for
// a newer worker.
type VersionError struct{ Version int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("payload has version %d, this worker knows %d only: a newer worker must take it",
		e.Version, payloadVersion)
}

// Code is the label for [Code].
func (e *VersionError) Code() string { return "unknown_version" }

// A ModelError says that a task strayed into the lane of another model. It is permanent: the lane's
// workers will not change their model.
type ModelError struct{ Task, Worker string }

func (e *ModelError) Error() string {
	return fmt.Sprintf("task is for model %q, this worker serves %q: enqueue it in that model's lane", e.Task, e.Worker)
}

// Permanent marks the error for [Classify].
func (e *ModelError) Permanent() bool { return true }

// Code is the label for [Code].
func (e *ModelError) Code() string { return "wrong_model" }

// A PanicError is a panic that [Handler.HandleBatch] caught. It is permanent: the same text would most likely
// meet the same bug again, and as a dead letter it can be replayed once the bug is mended.
type PanicError struct {
	Value any
	Stack []byte // of the panicking goroutine
}

func (e *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.Value) }

// Permanent marks the error for [Classify].
func (e *PanicError) Permanent() bool { return true }

// Code is the label for [Code].
func (e *PanicError) Code() string { return "panic" }

// AsPermanent wraps err so that [Classify] calls it permanent. It returns nil for nil.
func AsPermanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error   { return e.error }
func (e *permanentError) Permanent() bool { return true }

// Code returns the bounded word for err that a metric's label or a dead letter's cause may carry: what the
// outermost error with a Code method says, else the outcome.
func Code(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return string(Classify(err))
}
