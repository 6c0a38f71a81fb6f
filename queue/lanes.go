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

	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed lane.lua
var laneLua string

// bytesPerToken turns bytes of payload into tokens, for an estimate of work.
const bytesPerToken = 4

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
	// Bytes is about how many bytes of tasks wait, by the sizes of some of them; Tokens is what that is in
	// work, at four bytes a token: rough, but it grows with the texts, which a number of tasks does not.
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
	cancel, look script
	paces        paces
}

// NewLanes returns a view of the lanes. The Redis client is the caller's.
func NewLanes(rdb redis.UniversalClient) *Lanes {
	return &Lanes{rdb: rdb, cancel: newScript(cancelLua), look: newScript(laneLua)}
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
	var calls []*call
	for _, model := range slices.Compact(models) {
		for _, lane := range tasks.Lanes {
			if err := checkLane(model, lane); err != nil {
				return nil, fmt.Errorf("reading the lanes: %w", err)
			}
			list = append(list, LaneStatus{Model: model, Lane: lane})
			calls = append(calls, lookAt(keysOf(model, lane)))
		}
	}
	if err := l.look.runAll(ctx, l.rdb, calls); err != nil {
		return nil, fmt.Errorf("reading the lanes: %w", err)
	}
	for i := range list {
		values, err := calls[i].cmd.StringSlice()
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
func lookAt(k laneKeys) *call {
	return &call{
		keys: []string{k.pending(), k.active(), k.scheduled(), k.retry(), k.archived(), k.paused(), k.dead(), k.counts(), k.processed()},
		args: []any{k.tasks(), sampleTasks},
	}
}

// read fills in what the script answered.
func (s *LaneStatus) read(values []string) error {
	var now, archived, paused, since, bytes, looked int64
	fields := []*int64{&now, &s.Pending, &s.Active, &s.Scheduled, &s.Retry, &s.RetryDue, &archived, &s.Dead, &paused,
		&s.Crashes, &s.Duplicates, &s.Processed, &since, &bytes, &looked}
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
	s.Tokens = s.Bytes / bytesPerToken
	if since > 0 {
		s.OldestPending = max(0, time.UnixMicro(now).Sub(time.Unix(0, since)))
	}
	return nil
}

// Models returns the aliases of the registry, sorted.
func (l *Lanes) Models(ctx context.Context) ([]string, error) {
	names, err := l.rdb.SMembers(ctx, registryKey).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the queue registry: %w", err)
	}
	var models []string
	for _, name := range names {
		if model, _, ok := parseQueueName(name); ok {
			models = append(models, model)
		}
	}
	slices.Sort(models)
	return slices.Compact(models), nil
}

// Pause keeps workers from taking tasks of a lane, at once and fleet-wide; what runs goes on. Pausing
// twice is no error.
func (l *Lanes) Pause(ctx context.Context, model string, lane tasks.Lane) error {
	if err := checkLane(model, lane); err != nil {
		return fmt.Errorf("pausing a lane: %w", err)
	}
	now := strconv.FormatInt(time.Now().Unix(), 10) // what asynq writes there
	if err := l.rdb.SetNX(ctx, keysOf(model, lane).paused(), now, 0).Err(); err != nil {
		return fmt.Errorf("pausing lane %s of %s: %w", lane, model, err)
	}
	return nil
}

// Resume undoes [Lanes.Pause]. Resuming a lane that runs is no error.
func (l *Lanes) Resume(ctx context.Context, model string, lane tasks.Lane) error {
	if err := checkLane(model, lane); err != nil {
		return fmt.Errorf("resuming a lane: %w", err)
	}
	if err := l.rdb.Del(ctx, keysOf(model, lane).paused()).Err(); err != nil {
		return fmt.Errorf("resuming lane %s of %s: %w", lane, model, err)
	}
	return nil
}

// Dead returns at most limit of a lane's dead tasks, the latest first. What asynq archived a moment ago is
// not among them before [Maintenance] has made letters of it.
func (l *Lanes) Dead(ctx context.Context, model string, lane tasks.Lane, limit int) ([]Failure, error) {
	letters, err := NewDead(l.rdb).List(ctx, model, DeadFilter{Lanes: []tasks.Lane{lane}}, limit)
	if err != nil {
		return nil, err
	}
	failures := make([]Failure, len(letters))
	for i, letter := range letters {
		failures[i] = letter.failure()
	}
	return failures, nil
}

// A Lease is a task that a worker has taken, and until when its lease holds unless it is renewed, which
// living workers do every 5 s.
type Lease struct {
	ID    string
	Lane  tasks.Lane
	Until time.Time // whole seconds
}

// Leases returns what the workers of a model have in hand, for who watches a recovery.
func (l *Lanes) Leases(ctx context.Context, model string) ([]Lease, error) {
	cmds := make([]*redis.ZSliceCmd, len(tasks.Lanes))
	_, err := l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, lane := range tasks.Lanes {
			cmds[i] = pipe.ZRangeWithScores(ctx, keysOf(model, lane).lease(), 0, -1)
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
			list = append(list, Lease{ID: id, Lane: tasks.Lanes[i], Until: time.Unix(int64(z.Score), 0)})
		}
	}
	return list, nil
}

// Retrying returns at most limit of a lane's tasks that failed and wait for their next try, the next first.
func (l *Lanes) Retrying(ctx context.Context, model string, lane tasks.Lane, limit int) ([]Failure, error) {
	k := keysOf(model, lane)
	ids, err := l.rdb.ZRange(ctx, k.retry(), 0, int64(limit)-1).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the retries of %s: %w", model, err)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	cmds := make([]*redis.StringCmd, len(ids))
	_, err = l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = pipe.HGet(ctx, k.task(id), "msg")
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
