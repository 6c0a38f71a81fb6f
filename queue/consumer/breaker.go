package consumer

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// tripAfter is how many tasks in a row must fail in a way that is worth a retry, with none done in
	// between, before the fault is taken for the store's, Redis's or the model's and not for theirs.
	tripAfter = 16
	// minHold and maxHold bound the pauses between two probes.
	minHold = 2 * time.Second
	maxHold = time.Minute
)

// A breaker is a circuit breaker: it opens while the fault is not the tasks' own, so that an hour without a
// store costs the tasks nothing instead of all their retries. It belongs to one process: the fault may too.
//
// While it is open, one task at a time is let through as a probe. The probe alone is charged if it fails, so
// that even lanes in which every task is at fault come to an end.
type breaker struct {
	mu     sync.Mutex
	failed map[string]bool // tasks in a row
	cause  error           // why it is open; nil while it is closed
	since  time.Time       // it opened
	until  time.Time       // when the next probe may go
	pause  time.Duration   // before the next but one
	probe  bool            // one is under way
}

func newBreaker() *breaker { return &breaker{failed: map[string]bool{}} }

// allow returns how many tasks may be leased now, and whether they are a probe; none means to ask again after wait. A
// probe is to be recorded, or cancelled.
func (b *breaker) allow() (n int, probe bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.cause == nil:
		return math.MaxInt, false, 0
	case b.probe:
		return 0, false, minHold / 4
	case time.Until(b.until) > 0:
		return 0, false, min(time.Until(b.until), minHold/4)
	}
	b.probe = true
	return 1, true, 0
}

// cancel ends a probe that tells nothing.
func (b *breaker) cancel(probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probe = b.probe && !probe
}

// record takes note of how a task ended, and reports whether a failure is the task's own.
func (b *breaker) record(id string, probe bool, outcome tasks.Outcome, err error) (own bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probe = b.probe && !probe
	switch outcome {
	case tasks.Done, tasks.Permanent: // the way through the house is free
		clear(b.failed)
		b.cause = nil
		return true
	case tasks.Retry:
	default:
		return true
	}
	switch {
	case b.cause != nil && probe:
		b.until = time.Now().Add(b.pause)
		b.pause = min(2*b.pause, maxHold)
		return true
	case b.cause != nil: // it was under way when the breaker opened
		return false
	}
	b.failed[id] = true
	if len(b.failed) >= tripAfter {
		clear(b.failed)
		b.cause, b.since = err, time.Now()
		b.until, b.pause = b.since.Add(minHold), 2*minHold
	}
	return true
}

// open returns since when and why tasks are held back, nil if they are not.
func (b *breaker) open() (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since, b.cause
}

// heldText is what a task is told that failed while everybody did.
func heldText(cause error) error { return fmt.Errorf("the lane is held back: %w", cause) }
