package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	Cause    string // of the last failure
	Retried  int    // how often it had failed before
	FailedAt time.Time
}

// Wait returns when every accepted task of receipts is done or dead, with the dead ones, or when ctx ends.
// It calls progress, which may be nil, after every look at the queue, from the caller's goroutine.
//
// A task that is no longer known, has no dead letter and was not cancelled counts as done: that is how asynq
// remembers success. So does one that expired. Whoever must be
// sure asks the store.
func (c *Client) Wait(ctx context.Context, receipts []Receipt, progress func(Progress)) ([]Failure, error) {
	w := &waiter{rdb: c.rdb, letters: NewDead(c.rdb), progress: Progress{Total: len(receipts)}, retrying: map[string]bool{}}
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
	letters  *Dead
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
	var failed, gone []Receipt // the first have a cause to tell, the second perhaps a dead letter
	for i, r := range looked {
		switch states[i] {
		case "archived", "retry":
			failed = append(failed, r)
		case "":
			gone = append(gone, r)
		}
	}
	msgs, err := w.fields(ctx, failed, "msg")
	if err != nil {
		return err
	}
	dead, err := w.dead(ctx, gone)
	if err != nil {
		return err
	}
	var kept []Receipt
	for i, r := range looked {
		delete(w.retrying, r.ID)
		switch states[i] {
		case "", "completed":
			if letter, ok := dead[r.ID]; ok && states[i] == "" {
				w.bury(letter.failure())
				continue
			}
			w.progress.Done++
		case "archived": // Maintenance will make a letter of it
			w.bury(w.failure(r, msgs[0]))
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

// bury counts a task as dead.
func (w *waiter) bury(f Failure) {
	if f.Cause != "" {
		w.progress.LastCause = f.Cause
	}
	w.failures = append(w.failures, f)
	w.progress.Failed++
}

// dead returns the dead letters of tasks that left their lane, by id: from the lane, or from quarantine. A
// letter is there before its task is gone.
func (w *waiter) dead(ctx context.Context, gone []Receipt) (map[string]Letter, error) {
	lanes := map[[2]string][]string{} // model and lane -> ids
	for _, r := range gone {
		for _, lane := range slices.Compact([]tasks.Lane{r.Lane, tasks.Quarantine}) {
			key := [2]string{r.Model, string(lane)}
			lanes[key] = append(lanes[key], r.ID)
		}
	}
	found := map[string]Letter{}
	for key, ids := range lanes {
		letters, err := w.letters.read(ctx, key[0], tasks.Lane(key[1]), ids)
		if err != nil {
			return nil, err
		}
		for _, l := range letters {
			found[l.ID] = l
		}
	}
	return found, w.cancelled(ctx, gone, found)
}

// cancelled adds those that left because they were cancelled.
func (w *waiter) cancelled(ctx context.Context, gone []Receipt, found map[string]Letter) error {
	if len(gone) == 0 {
		return nil
	}
	cmds := make([]*redis.FloatCmd, len(gone))
	_, err := w.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, r := range gone {
			cmds[i] = pipe.ZScore(ctx, keysOf(r.Model, r.Lane).cancelled(), r.ID)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for i, r := range gone {
		if at, err := cmds[i].Result(); err == nil {
			found[r.ID] = Letter{ID: r.ID, Model: r.Model, Lane: r.Lane, Code: string(tasks.Revoked),
				Message: revokedError{}.Error(), Last: time.Unix(int64(at), 0)}
		}
	}
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
