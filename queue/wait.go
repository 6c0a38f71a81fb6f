package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// pollEvery and pollTasks bound what waiting costs Redis: at most 10,000 reads a second.
	pollEvery = 100 * time.Millisecond
	pollTasks = 1000
)

// A Progress counts what became of the tasks somebody waits for.
type Progress struct {
	Total    int
	Done     int
	Failed   int // dead: they will not run again by themselves
	Retrying int // failed at least once and waiting for the next try
	Open     int // everything else: waiting or running
	// LastCause is the cause of the latest failure seen, of a dead or a retrying task.
	LastCause string
}

// Finished reports whether nothing is left to wait for.
func (p Progress) Finished() bool { return p.Done+p.Failed == p.Total }

// A Failure is a task that is dead, and why.
type Failure struct {
	ID       string
	Model    string
	Lane     tasks.Lane
	Kind     tasks.Kind
	Cause    string    // of the last failure
	Retried  int       // how often it had failed before
	FailedAt time.Time // to the second
}

// Wait returns when every accepted task of receipts is done or dead, with the dead ones, or when ctx ends.
// It calls progress, which may be nil, after every look at the queue, from the caller's goroutine.
//
// A task that is no longer known counts as done: that is how asynq remembers success. Whoever must be
// sure asks the store.
func (c *Client) Wait(ctx context.Context, receipts []Receipt, progress func(Progress)) ([]Failure, error) {
	w := &waiter{rdb: c.rdb, progress: Progress{Total: len(receipts)}, retrying: map[string]bool{}}
	for _, r := range receipts {
		switch {
		case !r.State.Accepted():
			w.progress.Total--
		case r.State == Done:
			w.progress.Done++
		default:
			w.open = append(w.open, r)
		}
	}
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if err := w.poll(ctx); err != nil {
			return w.failures, fmt.Errorf("waiting for tasks: %w", err)
		}
		w.progress.Retrying = len(w.retrying)
		w.progress.Open = len(w.open) - len(w.retrying)
		if progress != nil {
			progress(w.progress)
		}
		if w.progress.Finished() {
			return w.failures, nil
		}
		select {
		case <-ctx.Done():
			return w.failures, fmt.Errorf("waiting for tasks: %d of %d still open: %w",
				len(w.open), w.progress.Total, ctx.Err())
		case <-ticker.C:
		}
	}
}

// A waiter is one call of Wait under way.
type waiter struct {
	rdb      redis.UniversalClient
	open     []Receipt       // the next to look at comes first
	retrying map[string]bool // ids of open
	failures []Failure
	progress Progress
}

// poll looks at the next few open tasks and puts those that stay open to the end of the row. Nothing
// changes if it fails.
func (w *waiter) poll(ctx context.Context) error {
	looked := w.open[:min(len(w.open), pollTasks)]
	states, err := w.fields(ctx, looked, "state")
	if err != nil {
		return err
	}
	if err := w.follow(ctx, looked, states); err != nil {
		return err
	}
	var failed []Receipt // these have a cause to tell
	for i, r := range looked {
		if states[i] == "archived" || states[i] == "retry" {
			failed = append(failed, r)
		}
	}
	msgs, err := w.fields(ctx, failed, "msg")
	if err != nil {
		return err
	}
	var kept []Receipt
	for i, r := range looked {
		delete(w.retrying, r.ID)
		switch states[i] {
		case "", "completed":
			w.progress.Done++
		case "archived":
			w.failures = append(w.failures, w.failure(r, msgs[0]))
			w.progress.Failed++
			msgs = msgs[1:]
		case "retry":
			w.failure(r, msgs[0])
			w.retrying[r.ID] = true
			kept, msgs = append(kept, r), msgs[1:]
		default:
			kept = append(kept, r)
		}
	}
	w.open = append(w.open[len(looked):], kept...)
	return nil
}

// follow looks for tasks that left their lane in the quarantine lane, and corrects receipts and states. A
// task is there before it leaves, so that none is missed in between.
func (w *waiter) follow(ctx context.Context, list []Receipt, states []string) error {
	var left []Receipt
	var indexes []int
	for i, r := range list {
		if states[i] == "" && r.Lane != tasks.Quarantine {
			r.Lane = tasks.Quarantine
			left, indexes = append(left, r), append(indexes, i)
		}
	}
	found, err := w.fields(ctx, left, "state")
	for n, state := range found {
		if state != "" {
			list[indexes[n]], states[indexes[n]] = left[n], state
		}
	}
	return err
}

// fields reads one field of each task's hash, "" where there is none.
func (w *waiter) fields(ctx context.Context, list []Receipt, field string) ([]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	cmds := make([]*redis.StringCmd, len(list))
	_, err := w.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, r := range list {
			cmds[i] = pipe.HGet(ctx, keysOf(r.Model, r.Lane).task(r.ID), field)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	values := make([]string, len(list))
	for i, cmd := range cmds {
		if values[i], err = cmd.Result(); err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
	}
	return values, nil
}

// failure reads a failed task's message and remembers its cause as the latest.
func (w *waiter) failure(r Receipt, msg string) Failure {
	f := failureOf(r.ID, []byte(msg))
	f.Model, f.Lane = r.Model, r.Lane
	if f.Cause != "" {
		w.progress.LastCause = f.Cause
	}
	return f
}

// failureOf reads a failure out of a task's message. A message that can't be read is itself a cause.
func failureOf(id string, msg []byte) Failure {
	m, err := parseMessage(msg)
	if err != nil {
		return Failure{ID: id, Cause: err.Error()}
	}
	return Failure{ID: id, Kind: tasks.Kind(m.Type), Cause: m.ErrorMsg, Retried: m.Retried, FailedAt: m.LastFailedAt}
}
