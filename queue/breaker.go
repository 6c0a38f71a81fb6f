package queue

import (
	"context"
	"errors"
	"fmt"
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

// A breaker holds the lanes of a pool back while the fault is not the tasks' own, so that an hour without a
// store costs the tasks nothing instead of all their retries. It belongs to one process: the fault may too.
//
// While it holds, one task at a time is let through as a probe. The probe alone is charged if it fails, so
// that even lanes in which every task is at fault come to an end.
type breaker struct {
	mu      sync.Mutex
	failed  map[string]bool // tasks in a row; nil while it holds
	cause   error           // of the hold, nil while there is none
	since   time.Time       // of the hold
	until   time.Time       // when the next probe may go
	pause   time.Duration   // before the next but one
	probe   string          // task under way as a probe, "" for none
	changed chan struct{}   // closed and replaced when somebody who waits should look again
	closed  bool            // the server stops: nobody is worth waiting for
}

func newBreaker() *breaker {
	return &breaker{failed: map[string]bool{}, changed: make(chan struct{})}
}

// heldError is the end of a task's wait for the fault to go away, or its failure while everybody fails. It is
// nobody's failure.
type heldError struct{ cause error }

func (e *heldError) Error() string    { return fmt.Sprintf("the lane is held back: %v", e.cause) }
func (e *heldError) Unwrap() error    { return e.cause }
func (e *heldError) Overloaded() bool { return true }
func (e *heldError) Permanent() bool  { return false }
func (e *heldError) Code() string     { return "held" }

// free reports whether nobody is held back.
func (b *breaker) free() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause == nil
}

// close ends every wait: a worker that stops has no time to see whether the fault goes away.
func (b *breaker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.wake()
}

// enter waits until the task may run. After an error it may not.
func (b *breaker) enter(ctx context.Context, id string) error {
	for {
		b.mu.Lock()
		wait := time.Until(b.until)
		if cause := b.cause; b.closed && cause != nil {
			b.mu.Unlock()
			return &heldError{cause}
		}
		if b.cause == nil || b.probe == "" && wait <= 0 {
			if b.cause != nil {
				b.probe = id
			}
			b.mu.Unlock()
			return nil
		}
		if b.probe != "" {
			wait = maxHold // until it is over, which changed tells
		}
		cause, changed := b.cause, b.changed
		b.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return &heldError{cause}
		case <-timer.C:
		case <-changed:
			timer.Stop()
		}
	}
}

// leave takes a task's verdict and returns the one that counts: a failure that is not the task's own becomes
// one that charges nobody.
func (b *breaker) leave(id string, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	outcome := outcomeOf(err)
	if err == nil || outcome == tasks.Permanent { // the way through the house is free
		b.reset()
		return err
	}
	probe := b.probe == id
	if probe {
		b.probe = ""
		defer b.wake()
	}
	if outcome != tasks.Retry {
		return err
	}
	switch {
	case probe:
		b.until = time.Now().Add(b.pause)
		b.pause = min(2*b.pause, maxHold)
		return err
	case b.cause != nil: // it was under way when the hold began
		return judge(&heldError{err})
	}
	b.failed[id] = true
	if len(b.failed) >= tripAfter {
		b.cause, b.since, b.failed = err, time.Now(), nil
		b.until, b.pause = b.since.Add(minHold), 2*minHold
	}
	return err
}

// reset ends a hold and forgets the failures. The caller holds the lock.
func (b *breaker) reset() {
	if len(b.failed) > 0 || b.failed == nil {
		b.failed = map[string]bool{}
	}
	if b.cause != nil {
		b.cause, b.probe = nil, ""
		b.wake()
	}
}

// wake has everybody who waits look again. The caller holds the lock.
func (b *breaker) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// held returns since when and why tasks are held back, nil if they are not.
func (b *breaker) held() (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since, b.cause
}
