package queue

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed lease.lua
var leaseLua string

//go:embed unlease.lua
var unleaseLua string

const (
	// leaseFor is what asynq believes a new lease lasts.
	leaseFor = 30 * time.Second
	// leaseAhead is how many tasks are leased in one round trip at most: what the lane's batcher needs
	// anyway, in an answer of 4 MB at the very most.
	leaseAhead = 256
	// keepAhead is how long a leased task may wait for asynq to ask for it. asynq does so at once as long as
	// there is room, and there was; later the lease is worth less than asynq believes.
	keepAhead = 5 * time.Second
)

// An ahead leases the tasks of one pool's lanes, many in a round trip, and hands them to asynq, which asks
// for one at a time. A round trip for each would cost the cores that the model needs: with MiniLM they were
// an eighth of all CPU time. No more are leased than there are slots for.
//
// asynq's one goroutine that dequeues is the only one inside; after it has ended, giveBack is. A lock would be
// held while Redis is waited for.
type ahead struct {
	log   *slog.Logger
	rdb   redis.UniversalClient
	slots *slots
	looks looks
	lease script
	back  script

	lanes  map[string]*laneAhead // by the key of the pending list
	leased int                   // tasks in all of them
	heard  atomic.Bool           // producers' calls arrive
}

// looks says how often Redis is asked whether an empty lane is still empty.
type looks struct {
	awake time.Duration // while producers are heard
	deaf  time.Duration // while they are not
}

// A laneAhead is what one lane has ready.
type laneAhead struct {
	keys  laneKeys
	ready []leasedTask // the first to go first
	since time.Time    // they were leased
	seen  time.Time    // when it was last looked at
	empty atomic.Bool  // as far as is known
}

type leasedTask struct{ id, msg string }

func newAhead(rdb redis.UniversalClient, alias string, lanes []tasks.Lane, s *slots) *ahead {
	a := &ahead{
		log: slog.New(slog.DiscardHandler), rdb: rdb, slots: s, lanes: map[string]*laneAhead{},
		lease: newScript(leaseLua), back: newScript(unleaseLua),
	}
	for _, lane := range lanes {
		keys := keysOf(alias, lane)
		a.lanes[keys.pending()] = &laneAhead{keys: keys}
	}
	return a
}

// next waits for room and returns the message of the next task of the lane whose pending list is given, or
// [redis.Nil] if there is none, or if no tasks are taken any more.
func (a *ahead) next(ctx context.Context, pending string) (string, error) {
	room := a.slots.room(a.least())
	if room == 0 {
		return "", redis.Nil
	}
	lane := a.lanes[pending]
	if len(lane.ready) > 0 && time.Since(lane.since) > keepAhead {
		a.giveBackOf(ctx, lane)
	}
	if len(lane.ready) == 0 {
		a.idle()
		if err := a.fill(ctx, lane, room); err != nil {
			return "", err
		}
	}
	if len(lane.ready) == 0 {
		return "", redis.Nil
	}
	t := lane.ready[0]
	lane.ready = lane.ready[1:]
	a.leased--
	a.slots.give(t.id)
	return t.msg, nil
}

// least says how many of so many slots must be free for the next task. While most are busy there is no hurry,
// and tasks that are leased one by one as slots become free would cost a round trip each.
func (a *ahead) least() func(limit int) int {
	if a.leased > 0 {
		return func(int) int { return 1 }
	}
	return func(limit int) int { return max(limit/4, 1) }
}

// idle waits while all lanes are known to be empty and none is to be looked at, or until tasks are announced. asynq
// would ask a hundred times a second, and each time the cores would leave the model for a moment: Go's monitor thread
// alone, which looks every 20 microseconds after each sign of life, took a twentieth of a core.
func (a *ahead) idle() {
	if a.leased > 0 {
		return
	}
	now, least := time.Now(), time.Hour
	for _, lane := range a.lanes {
		least = min(least, a.due(lane, now))
	}
	if least > 0 {
		a.slots.rest(least, func() bool {
			for _, lane := range a.lanes {
				if !lane.empty.Load() {
					return true
				}
			}
			return false
		})
	}
}

// due is how long a lane need not be looked at.
func (a *ahead) due(lane *laneAhead, now time.Time) time.Duration {
	if !lane.empty.Load() {
		return 0
	}
	rest := a.looks.deaf
	if a.heard.Load() {
		rest = a.looks.awake
	}
	return max(0, rest-now.Sub(lane.seen))
}

// fill leases tasks of a lane, unless it is known to be empty: each look is a round trip.
func (a *ahead) fill(ctx context.Context, lane *laneAhead, room int) error {
	now := time.Now()
	if a.due(lane, now) > 0 {
		return nil
	}
	lane.empty.Store(true) // before the look, so that a call in the middle of it is not forgotten
	lane.seen = now
	want := min(max(room-a.leased, 1), leaseAhead)
	keys := []string{lane.keys.pending(), lane.keys.active(), lane.keys.lease(), lane.keys.paused()}
	list, err := a.lease.Run(ctx, a.rdb, keys, want, now.Add(leaseFor).Unix(), lane.keys.tasks()).StringSlice()
	if err != nil {
		return fmt.Errorf("leasing tasks: %w", err)
	}
	if len(list) > 0 {
		lane.empty.Store(false)
	}
	for i := 0; i+1 < len(list); i += 2 {
		lane.ready = append(lane.ready, leasedTask{id: list[i], msg: list[i+1]})
	}
	lane.since = now
	a.leased += len(lane.ready)
	return nil
}

// giveBack returns what asynq has not asked for. It must not ask any more.
func (a *ahead) giveBack(ctx context.Context) {
	for _, lane := range a.lanes {
		if len(lane.ready) > 0 {
			a.giveBackOf(ctx, lane)
		}
	}
}

// giveBackOf returns a lane's tasks to its head. If Redis does not listen they come back when their
// leases lapse.
func (a *ahead) giveBackOf(ctx context.Context, lane *laneAhead) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	args := []any{lane.keys.tasks()}
	for _, t := range lane.ready {
		args = append(args, t.id)
	}
	keys := []string{lane.keys.pending(), lane.keys.active(), lane.keys.lease()}
	if err := a.back.Run(ctx, a.rdb, keys, args...).Err(); err != nil {
		a.log.Warn("giving leased tasks back failed, they wait for the reaper", "tasks", len(lane.ready), "err", err)
	}
	a.leased -= len(lane.ready)
	lane.ready = nil
}

// An aheadHook answers asynq's dequeues from what is leased ahead.
type aheadHook struct{ pools map[string]*ahead } // by the key of the pending list

// DialHook changes nothing.
func (aheadHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook changes nothing: asynq dequeues outside of pipelines.
func (aheadHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook answers a dequeue.
func (h aheadHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		reply, ok := cmd.(*redis.Cmd)
		if !ok || !isDequeue(cmd) {
			return next(ctx, cmd)
		}
		pending, _ := cmd.Args()[3].(string) // isDequeue has looked
		a := h.pools[pending]
		if a == nil {
			return next(ctx, cmd)
		}
		msg, err := a.next(ctx, pending)
		if err != nil {
			cmd.SetErr(err)
			return err
		}
		reply.SetVal(msg)
		return nil
	}
}
