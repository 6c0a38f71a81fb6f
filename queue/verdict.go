package queue

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hibiken/asynq"

	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// minDelay and maxDelay bound the back-off of a failed task.
	minDelay = 2 * time.Second
	maxDelay = 10 * time.Minute
	// overloadDelay is how long a task waits that found no room; it doubles at most by jitter, for the
	// lack of room is over in seconds.
	overloadDelay = time.Second
	// maxCause bounds a cause in Redis.
	maxCause = 1000
)

// A verdict is a handler's error on its way through asynq, with what is to happen next.
type verdict struct {
	outcome tasks.Outcome
	err     error
}

// judge returns nil for nil, else a verdict.
func judge(err error) error {
	if err == nil {
		return nil
	}
	return &verdict{outcome: tasks.Classify(err), err: err}
}

// Error returns the cause as it is kept in Redis. Broken UTF-8 is mended, since asynq could not encode its
// message with it and would neither retry nor archive the task.
func (v *verdict) Error() string {
	cause := v.err.Error()
	if len(cause) > maxCause {
		cause = cause[:maxCause] + " ..."
	}
	return strings.ToValidUTF8(cause, "�")
}

func (v *verdict) Unwrap() error { return v.err }

// Is makes a permanent verdict what asynq archives at once, and one that nobody wants what it forgets.
func (v *verdict) Is(target error) bool {
	return target == asynq.SkipRetry && v.outcome == tasks.Permanent ||
		target == asynq.RevokeTask && forgotten(v.outcome)
}

// outcomeOf judges an error that asynq hands to a callback: a verdict of ours, or an error of its own, of
// which only a cancellation is nobody's failure. A lost lease stays one, for where no reaper runs it is
// what bounds a task that kills its process.
func outcomeOf(err error) tasks.Outcome {
	var v *verdict
	switch {
	case errors.As(err, &v):
		return v.outcome
	case errors.Is(err, context.Canceled):
		return tasks.Cancelled
	default:
		return tasks.Retry
	}
}

// isFailure tells asynq whether to count err against the task's retries.
func isFailure(err error) bool {
	outcome := outcomeOf(err)
	return outcome == tasks.Retry || outcome == tasks.Permanent
}

// forgotten reports whether an outcome ends a task without a trace.
func forgotten(outcome tasks.Outcome) bool {
	return outcome == tasks.Expired || outcome == tasks.Revoked
}

// retryDelay tells asynq how long a task waits that failed n times before.
func retryDelay(n int, err error, _ *asynq.Task) time.Duration {
	switch outcomeOf(err) {
	case tasks.Cancelled:
		return 0
	case tasks.Overloaded:
		return overloadDelay + rand.N(overloadDelay)
	default:
		return backOff(n)
	}
}

// backOff doubles from failure to failure and lies in the upper half of its bound, so that tasks that
// failed together do not come back together: 2 to 4 s, 4 to 8 s ... 5 to 10 min.
func backOff(n int) time.Duration {
	bound := maxDelay
	if n < 8 { // 2 x minDelay x 2^8 is beyond maxDelay
		bound = min(maxDelay, 2*minDelay<<max(0, n))
	}
	return bound/2 + rand.N(bound/2)
}

// guarded calls a callback of asynq's, which does not recover from their panics (T22): one would end the
// process.
func guarded[T any](log *slog.Logger, name string, fallback T, f func() T) (result T) {
	defer func() {
		if v := recover(); v != nil {
			log.Error("queue callback panicked", "callback", name, "panic", v)
			result = fallback
		}
	}()
	return f()
}
