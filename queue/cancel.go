package queue

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed cancel.lua
var cancelLua string

const (
	// cancelEvery is how often a server asks who was cancelled.
	cancelEvery = time.Second
	// cancelKept is how long a cancellation is remembered after its task is gone, so that whoever waits
	// for the task learns of it.
	cancelKept = 10 * time.Minute
	// cancelPage bounds what is read of a lane's cancellations at a time, the latest first.
	cancelPage = 10_000
)

// A Cancellation says what became of one task that was to be cancelled.
type Cancellation string

// The cancellations.
const (
	Removed Cancellation = "removed" // it waited and is gone
	Marked  Cancellation = "marked"  // it runs, or waits in a long line: it ends when a worker looks, within a second of running
	Missing Cancellation = "missing" // it is done, dead or was never there
)

// Cancel ends tasks of one lane that nobody wants any more: they are not retried and leave no dead letter.
// asynq's own cancellation only makes a task fail and come again (T14). Of a task that runs, the handler's
// context ends; if it returns nil all the same, the task is done. [Client.Wait] reports a cancelled task as
// failed.
func (l *Lanes) Cancel(ctx context.Context, model string, lane tasks.Lane, ids []string) ([]Cancellation, error) {
	if err := checkLane(model, lane); err != nil {
		return nil, fmt.Errorf("cancelling tasks: %w", err)
	}
	k := keysOf(model, lane)
	list := make([]Cancellation, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), callTasks)
		keys := []string{k.pending(), k.scheduled(), k.retry(), k.cancelled()}
		args := []any{time.Now().Unix()}
		for _, id := range ids[:n] {
			keys, args = append(keys, k.task(id)), append(args, id)
		}
		answers, err := l.cancel.Run(ctx, l.rdb, keys, args...).StringSlice()
		if err != nil {
			return list, fmt.Errorf("cancelling tasks: %w", err)
		}
		for _, answer := range answers {
			list = append(list, Cancellation(answer))
		}
		ids = ids[n:]
	}
	return list, nil
}

// revokedError is the cause of the end of a cancelled task's context.
type revokedError struct{}

func (revokedError) Error() string { return "the task was cancelled" }
func (revokedError) Revoked() bool { return true }
func (revokedError) Code() string  { return string(tasks.Revoked) }

// wantedError is the end of a run that was cancelled in vain: the task runs again, uncharged.
type wantedError struct{}

func (wantedError) Error() string    { return "the task was cancelled and is wanted again" }
func (wantedError) Overloaded() bool { return true }

// expiredError is the end of a task that nobody waits for any more.
type expiredError struct{}

func (expiredError) Error() string { return "the task's time to be of use has passed" }
func (expiredError) Expired() bool { return true }
func (expiredError) Code() string  { return string(tasks.Expired) }

// revocations knows which tasks of a server's lanes were cancelled, a second ago at most.
type revocations struct {
	log   *slog.Logger
	rdb   redis.UniversalClient
	lanes []laneKeys

	mu  sync.Mutex
	ids map[string]bool // of the tasks, without their lane: an id is one text of one document
}

func newRevocations(rdb redis.UniversalClient, alias string, lanes []tasks.Lane, o ServerOptions) *revocations {
	r := &revocations{log: o.Logger, rdb: rdb}
	for _, lane := range lanes {
		r.lanes = append(r.lanes, keysOf(alias, lane))
	}
	return r
}

func (r *revocations) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}

// confirmed asks whether the task is still cancelled, since somebody may have enqueued it again meanwhile.
// While Redis does not answer it is not.
func (r *revocations) confirmed(ctx context.Context, t tasks.Task) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	return r.rdb.ZScore(ctx, keysOf(t.Model, t.Lane).cancelled(), t.ID).Err() == nil
}

// run asks Redis until ctx ends, and calls revoke when the answer names somebody.
func (r *revocations) run(ctx context.Context, revoke func(has func(id string) bool)) {
	ticker := time.NewTicker(cancelEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		ids, err := r.read(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Debug("asking for cancelled tasks failed", "err", err) // and will be repeated in a second
			}
			continue
		}
		r.mu.Lock()
		r.ids = ids
		r.mu.Unlock()
		if len(ids) > 0 {
			revoke(r.has)
		}
	}
}

func (r *revocations) read(ctx context.Context) (map[string]bool, error) {
	cmds := make([]*redis.StringSliceCmd, len(r.lanes))
	_, err := r.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, k := range r.lanes {
			cmds[i] = pipe.ZRevRange(ctx, k.cancelled(), 0, cancelPage-1)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, cmd := range cmds {
		for _, id := range cmd.Val() {
			ids[id] = true
		}
	}
	return ids, nil
}

// forgetCancelled drops the marks of tasks that are gone for a while.
func (l laneSweep) forgetCancelled(ctx context.Context) error {
	old := strconv.FormatInt(time.Now().Add(-cancelKept).Unix(), 10)
	ids, err := l.rdb.ZRangeByScore(ctx, l.keys.cancelled(), &redis.ZRangeBy{Min: "-inf", Max: old, Count: cancelPage}).Result()
	if err != nil || len(ids) == 0 {
		return err
	}
	there := make([]*redis.IntCmd, len(ids))
	_, err = l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			there[i] = pipe.Exists(ctx, l.keys.task(id))
		}
		return nil
	})
	if err != nil {
		return err
	}
	var gone []any
	for i, id := range ids {
		if there[i].Val() == 0 {
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return l.rdb.ZRem(ctx, l.keys.cancelled(), gone...).Err()
}
