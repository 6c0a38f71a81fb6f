// Package queuetest gives the tests of the queue's rooms what they share: tasks, a handler that counts, a consumer that
// ends with the test, and a look at where a task is. It does not know the room queue, whose own tests use it.
package queuetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// Task returns a task of the model "m" with the id "t<n>".
func Task(lane tasks.Lane, n int) tasks.Task {
	return tasks.Task{
		ID:      fmt.Sprintf("t%d", n),
		Kind:    tasks.EmbedDocument,
		Model:   "m",
		Lane:    lane,
		Payload: fmt.Appendf(nil, `{"n":%d}`, n),
		Timeout: time.Minute,
	}
}

// Tasks returns the tasks 0 to n-1.
func Tasks(lane tasks.Lane, n int) []tasks.Task {
	list := make([]tasks.Task, n)
	for i := range list {
		list[i] = Task(lane, i)
	}
	return list
}

// A Recorder is a handler that counts its tasks and then does to each, all at once, what do says.
type Recorder struct {
	do func(ctx context.Context, t tasks.Task) error // nil does nothing

	mu    sync.Mutex
	calls map[string]int // by task id
	tasks []tasks.Task
}

// NewRecorder returns one. do may be nil.
func NewRecorder(do func(context.Context, tasks.Task) error) *Recorder {
	return &Recorder{do: do, calls: map[string]int{}}
}

// HandleBatch implements [consumer.Handler].
func (r *Recorder) HandleBatch(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
	results := make(chan tasks.Result, len(items))
	var running sync.WaitGroup
	for i, item := range items {
		r.mu.Lock()
		r.calls[item.Task.ID]++
		r.tasks = append(r.tasks, item.Task)
		r.mu.Unlock()
		running.Go(func() {
			var err error
			if r.do != nil {
				err = r.do(item.Ctx, item.Task)
			}
			results <- tasks.Result{Index: i, Err: err}
		})
	}
	for range items {
		report([]tasks.Result{<-results})
	}
	running.Wait()
}

// Runs returns how many tasks were run, again counted again, and how often one was.
func (r *Recorder) Runs(id string) (all, one int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tasks), r.calls[id]
}

// Tasks returns what was run, in the order of the beginnings.
func (r *Recorder) Tasks() []tasks.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]tasks.Task(nil), r.tasks...)
}

// Serve runs a consumer of lanes of the model "m" until the test ends.
func Serve(t testing.TB, rdb redis.UniversalClient, h consumer.Handler, opts *consumer.Options, lanes ...tasks.Lane) *consumer.Consumer {
	t.Helper()
	o := consumer.Options{}
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = testkit.Logger(t)
	}
	c, err := consumer.New(rdb, "m", lanes, h, &o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the consumer ended: %v", err)
		}
	})
	return c
}

// MoveTo returns what moves the task that waits longest to a sorted set, with a score of now.
func MoveTo(set func(wire.Keys) string, state string) func(context.Context, *redis.Client, wire.Keys) {
	return func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		id := rdb.RPop(ctx, k.Pending()).Val()
		rdb.ZAdd(ctx, set(k), redis.Z{Score: float64(time.Now().Unix()), Member: id})
		rdb.HSet(ctx, k.Task(id), "state", state)
	}
}

// Whereabouts names the lists and sets that hold an id, once per time they do.
func Whereabouts(t testing.TB, rdb redis.UniversalClient, k wire.Keys, id string) string {
	t.Helper()
	ctx := t.Context()
	var names []string
	for _, list := range []string{k.Pending(), k.Active()} {
		for _, member := range rdb.LRange(ctx, list, 0, -1).Val() {
			if member == id {
				names = append(names, strings.TrimPrefix(list, string(k)))
			}
		}
	}
	for _, set := range []string{k.Lease(), k.Scheduled(), k.Retry(), k.Archived(), k.Completed()} {
		if rdb.ZScore(ctx, set, id).Err() == nil {
			names = append(names, strings.TrimPrefix(set, string(k)))
		}
	}
	if rdb.ZScore(ctx, k.Dead(), id).Err() == nil {
		names = append(names, "dead")
	}
	return strings.Join(names, " ")
}

// An OnCommand is a hook that is told of each command before it is sent.
type OnCommand func(ctx context.Context, cmd redis.Cmder)

// DialHook implements [redis.Hook].
func (OnCommand) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (f OnCommand) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { f(ctx, cmd); return next(ctx, cmd) }
}

// ProcessPipelineHook implements [redis.Hook].
func (f OnCommand) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			f(ctx, cmd)
		}
		return next(ctx, cmds)
	}
}
