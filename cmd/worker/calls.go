package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// callWait is when naming is not tried again. It is one round trip, for which a core idles; if Redis is
	// there but does not answer, the client's own timeout ends the first try.
	callWait = 250 * time.Millisecond
	// callRest is how long nothing is named after that failed: batches would wait for a Redis that is away,
	// and the log would fill.
	callRest = 10 * time.Second
)

// A callRecord keeps in Redis which tasks are inside a native call, for the others to know whom to charge if
// this process dies in one. It is a record of suspicion only: without it a batch runs all the same.
type callRecord struct {
	log   *slog.Logger
	calls *queue.Calls
	ends  sync.WaitGroup // the writes that take names back

	mu    sync.Mutex
	rests time.Time // until then nothing is named
}

// begin names the tasks of callers, and returns what takes the names back. It is an OnCall of the engine.
//
// Taking back doesn't keep the runner: it is late by a moment, in which a crash would charge a task once
// that is innocent, and that is no verdict.
func (r *callRecord) begin(callers []context.Context) (returned func()) {
	nothing := func() {}
	var list []tasks.Task
	for _, ctx := range callers {
		if t, ok := queue.TaskFrom(ctx); ok {
			list = append(list, t)
		}
	}
	if len(list) == 0 || r.resting() {
		return nothing
	}
	// Not a caller's context: the batch outlives the callers that leave it.
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	over, err := r.calls.Begin(ctx, list)
	if err != nil {
		r.rest(err)
		return nothing
	}
	return func() {
		forget := over()
		r.ends.Go(func() { r.forget(forget) })
	}
}

func (r *callRecord) forget(forget queue.Forget) {
	ctx, cancel := context.WithTimeout(context.Background(), callWait)
	defer cancel()
	if err := forget(ctx); err != nil {
		r.rest(err)
	}
}

func (r *callRecord) resting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.rests)
}

// rest begins a rest, unless it has begun; so a failure is logged once in it.
func (r *callRecord) rest(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.After(r.rests) {
		r.rests = now.Add(callRest)
		r.log.Warn("naming the tasks of native calls failed, they go unnamed", "for", callRest, "err", err)
	}
}

// wait returns when the last names are taken back. No call may begin any more.
func (r *callRecord) wait() { r.ends.Wait() }
