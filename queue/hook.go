package queue

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// ackTimeout bounds a repeated ack.
	ackTimeout = 3 * time.Second
	// dequeuePause keeps a server from spinning while Redis refuses to hand out tasks: asynq tries again
	// at once (T18 measured 20,000 commands a second).
	dequeuePause = 200 * time.Millisecond
)

// An ackHook mends two faults of asynq 0.26 in the client of one of its servers. Only a server may use
// such a client: a hook can't tell a cancelled ack from a request whose caller went away.
type ackHook struct{}

func (ackHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (ackHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook lets a repeated ack through. asynq repeats a failed ack with the context of the first try,
// which it cancelled on return (T1), so that none has ever succeeded; the finished task would run again.
func (ackHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if errors.Is(ctx.Err(), context.Canceled) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
			defer cancel()
		}
		err := next(ctx, cmd)
		if err != nil && isDequeue(cmd) && !ordinary(err) {
			pause(ctx, dequeuePause)
		}
		return err
	}
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
