package queue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed lane.lua
var laneLua string

// A LaneStatus is how one lane of one model stands at one moment: a lane's numbers are read by one script.
type LaneStatus struct {
	Model     string
	Lane      tasks.Lane
	Pending   int64 // waiting for a worker
	Active    int64 // taken by a worker
	Scheduled int64 // not due yet
	Retry     int64 // failed, waiting for the next try
	RetryDue  int64 // of these, whose time has come; more than a few for long mean that nobody forwards them
	Dead      int64 // failed for good; see [Dead]
	Paused    bool
	// Crashes and Duplicates only grow: tasks that were inside a native call when their worker died, and tasks
	// that need not run because the same one waited, ran, or was just done.
	Crashes    int64
	Duplicates int64
	// Processed only grows: runs of tasks that ended, in success or failure.
	Processed int64
	// Bytes is about how many bytes of tasks wait, and Tokens how many tokens their texts have, by some of them and
	// what [tasks.EstimateTokens] said of those.
	Bytes  int64
	Tokens int64
	// OldestPending is how long the longest waiting task has waited, 0 if none does. It is a lower bound
	// after a shutdown: tasks that were given back carry no time.
	OldestPending time.Duration
	// Pace is how fast this goes, as far as the looks before this one tell.
	Pace
}

// Lanes shows and steers the lanes. It reads the keys themselves: asynq's own QueueInfo fails on one
// missing hash, on hosted Redis, and asks for memory sizes (T9).
//
// Whoever keeps a Lanes and looks at it now and then learns how fast the lanes are drained, see [Pace].
type Lanes struct {
	rdb          redis.UniversalClient
	cancel, look wire.Script
	paces        paces
}

// NewLanes returns a view of the lanes. The Redis client is the caller's.
func NewLanes(rdb redis.UniversalClient) *Lanes {
	return &Lanes{rdb: rdb, cancel: wire.NewScript(cancelLua), look: wire.NewScript(laneLua)}
}

// Status returns every lane of the models given and of all models that asynq's registry names, sorted by
// model, then in falling urgency. The registry alone may be incomplete (T8), so whoever knows a model
// names it.
func (l *Lanes) Status(ctx context.Context, models ...string) ([]LaneStatus, error) {
	known, err := l.Models(ctx)
	if err != nil {
		return nil, err
	}
	models = append(slices.Clone(models), known...)
	slices.Sort(models)
	var list []LaneStatus
	var calls []*wire.Call
	for _, model := range slices.Compact(models) {
		for _, lane := range tasks.Lanes {
			if err := wire.CheckLane(model, lane); err != nil {
				return nil, fmt.Errorf("reading the lanes: %w", err)
			}
			list = append(list, LaneStatus{Model: model, Lane: lane})
			calls = append(calls, lookAt(wire.KeysOf(model, lane)))
		}
	}
	if err := l.look.RunAll(ctx, l.rdb, calls); err != nil {
		return nil, fmt.Errorf("reading the lanes: %w", err)
	}
	for i := range list {
		values, err := calls[i].Cmd.StringSlice()
		if err == nil {
			err = list[i].read(values)
		}
		if err != nil {
			return nil, fmt.Errorf("reading lane %s of %s: %w", list[i].Lane, list[i].Model, err)
		}
	}
	l.paces.see(time.Now(), list)
	return list, nil
}

// lookAt is the call of the script for one lane.
func lookAt(k wire.Keys) *wire.Call {
	return &wire.Call{
		Keys: []string{k.Pending(), k.Active(), k.Scheduled(), k.Retry(), k.Archived(), k.Paused(), k.Dead(), k.Counts(), k.Processed()},
		Args: []any{k.Tasks(), sampleTasks},
	}
}

// read fills in what the script answered.
func (s *LaneStatus) read(values []string) error {
	var now, archived, paused, since, bytes, looked, tokens int64
	fields := []*int64{&now, &s.Pending, &s.Active, &s.Scheduled, &s.Retry, &s.RetryDue, &archived, &s.Dead, &paused,
		&s.Crashes, &s.Duplicates, &s.Processed, &since, &bytes, &looked, &tokens}
	if len(values) != len(fields) {
		return fmt.Errorf("%d numbers, want %d", len(values), len(fields))
	}
	for i, value := range values {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return fmt.Errorf("its number %d: %w", i, err)
		}
		*fields[i] = n
	}
	s.Dead += archived // for two seconds, see Maintenance
	s.Paused = paused > 0
	s.Bytes = bytes / max(1, looked) * s.Pending
	s.Tokens = tokens * s.Pending / max(1, looked)
	if since > 0 {
		s.OldestPending = max(0, time.UnixMicro(now).Sub(time.Unix(0, since)))
	}
	return nil
}

// Models returns the aliases of the registry, sorted.
func (l *Lanes) Models(ctx context.Context) ([]string, error) {
	names, err := l.rdb.SMembers(ctx, wire.RegistryKey).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the queue registry: %w", err)
	}
	var models []string
	for _, name := range names {
		if model, _, ok := wire.ParseQueueName(name); ok {
			models = append(models, model)
		}
	}
	slices.Sort(models)
	return slices.Compact(models), nil
}

// Pause keeps workers from taking tasks of a lane, at once and fleet-wide; what runs goes on. Pausing
// twice is no error.
func (l *Lanes) Pause(ctx context.Context, model string, lane tasks.Lane) error {
	if err := wire.CheckLane(model, lane); err != nil {
		return fmt.Errorf("pausing a lane: %w", err)
	}
	now := strconv.FormatInt(time.Now().Unix(), 10) // what asynq writes there
	if err := l.rdb.SetNX(ctx, wire.KeysOf(model, lane).Paused(), now, 0).Err(); err != nil {
		return fmt.Errorf("pausing lane %s of %s: %w", lane, model, err)
	}
	return nil
}

// Resume undoes [Lanes.Pause]. Resuming a lane that runs is no error.
func (l *Lanes) Resume(ctx context.Context, model string, lane tasks.Lane) error {
	if err := wire.CheckLane(model, lane); err != nil {
		return fmt.Errorf("resuming a lane: %w", err)
	}
	k := wire.KeysOf(model, lane)
	if err := l.rdb.Del(ctx, k.Paused()).Err(); err != nil {
		return fmt.Errorf("resuming lane %s of %s: %w", lane, model, err)
	}
	_ = l.rdb.Publish(ctx, k.Pending(), "").Err() // wakes the consumers, who look now and then anyway
	return nil
}

// A Lease is a task that a worker has taken, and until when its lease holds unless it is renewed, which
// living workers do every 2 s.
type Lease struct {
	ID    string
	Lane  tasks.Lane
	Until time.Time // by Redis's clock
}

// Leases returns what the workers of a model have in hand, for who watches a recovery.
func (l *Lanes) Leases(ctx context.Context, model string) ([]Lease, error) {
	cmds := make([]*redis.ZSliceCmd, len(tasks.Lanes))
	_, err := l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, lane := range tasks.Lanes {
			cmds[i] = pipe.ZRangeWithScores(ctx, wire.KeysOf(model, lane).Lease(), 0, -1)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the leases of %s: %w", model, err)
	}
	var list []Lease
	for i, cmd := range cmds {
		for _, z := range cmd.Val() {
			id, _ := z.Member.(string)
			list = append(list, Lease{ID: id, Lane: tasks.Lanes[i], Until: time.UnixMicro(int64(z.Score * 1e6))})
		}
	}
	return list, nil
}

// Retrying returns at most limit of a lane's tasks that failed and wait for their next try, the next first.
func (l *Lanes) Retrying(ctx context.Context, model string, lane tasks.Lane, limit int) ([]Failure, error) {
	k := wire.KeysOf(model, lane)
	ids, err := l.rdb.ZRange(ctx, k.Retry(), 0, int64(limit)-1).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the retries of %s: %w", model, err)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	cmds := make([]*redis.StringCmd, len(ids))
	_, err = l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = pipe.HGet(ctx, k.Task(id), "msg")
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("reading the retries of %s: %w", model, err)
	}
	var list []Failure
	for i, cmd := range cmds {
		if cmd.Err() != nil {
			continue // it was taken meanwhile
		}
		f := failureOf(ids[i], []byte(cmd.Val()))
		f.Model, f.Lane = model, lane
		list = append(list, f)
	}
	return list, nil
}
