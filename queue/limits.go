package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// The part of Redis's maxmemory above which documents, or queries, are refused. The rest is what
	// workers need to go on: a full Redis denies even the dequeue (T18).
	documentMemory = 0.85
	queryMemory    = 0.95

	// secondLook is how long after the first look at a lane the second one tells its rate.
	secondLook = 250 * time.Millisecond
	// gaugeEvery is how often a client looks at what it limits.
	gaugeEvery = time.Second
	// sampleTasks is how many tasks at each end of a lane tell the size of all.
	sampleTasks = 8
	// The bounds of what is answered as time to wait, and the answer while no rate is known.
	minRetryAfter = time.Second
	maxRetryAfter = 5 * time.Minute
	anyRetryAfter = 5 * time.Second
)

// Limits bound what producers may have waiting, so that a producer hears of a slow fleet before Redis is
// full. Zero values mean no limit; the limit of Redis's memory, if it has one, is always kept.
type Limits struct {
	Tasks   int64 // waiting in one lane, the query lane apart
	Bytes   int64 // of the tasks waiting in one lane, by a sample of their sizes
	Queries int64 // waiting in the query lane, which the others leave its room
}

// A FullError says that a lane, or Redis itself, has no room for a task now.
type FullError struct {
	Model string
	Lane  tasks.Lane
	What  string        // what there is too much of, with its bound
	After time.Duration // see RetryAfter
}

func (e *FullError) Error() string {
	return fmt.Sprintf("lane %s of %s has no room: %s; try again in %v", e.Lane, e.Model, e.What, e.After)
}

// RetryAfter is when there is likely to be room: the time in which the lane drains by as much, 1 s to 5 min,
// or 5 s while nobody knows how fast it drains.
func (e *FullError) RetryAfter() time.Duration { return e.After }

// Overloaded marks the error for [tasks.Classify].
func (e *FullError) Overloaded() bool { return true }

// Code is the label for [tasks.Code].
func (e *FullError) Code() string { return "lane_full" }

// A gauge is what a client knows of the lanes it feeds, at most a second old.
type gauge struct {
	rdb    redis.UniversalClient
	look   wire.Script
	limits Limits

	mu      sync.Mutex
	lanes   map[string]*laneGauge // by queue name
	memory  float64               // used part of maxmemory; 0 if there is none
	checked time.Time             // the memory
}

// A laneGauge is one lane's part.
type laneGauge struct {
	drained drainRate
	pending int64
	size    int64     // mean bytes of a waiting task; 0 while unknown
	probed  time.Time // when the last refused task took a look of its own
}

func newGauge(rdb redis.UniversalClient, limits Limits) *gauge {
	return &gauge{rdb: rdb, look: wire.NewScript(laneLua), limits: limits, lanes: map[string]*laneGauge{}}
}

// room returns how many tasks may wait in the lane, 0 for any number, or an error if none may enter now. A
// gauge that can't be read limits nothing: whether Redis works is for the enqueue itself to find out.
func (g *gauge) room(ctx context.Context, model string, lane tasks.Lane) (int64, *FullError) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lane(model, lane)
	if time.Since(g.checked) >= gaugeEvery {
		g.checked = time.Now()
		g.memory = usedMemory(ctx, g.rdb)
	}
	bound := documentMemory
	if lane == tasks.Query {
		bound = queryMemory
	}
	if g.memory > bound {
		what := fmt.Sprintf("Redis uses %.0f %% of its maxmemory, at most %.0f %% are for this lane", 100*g.memory, 100*bound)
		return 0, &FullError{Model: model, Lane: lane, What: what, After: l.after(l.pending / 10)}
	}
	limit := g.limits.Tasks
	if lane == tasks.Query {
		limit = g.limits.Queries
	}
	if limit <= 0 && g.limits.Bytes <= 0 {
		return 0, nil
	}
	if time.Since(l.drained.at) >= gaugeEvery {
		l.refresh(ctx, g, model, lane)
	}
	if g.limits.Bytes > 0 && l.size > 0 && lane != tasks.Query {
		byBytes := max(1, g.limits.Bytes/l.size)
		if limit <= 0 || byBytes < limit {
			limit = byBytes
		}
	}
	return max(0, limit), nil
}

// full returns the error of tasks that found no room among limit; the lane must drain by excess before they do. A
// rate takes two looks; where there was one only, as in a command that has just begun, or nothing moved then, the
// second is taken here.
func (g *gauge) full(ctx context.Context, model string, lane tasks.Lane, limit, excess int64) *FullError {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lane(model, lane)
	if l.drained.looks < 2 || l.drained.rate <= 0 && time.Since(l.probed) >= anyRetryAfter {
		wire.Pause(ctx, secondLook)
		l.refresh(ctx, g, model, lane)
		l.probed = time.Now()
	}
	return &FullError{Model: model, Lane: lane, What: fmt.Sprintf("%d tasks may wait there", limit), After: l.after(excess)}
}

// lane returns the lane's gauge. The caller holds the lock.
func (g *gauge) lane(model string, lane tasks.Lane) *laneGauge {
	name := wire.QueueName(model, lane)
	l := g.lanes[name]
	if l == nil {
		l = &laneGauge{}
		g.lanes[name] = l
	}
	return l
}

// refresh reads how long the lane is, how large its tasks are, and how fast it is drained. A lane that can't
// be read stays as it was.
func (l *laneGauge) refresh(ctx context.Context, g *gauge, model string, lane tasks.Lane) {
	status, look := LaneStatus{Model: model, Lane: lane}, lookAt(wire.KeysOf(model, lane))
	if g.look.RunAll(ctx, g.rdb, []*wire.Call{look}) != nil {
		return
	}
	values, err := look.Cmd.StringSlice()
	if err != nil || status.read(values) != nil {
		return
	}
	l.drained.see(time.Now(), status.Processed)
	l.pending = status.Pending
	if status.Pending > 0 && status.Bytes > 0 {
		l.size = status.Bytes / status.Pending
	}
}

// after is the time in which n tasks leave the lane.
func (l *laneGauge) after(n int64) time.Duration {
	if l.drained.rate <= 0 {
		return anyRetryAfter
	}
	d := time.Duration(float64(max(1, n)) / l.drained.rate * float64(time.Second))
	return min(max(d.Round(time.Second), minRetryAfter), maxRetryAfter)
}

// usedMemory returns the used part of maxmemory, of a cluster its fullest node's; 0 if there is no limit or
// the server does not say.
func usedMemory(ctx context.Context, rdb redis.UniversalClient) float64 {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return memoryOf(ctx, rdb)
	}
	var mu sync.Mutex
	fullest := 0.0
	// A node that does not answer limits nothing.
	_ = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		used := memoryOf(ctx, node)
		mu.Lock()
		defer mu.Unlock()
		fullest = max(fullest, used)
		return nil
	})
	return fullest
}

func memoryOf(ctx context.Context, rdb redis.Cmdable) float64 {
	info, err := rdb.Info(ctx, "memory").Result()
	if err != nil {
		return 0
	}
	var used, limit float64
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "used_memory":
			used, _ = strconv.ParseFloat(value, 64)
		case "maxmemory":
			limit, _ = strconv.ParseFloat(value, 64)
		}
	}
	if limit <= 0 {
		return 0
	}
	return used / limit
}

// EnqueueAll is [Client.Enqueue] that waits for room: it tries those again that found none until all are in
// or ctx ends. waiting, which may be nil, is called before each wait with how many are left.
func (c *Client) EnqueueAll(ctx context.Context, list []tasks.Task, waiting func(left int, why *FullError)) ([]Receipt, error) {
	receipts, err := c.Enqueue(ctx, list)
	for err == nil {
		var left []int
		var why *FullError
		for i, r := range receipts {
			if r.State == Full && errors.As(r.Err, &why) {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			return receipts, nil
		}
		if waiting != nil {
			waiting(len(left), why)
		}
		// Room comes bit by bit: whoever waits for all of it at once leaves the workers idle.
		if wire.Pause(ctx, min(why.After, anyRetryAfter)); ctx.Err() != nil {
			return receipts, fmt.Errorf("waiting for room for %d tasks: %w", len(left), ctx.Err())
		}
		err = c.again(ctx, list, receipts, left)
	}
	return receipts, err
}

// again enqueues the tasks at some indexes once more and corrects their receipts.
func (c *Client) again(ctx context.Context, list []tasks.Task, receipts []Receipt, indexes []int) error {
	some := make([]tasks.Task, len(indexes))
	for n, i := range indexes {
		some[n] = list[i]
	}
	news, err := c.Enqueue(ctx, some)
	for n, i := range indexes {
		receipts[i] = news[n]
	}
	return err
}
