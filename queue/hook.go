package queue

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// ackTimeout bounds a repeated ack.
	ackTimeout = 3 * time.Second
	// dequeuePause keeps a server from spinning while Redis refuses to hand out tasks: asynq tries again
	// at once (T18 measured 20,000 commands a second).
	dequeuePause = 200 * time.Millisecond
	// notFound is what asynq's scripts answer about a task that is not active.
	notFound = "NOT FOUND"
)

// An ackHook mends three faults of asynq 0.26 in the client of one of its servers. Only a server may use
// such a client: a hook can't tell a cancelled ack from a request whose caller went away. The zero ackHook
// mends all but the third.
type ackHook struct{ failed *failedAcks }

// DialHook changes nothing.
func (ackHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook changes nothing: asynq acks outside of pipelines.
func (ackHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook lets a repeated ack through. asynq repeats a failed ack with the context of the first try,
// which it cancelled on return (T1), so that none has ever succeeded; the finished task would run again.
// It also repeats an ack that Redis carried out before the answer was lost, until the lease would have
// lapsed; by then the task may be under way again, and the repeat would take it away from whoever has it.
// And it dequeues without a pause while Redis refuses (T18).
func (h ackHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		repeated := errors.Is(ctx.Err(), context.Canceled)
		if repeated {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
			defer cancel()
			if h.failed.over(ctx, cmd) {
				return settled(cmd)
			}
		}
		err := next(ctx, cmd)
		switch {
		case err == nil || ordinary(err):
		case isDequeue(cmd):
			pause(ctx, dequeuePause)
		case repeated && strings.HasSuffix(err.Error(), notFound): // the first try got through
			return settled(cmd)
		case !repeated:
			h.failed.add(cmd)
		}
		return err
	}
}

// settled answers a repeat that has nothing left to do.
func settled(cmd redis.Cmder) error {
	cmd.SetErr(nil)
	if reply, ok := cmd.(*redis.Cmd); ok {
		reply.SetVal("OK")
	}
	return nil
}

// failedAcks remembers when acks failed whose repeats will come.
type failedAcks struct {
	rdb redis.UniversalClient

	mu    sync.Mutex
	since map[string]time.Time // by the key of the task's hash
}

// add notes a failed ack; nothing if cmd is none.
func (f *failedAcks) add(cmd redis.Cmder) {
	lease, task := leaseAndTask(cmd)
	if f == nil || lease == "" || task == "" {
		return
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, at := range f.since {
		if now.Sub(at) > 2*leaseFor { // asynq has given up
			delete(f.since, key)
		}
	}
	f.since[task] = now
}

// over reports whether a repeated ack comes too late: whoever has the task now leased it after the first try.
// asynq may have renewed the lease once more at that time, before it heard that the task had ended; another run
// begins two seconds later at the earliest. If Redis can't tell, it can't be acked either.
func (f *failedAcks) over(ctx context.Context, cmd redis.Cmder) bool {
	lease, task := leaseAndTask(cmd)
	if f == nil || lease == "" || task == "" {
		return false
	}
	f.mu.Lock()
	at, ok := f.since[task]
	f.mu.Unlock()
	if !ok {
		return false
	}
	_, id, _ := strings.Cut(task, ":t:")
	until, err := f.rdb.ZScore(ctx, lease, id).Result()
	return err == nil && int64(until) > at.Add(leaseFor+time.Second).Unix()
}

// leaseAndTask returns the keys of the leases and of the task's hash that an ack, retry or archive names.
func leaseAndTask(cmd redis.Cmder) (lease, task string) {
	for i := 0; scriptKey(cmd, i, ""); i++ {
		key, _ := cmd.Args()[3+i].(string)
		if n, ok := cmd.Args()[2].(int); !ok || i >= n {
			break
		}
		if strings.HasSuffix(key, ":lease") {
			lease = key
		}
		if _, id, ok := strings.Cut(key, ":t:"); ok && id != "" && task == "" {
			task = key
		}
	}
	return lease, task
}

// ordinary reports whether err is part of a dequeue that works: an empty lane, or a script not yet loaded.
func ordinary(err error) bool {
	return errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "NOSCRIPT")
}

// isDequeue recognises asynq's dequeue by its keys: pending, paused, active, lease.
func isDequeue(cmd redis.Cmder) bool {
	return scriptKey(cmd, 0, ":pending") && scriptKey(cmd, 1, ":paused")
}

// scriptKey reports whether cmd runs a script whose i-th key ends so.
func scriptKey(cmd redis.Cmder, i int, suffix string) bool {
	args := cmd.Args() // eval, script, number of keys, keys ...
	if !strings.HasPrefix(cmd.Name(), "eval") || len(args) <= 3+i {
		return false
	}
	key, ok := args[3+i].(string)
	return ok && strings.HasSuffix(key, suffix)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
