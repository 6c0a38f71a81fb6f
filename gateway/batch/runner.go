package batch

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	lookEvery  = time.Second      // for batches that nobody drives
	leaseTime  = 15 * time.Second // of a batch; who dies is followed within that
	renewEvery = leaseTime / 3
	atOnce     = 4 // batches that one runner drives
)

// A Work is what one line asks for: texts to be embedded, and the answer of their vectors.
type Work struct {
	Tasks  []tasks.Task
	Answer func([]vector.Embedding) Reply
}

// A Reply is the answer to a line: an HTTP status and the body that the same request would have got.
type Reply struct {
	Status int
	Body   []byte
}

// An Interpreter understands lines.
type Interpreter interface {
	// Interpret reads the body of a line for an endpoint; a request that makes no sense is a reply, not a work.
	Interpret(endpoint string, body []byte) (*Work, *Reply)
	// Refuse makes a reply of why a text was not embedded.
	Refuse(err error) Reply
}

// A Queue takes tasks. A task whose id waits or runs already is not taken twice.
type Queue interface {
	// Enqueue returns what became of each task, in their order; the error says that Redis failed.
	Enqueue(ctx context.Context, list []tasks.Task) ([]Receipt, error)
	// Cancel ends tasks that nobody wants any more.
	Cancel(ctx context.Context, list []tasks.Task) error
}

// A Receipt tells what became of a task.
type Receipt struct {
	Full bool  // there is no room now
	Err  error // the task is dead, or can't be enqueued: it will have no answer
}

// An Outcome is the answer to a task.
type Outcome struct {
	Embedding vector.Embedding
	Err       error
}

// Collector looks for the answers of tasks and leaves them where they are: what is not there yet is not in the map.
type Collector interface {
	Collect(ctx context.Context, ids []string) (map[string]Outcome, error)
}

// Parts are what a runner works with. All are needed.
type Parts struct {
	Ledger      Ledger
	Interpreter Interpreter
	Queue       Queue
	Answers     Collector
}

// A Runner drives batches. Any number of them may run on one ledger.
type Runner struct {
	log   *slog.Logger
	owner string
	Parts

	mu      sync.Mutex
	driving map[string]bool
}

// NewRunner returns a runner that calls itself owner, which must be its own.
func NewRunner(log *slog.Logger, owner string, p Parts) *Runner {
	return &Runner{log: log, owner: owner, Parts: p, driving: make(map[string]bool)}
}

// Run drives batches until ctx ends, then returns nil; what is under way goes on where a runner finds it next.
func (r *Runner) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	quiet := false // an outage of the ledger is told once
	for {
		err := r.look(ctx, &group)
		if err != nil && !quiet && ctx.Err() == nil {
			r.log.WarnContext(ctx, "batches can't be looked at", "err", err)
		}
		quiet = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look starts to drive batches that nobody drives.
func (r *Runner) look(ctx context.Context, group *sync.WaitGroup) error {
	active, err := r.Ledger.Active(ctx)
	if err != nil {
		return err
	}
	for _, id := range active {
		if !r.take(id) {
			continue
		}
		mine, err := r.Ledger.Lease(ctx, id, r.owner, leaseTime)
		if err != nil || !mine {
			r.leave(id)
			if err != nil {
				return err
			}
			continue
		}
		group.Go(func() {
			defer r.leave(id)
			if err := r.hold(ctx, id); err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "batch was interrupted, and will be taken up again", "batch", id, "err", err)
			}
		})
	}
	return nil
}

// take reports whether a batch is to be driven by this runner now.
func (r *Runner) take(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.driving[id] || len(r.driving) >= atOnce {
		return false
	}
	r.driving[id] = true
	return true
}

func (r *Runner) leave(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.driving, id)
}

var errLost = errors.New("the lease was lost")

// hold drives a batch while its lease holds.
func (r *Runner) hold(ctx context.Context, id string) error {
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	var renewing sync.WaitGroup
	renewing.Go(func() { r.renew(ctx, id, lose) })
	err := r.drive(ctx, id)
	lose(nil)
	renewing.Wait()
	if errors.Is(context.Cause(ctx), errLost) {
		return err
	}
	// Whoever takes it up need not wait for the lease to end.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, releaseErr := r.Ledger.Lease(last, id, r.owner, time.Millisecond); releaseErr != nil {
		r.log.DebugContext(ctx, "lease was not given back", "batch", id, "err", releaseErr)
	}
	return err
}

// renew keeps the lease until ctx ends. A ledger that is away for longer than the lease has given it to somebody else.
func (r *Runner) renew(ctx context.Context, id string, lose context.CancelCauseFunc) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		mine, err := r.Ledger.Lease(ctx, id, r.owner, leaseTime)
		switch {
		case err == nil && mine:
			last = time.Now()
		case err == nil || time.Since(last) > leaseTime:
			lose(errLost)
			return
		}
	}
}
