package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

// callsTTL is how long the calls of a worker are remembered after it last began one. A crash must be
// noticed within it.
const callsTTL = time.Hour

// endWait is how long the names of a call may outlive it.
const endWait = 5 * time.Millisecond

func callsKey(worker string) string { return "embedfleet:calls:" + worker }

// taskKey is the key of the task in a handler's context.
type taskKey struct{}

// TaskFrom returns the task that a handler's context belongs to, for a room further down that names the
// texts of a native call in [Calls]. It reports false for any other context.
func TaskFrom(ctx context.Context) (tasks.Task, bool) {
	t, ok := ctx.Value(taskKey{}).(tasks.Task)
	return t, ok
}

// Calls names in Redis which tasks are inside a native call of one worker. If the process dies, those are
// charged with a crash and nobody else: the hundreds of others it had leased are innocent.
type Calls struct {
	rdb    redis.UniversalClient
	worker string

	mu     sync.Mutex
	number int      // of the newest field
	ended  []string // fields of calls that have ended, and nobody has deleted or taken over
}

// NewCalls returns the calls of a worker, whose id must be the one it announces in [Workers].
func NewCalls(rdb redis.UniversalClient, worker string) *Calls {
	return &Calls{rdb: rdb, worker: worker}
}

// A Forget takes the names of a call that is over back. It waits for a moment: a runner that is busy begins its
// next call at once, and that overwrites the names of the last. A crash in this moment charges a task once that is
// innocent, and that is no verdict.
type Forget func(context.Context) error

// Begin writes down that a native call with these tasks begins, one small write, and returns what is to be called
// when it is over, which takes no time. If the write fails the call may begin all the same: then a crash charges
// nobody.
func (c *Calls) Begin(ctx context.Context, list []tasks.Task) (over func() Forget, err error) {
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = taskName(t.Model, t.Lane, t.ID)
	}
	field := c.field()
	_, err = c.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, callsKey(c.worker), field, strings.Join(names, "\n"))
		pipe.PExpire(ctx, callsKey(c.worker), callsTTL)
		return nil
	})
	if err != nil {
		c.free(field) // it may still hold the names of an earlier call, which the next one overwrites
		return nil, fmt.Errorf("naming the tasks of a native call: %w", err)
	}
	return func() Forget {
		c.free(field)
		return func(ctx context.Context) error { return c.forget(ctx, field) }
	}, nil
}

// field returns a field for the names of a call: one of a call that has ended, else a new one.
func (c *Calls) field() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.ended); n > 0 {
		field := c.ended[n-1]
		c.ended = c.ended[:n-1]
		return field
	}
	c.number++
	return strconv.Itoa(c.number)
}

// free leaves a field to the next call.
func (c *Calls) free(field string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, field)
}

// forget deletes a field, unless another call takes it over.
func (c *Calls) forget(ctx context.Context, field string) error {
	pause(ctx, endWait)
	c.mu.Lock()
	i := slices.Index(c.ended, field)
	if i >= 0 {
		c.ended = slices.Delete(c.ended, i, i+1)
	}
	c.mu.Unlock()
	if i < 0 {
		return nil
	}
	if err := c.rdb.HDel(ctx, callsKey(c.worker), field).Err(); err != nil {
		return fmt.Errorf("ending a native call: %w", err)
	}
	return nil
}

// taskName names a task among all lanes.
func taskName(model string, lane tasks.Lane, id string) string {
	return queueName(model, lane) + "/" + id
}

// suspects are the tasks that were inside a native call when their worker died.
type suspects map[string]string // task name -> the worker that died with it

// readSuspects returns the tasks that were inside a native call of a worker that does not live any more; of
// several workers the one that died last, since the index is in that order.
func readSuspects(ctx context.Context, rdb redis.UniversalClient) (suspects, error) {
	workers, err := rdb.ZRange(ctx, workersKey, 0, -1).Result()
	if err != nil {
		return nil, err
	}
	alive := make([]*redis.IntCmd, len(workers))
	calls := make([]*redis.StringSliceCmd, len(workers))
	_, err = rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range workers {
			alive[i] = pipe.Exists(ctx, workerKey(id))
			calls[i] = pipe.HVals(ctx, callsKey(id))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s := suspects{}
	for i, id := range workers {
		if alive[i].Val() > 0 {
			continue
		}
		for _, call := range calls[i].Val() {
			for name := range strings.SplitSeq(call, "\n") {
				s[name] = id
			}
		}
	}
	return s, nil
}
