package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// deadlineFactor is how many times its estimated work a text may take: estimates are rough, and a worker may be
	// given less of its cores than when they were learned.
	deadlineFactor = 20
	// defaultTimeout is for producers that say nothing.
	defaultTimeout = 2 * time.Minute
	// overdueGrace is how long after its deadline a task may stay inside the handler before it has failed all the same: a
	// handler that is deaf to its context must not keep it for ever.
	overdueGrace = 10 * time.Second
	// overtaken is how many times what a pool has in hand a task may be left without a native call, beyond its own
	// bound, before it is taken for forgotten.
	overtaken = 4
)

// The causes of the end of a task's context.
var (
	errLeaseLost = errors.New("the lease is lost: the task may be another worker's")
	errGivenBack = fmt.Errorf("the worker stops, the task is given back: %w", context.Canceled)
)

// deadlineError is a text whose own work took too long, or that its handler has lost.
type deadlineError struct {
	after     time.Duration
	forgotten bool
}

func (e deadlineError) Error() string {
	if e.forgotten {
		return fmt.Sprintf("it was in hand, and the model did not work on it for much longer than its %v: the handler has lost it", e.after)
	}
	return fmt.Sprintf("the model worked on it for %v and did not finish", e.after)
}
func (e deadlineError) Is(target error) bool { return target == context.DeadlineExceeded }
func (e deadlineError) Code() string         { return wire.CodeTimeout }

// revokedError is the end of a task that was cancelled.
type revokedError struct{}

func (revokedError) Error() string { return "the task was cancelled" }
func (revokedError) Revoked() bool { return true }
func (revokedError) Code() string  { return string(tasks.Revoked) }

// expiredError is the end of a task that nobody waits for any more.
type expiredError struct{}

func (expiredError) Error() string { return "the task's time to be of use has passed" }
func (expiredError) Expired() bool { return true }
func (expiredError) Code() string  { return string(tasks.Expired) }

// A run is one task in hand: from its lease until it is settled.
type run struct {
	task    tasks.Task
	message *wire.Message
	raw     string  // the message as it lay in Redis
	work    float64 // estimated, in tokens
	leased  time.Time
	place   int // in the lease
	batch   *batch

	ctx    context.Context //nolint:containedctx // the task's own
	cancel context.CancelCauseFunc
	clock  clock

	mu      sync.Mutex
	decided bool // somebody has decided what becomes of it
	byTool  bool // it was cancelled by a tool of asynq's, which leaves no mark
}

// decide reports true to the first who asks: whoever decides about a task settles it.
func (r *run) decide() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.decided
	r.decided = true
	return first
}

// revoke ends a task that was cancelled.
func (r *run) revoke(byTool bool) {
	r.mu.Lock()
	r.byTool = r.byTool || byTool
	r.mu.Unlock()
	r.cancel(revokedError{})
}

func (r *run) cancelledByTool() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byTool
}

// A clock counts the time that the model spends on a text, by the native calls that have rows of it, and ends the
// text's context when that is too much. What the text waits for others, before, between and after, does not count.
type clock struct {
	mu      sync.Mutex
	bound   time.Duration
	spent   time.Duration
	inside  int       // native calls under way
	entered time.Time // the first of them
	timer   *time.Timer
	expired time.Time // zero: it has not
	seen    time.Time // when a native call last began or ended; at first, when the task was leased
	expire  func()
}

func (c *clock) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside++; c.inside > 1 || c.bound <= 0 {
		return
	}
	c.entered = time.Now()
	c.timer = time.AfterFunc(c.bound-c.spent, c.end)
}

// end ends the text's context.
func (c *clock) end() {
	c.mu.Lock()
	if c.expired.IsZero() {
		c.expired = time.Now()
	}
	c.mu.Unlock()
	c.expire()
}

// idle returns since when no native call has had anything of the text, 0 if one has.
func (c *clock) idle() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside > 0 {
		return 0
	}
	return time.Since(c.seen)
}

func (c *clock) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inside--
	c.seen = time.Now()
	if c.inside > 0 || c.timer == nil {
		return
	}
	c.timer.Stop()
	c.spent += time.Since(c.entered)
	c.timer = nil
}

// overdue returns how long ago the clock ran out, 0 if it has not.
func (c *clock) overdue() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expired.IsZero() {
		return 0
	}
	return max(1, time.Since(c.expired))
}

// bound is how long a text's own work may take: what its producer says or a multiple of the estimate, and no more than
// the operator says.
func bound(timeout time.Duration, work, rate float64, most time.Duration) time.Duration {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	b := max(timeout, time.Duration(deadlineFactor*work/rate*float64(time.Second)))
	if most > 0 {
		b = min(b, most)
	}
	return b
}

// runKey is the key of the run in an item's context.
type runKey struct{}

func runOf(ctx context.Context) *run {
	r, _ := ctx.Value(runKey{}).(*run)
	return r
}

// TaskFrom returns the task that an item's context belongs to. It reports false for any other context.
func TaskFrom(ctx context.Context) (tasks.Task, bool) {
	if r := runOf(ctx); r != nil {
		return r.task, true
	}
	return tasks.Task{}, false
}

// A Run is a task in hand, for who looks on.
type Run struct {
	ID      string // the task's
	Lane    tasks.Lane
	Leased  time.Time
	Work    float64       // estimated, in tokens
	Overdue time.Duration // since its deadline passed; 0 while it has not
}

// undecided reports whether the handler has not reported the task.
func (r *run) undecided() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.decided
}
