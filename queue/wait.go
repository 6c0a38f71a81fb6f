package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
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

// An OpenError says that waiting ended before every task was done or dead: Redis could not be asked, or ctx ended.
type OpenError struct {
	Open  []Receipt // whose end was not seen; a [Client.Wait] for these goes on where this one ended
	Total int
	Err   error
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("waiting for tasks: %d of %d still open: %v", len(e.Open), e.Total, e.Err)
}

func (e *OpenError) Unwrap() error { return e.Err }

// Away reports whether err says that Redis could not be reached or was not ready, which passes, and not that it
// refused what it was asked.
func Away(err error) bool {
	if _, answered := errors.AsType[redis.Error](err); !answered {
		return err != nil
	}
	for _, prefix := range []string{"LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "BUSY"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}

// Wait returns when every accepted task of receipts is done or dead, with the dead ones; or else with an
// [*OpenError], when Redis could not be asked or ctx ended. It calls progress, which may be nil, after every look at
// the queue, from the caller's goroutine.
//
// A task that is no longer known, has no dead letter and was not cancelled counts as done: that is how asynq
// remembers success. So does one that expired, or that Redis lost. Whoever must be sure asks the store.
func (c *Client) Wait(ctx context.Context, receipts []Receipt, progress func(Progress)) ([]Failure, error) {
	w := c.waiter(receipts)
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := w.poll(ctx)
		if err == nil && progress != nil {
			progress(w.count())
		}
		if err == nil && w.count().Finished() {
			return w.failures, nil
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-ticker.C:
				continue
			}
		}
		return w.failures, &OpenError{Open: slices.Clone(w.open), Total: w.progress.Total, Err: err}
	}
}

// Look is Wait that does not wait: it looks at each task once, and returns the dead ones and those that are open.
func (c *Client) Look(ctx context.Context, receipts []Receipt) (failures []Failure, open []Receipt, err error) {
	w := c.waiter(receipts)
	for left := len(w.open); left > 0; {
		looked := min(left, pollTasks)
		if err := w.poll(ctx); err != nil {
			return w.failures, w.open, fmt.Errorf("looking at %d tasks: %w", len(receipts), err)
		}
		left -= looked
	}
	return w.failures, w.open, nil
}

// A waiter is one call of Wait under way.
type waiter struct {
	rdb      redis.UniversalClient
	letters  wire.Letters
	open     []Receipt       // the next to look at comes first
	retrying map[string]bool // ids of open
	failures []Failure
	progress Progress
}

func (c *Client) waiter(receipts []Receipt) *waiter {
	w := &waiter{rdb: c.rdb, letters: wire.NewLetters(c.rdb), progress: Progress{Total: len(receipts)}, retrying: map[string]bool{}}
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
	return w
}

// count returns the progress.
func (w *waiter) count() Progress {
	w.progress.Retrying = len(w.retrying)
	w.progress.Open = len(w.open) - len(w.retrying)
	return w.progress
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
				w.bury(letterFailure(letter))
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

// dead returns the dead letters of tasks that left their lane, by id, in whichever lane they died, and of those that
// were cancelled what looks like one. A letter is there before its task is gone.
func (w *waiter) dead(ctx context.Context, gone []Receipt) (map[string]wire.Letter, error) {
	models := map[string][]string{} // ids
	for _, r := range gone {
		models[r.Model] = append(models[r.Model], r.ID)
	}
	found := map[string]wire.Letter{}
	for model, ids := range models {
		lanes, err := w.letters.Lanes(ctx, model)
		if err != nil {
			return nil, err
		}
		for _, lane := range lanes {
			letters, err := w.letters.Read(ctx, model, lane, ids)
			if err != nil {
				return nil, err
			}
			for _, l := range letters {
				found[l.ID] = l
			}
		}
	}
	return found, w.cancelled(ctx, gone, found)
}

// cancelled adds those that left because they were cancelled.
func (w *waiter) cancelled(ctx context.Context, gone []Receipt, found map[string]wire.Letter) error {
	if len(gone) == 0 {
		return nil
	}
	cmds := make([]*redis.FloatCmd, len(gone))
	_, err := w.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, r := range gone {
			cmds[i] = pipe.ZScore(ctx, wire.KeysOf(r.Model, r.Lane).Cancelled(), r.ID)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for i, r := range gone {
		if at, err := cmds[i].Result(); err == nil {
			found[r.ID] = wire.Letter{ID: r.ID, Model: r.Model, Lane: r.Lane, Code: string(tasks.Revoked),
				Message: cancelledText, Last: time.Unix(int64(at), 0)}
		}
	}
	return nil
}

// follow looks in the other lanes for tasks that left theirs, to quarantine or because somebody moved them, and
// corrects receipts and states. A task is there before it leaves, so that none is missed in between.
func (w *waiter) follow(ctx context.Context, list []Receipt, states []string) error {
	for _, lane := range tasks.Lanes {
		var left []Receipt
		var indexes []int
		for i, r := range list {
			if states[i] == "" && r.Lane != lane {
				r.Lane = lane
				left, indexes = append(left, r), append(indexes, i)
			}
		}
		found, err := w.fields(ctx, left, "state")
		if err != nil {
			return err
		}
		for n, state := range found {
			if state != "" {
				list[indexes[n]], states[indexes[n]] = left[n], state
			}
		}
	}
	return nil
}

// fields reads one field of each task's hash, "" where there is none.
func (w *waiter) fields(ctx context.Context, list []Receipt, field string) ([]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	cmds := make([]*redis.StringCmd, len(list))
	_, err := w.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, r := range list {
			cmds[i] = pipe.HGet(ctx, wire.KeysOf(r.Model, r.Lane).Task(r.ID), field)
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
	m, err := wire.ParseMessage(msg)
	if err != nil {
		return Failure{ID: id, Cause: err.Error()}
	}
	return Failure{ID: id, Kind: tasks.Kind(m.Type), Cause: m.ErrorMsg, Retried: m.Retried, FailedAt: m.LastFailedAt}
}

// letterFailure is a dead letter in the form in which [Client.Wait] reports it.
func letterFailure(l wire.Letter) Failure {
	return Failure{
		ID: l.ID, Model: l.Model, Lane: l.Lane, Kind: l.Kind, Cause: l.Message,
		Retried: max(0, l.Attempts-1), FailedAt: l.Last,
	}
}
