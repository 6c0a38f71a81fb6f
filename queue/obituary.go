package queue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed letters.lua
var lettersLua string

//go:embed fail.lua
var failLua string

// obituaries writes what a server knows of failures where it will be found: with the task as long as it
// lives, as a dead letter when it is over. asynq's own archive is no place for that: it drops what goes
// beyond 9,999 entries without a word (T5), and breaks down when it is cleaned too late (T6).
type obituaries struct {
	log    *slog.Logger
	rdb    redis.UniversalClient
	script script
	worker string
}

func newObituaries(rdb redis.UniversalClient, o ServerOptions) *obituaries {
	return &obituaries{log: o.Logger, rdb: rdb, script: newScript(lettersLua + failLua), worker: o.Worker}
}

// HandleError is called by asynq before it retries or archives a task. What it notes here is all that the
// sweep of the archive will know later.
func (o *obituaries) HandleError(ctx context.Context, _ *asynq.Task, err error) {
	guarded(o.log, "error handler", struct{}{}, func() struct{} {
		name, _ := asynq.GetQueueName(ctx)
		model, lane, ok := parseQueueName(name)
		id, _ := asynq.GetTaskID(ctx)
		if !ok || errors.Is(err, asynq.RevokeTask) || !isFailure(err) {
			return struct{}{}
		}
		t := tasks.Task{ID: id, Model: model, Lane: lane}
		if _, err := o.write(ctx, t, "retry", codeOf(err)); err != nil {
			o.log.Debug("noting a failure failed", "task", id, "err", err) // it is in the log and will be retried
		}
		return struct{}{}
	})
}

// bury writes the dead letter of a task that is active here, and reports whether it did. From then on the
// task is dead, whatever happens to this process.
func (o *obituaries) bury(ctx context.Context, t tasks.Task, cause error) bool {
	retried, _ := asynq.GetRetryCount(ctx)
	l := Letter{Kind: t.Kind}
	l.describe(t.Payload)
	code := codeOf(cause)
	written, err := o.write(ctx, t, "dead", code, cause.Error(), retried+1, string(t.Kind), l.Document, l.Source)
	if err != nil {
		// asynq archives it instead, as soon as it can, and the sweep makes a letter of that.
		o.log.Warn("writing a dead letter failed", "task", t.ID, "err", err)
		return false
	}
	if written {
		o.log.Warn("task is dead", "task", t.ID, "lane", string(t.Lane), "code", code, "attempts", retried+1)
	}
	return written
}

// write runs the script under a deadline of its own: the task's may have passed.
func (o *obituaries) write(ctx context.Context, t tasks.Task, verdict, code string, more ...any) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	k := keysOf(t.Model, t.Lane)
	keys := []string{k.task(t.ID), k.dead(), k.causes(), k.letter(t.ID)}
	args := append([]any{t.ID, verdict, time.Now().UnixMilli(), code, o.worker}, more...)
	n, err := o.script.Run(ctx, o.rdb, keys, args...).Int()
	if err != nil {
		return false, fmt.Errorf("writing the verdict on task %s: %w", t.ID, err)
	}
	return n == 1, nil
}
