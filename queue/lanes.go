package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

// bytesPerToken turns bytes of payload into tokens, for an estimate of work.
const bytesPerToken = 4

// A LaneStatus is how one lane of one model stands. The counts are read in one round trip but not in one
// transaction: a task that moves meanwhile may be counted twice or not at all.
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
	// Bytes is about how many bytes of tasks wait, by the sizes of some of them; Tokens is what that is in
	// work, at four bytes a token: rough, but it grows with the texts, which a number of tasks does not.
	Bytes  int64
	Tokens int64
	// OldestPending is how long the longest waiting task has waited, 0 if none does. It is a lower bound
	// after a shutdown: tasks that were given back carry no time.
	OldestPending time.Duration
}

// Lanes shows and steers the lanes. It reads the keys themselves: asynq's own QueueInfo fails on one
// missing hash, on hosted Redis, and asks for memory sizes (T9).
type Lanes struct {
	rdb    redis.UniversalClient
	cancel script
}

// NewLanes returns a view of the lanes. The Redis client is the caller's.
func NewLanes(rdb redis.UniversalClient) *Lanes {
	return &Lanes{rdb: rdb, cancel: newScript(cancelLua)}
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
	var reads []*laneRead
	pipe := l.rdb.Pipeline()
	for _, model := range slices.Compact(models) {
		for _, lane := range tasks.Lanes {
			if err := checkLane(model, lane); err != nil {
				return nil, fmt.Errorf("reading the lanes: %w", err)
			}
			reads = append(reads, readLane(ctx, pipe, model, lane))
		}
	}
	if len(reads) == 0 {
		return nil, nil
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("reading the lanes: %w", err)
	}
	if err := l.ages(ctx, reads); err != nil {
		return nil, fmt.Errorf("reading the age of the oldest tasks: %w", err)
	}
	list := make([]LaneStatus, len(reads))
	for i, r := range reads {
		list[i] = r.status()
	}
	return list, nil
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

// A laneRead is one lane's commands in a pipeline.
type laneRead struct {
	model                                  string
	lane                                   tasks.Lane
	pending, active, scheduled, retry, off *redis.IntCmd
	dead, archived                         *redis.IntCmd
	due                                    *redis.IntCmd
	oldest                                 *redis.StringCmd
	counts                                 *redis.SliceCmd
	sample                                 [2]*redis.StringSliceCmd // the newest and the oldest ids
	size                                   int64                    // mean bytes of these
	age                                    time.Duration
}

func readLane(ctx context.Context, pipe redis.Pipeliner, model string, lane tasks.Lane) *laneRead {
	k := keysOf(model, lane)
	return &laneRead{
		model:     model,
		lane:      lane,
		pending:   pipe.LLen(ctx, k.pending()),
		active:    pipe.LLen(ctx, k.active()),
		scheduled: pipe.ZCard(ctx, k.scheduled()),
		retry:     pipe.ZCard(ctx, k.retry()),
		dead:      pipe.ZCard(ctx, k.dead()),
		archived:  pipe.ZCard(ctx, k.archived()),
		off:       pipe.Exists(ctx, k.paused()),
		oldest:    pipe.LIndex(ctx, k.pending(), -1),
		due:       pipe.ZCount(ctx, k.retry(), "-inf", strconv.FormatInt(time.Now().Unix(), 10)),
		counts:    pipe.HMGet(ctx, k.counts(), "crashes", "duplicates"),
		sample: [2]*redis.StringSliceCmd{
			pipe.LRange(ctx, k.pending(), 0, sampleTasks-1), pipe.LRange(ctx, k.pending(), -sampleTasks, -1),
		},
	}
}

// ages asks since when the oldest pending task of each lane waits, by Redis's own clock, and how large some
// of its tasks are.
func (l *Lanes) ages(ctx context.Context, reads []*laneRead) error {
	pipe := l.rdb.Pipeline()
	now := pipe.Time(ctx)
	since := make([]*redis.StringCmd, len(reads))
	sizes := make([][]*redis.IntCmd, len(reads))
	for i, r := range reads {
		if id := r.oldest.Val(); id != "" {
			since[i] = pipe.HGet(ctx, keysOf(r.model, r.lane).task(id), "pending_since")
		}
		for _, cmd := range r.sample {
			for _, id := range cmd.Val() {
				sizes[i] = append(sizes[i], pipe.HStrLen(ctx, keysOf(r.model, r.lane).task(id), "msg"))
			}
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for i := range reads {
		reads[i].size = mean(sizes[i])
	}
	for i, cmd := range since {
		if cmd == nil {
			continue
		}
		if ns, err := strconv.ParseInt(cmd.Val(), 10, 64); err == nil {
			reads[i].age = max(0, now.Val().Sub(time.Unix(0, ns)))
		}
	}
	return nil
}

// number reads one of the values of an HMGET, 0 if there is none.
func number(values []any, i int) int64 {
	if i >= len(values) {
		return 0
	}
	s, _ := values[i].(string)
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

func (r *laneRead) status() LaneStatus {
	return LaneStatus{
		Model:         r.model,
		Lane:          r.lane,
		Pending:       r.pending.Val(),
		Active:        r.active.Val(),
		Scheduled:     r.scheduled.Val(),
		Retry:         r.retry.Val(),
		Dead:          r.dead.Val() + r.archived.Val(), // the latter for two seconds, see Maintenance
		Paused:        r.off.Val() > 0,
		RetryDue:      r.due.Val(),
		Crashes:       number(r.counts.Val(), 0),
		Duplicates:    number(r.counts.Val(), 1),
		Bytes:         r.size * r.pending.Val(),
		Tokens:        r.size * r.pending.Val() / bytesPerToken,
		OldestPending: r.age,
	}
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
