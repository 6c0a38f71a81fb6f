package queue

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"sync"
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
// an eighth of all CPU time. No more are leased than there are slots for, beside what comes back from bundles.
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

	// begin handles some of a lane's newly leased tasks without asynq and returns the others; nil: all are asynq's.
	begin func(lane *laneAhead, list []leasedTask, leased time.Time) []leasedTask

	mu       sync.Mutex       // guards what follows, and the lanes' returned and judged
	verdicts map[string]error // of judged tasks that asynq was given, by their ids
	closed   bool             // asynq asks no more
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

	returned []leasedTask // were handled without asynq, and are to be handled alone
	judged   []leasedTask // the same, but with their verdict
}

type leasedTask struct {
	id, msg string
	verdict error // what the handler's call would return, known already; nil: it is to be called
}

func newAhead(rdb redis.UniversalClient, alias string, lanes []tasks.Lane, s *slots) *ahead {
	a := &ahead{
		log: slog.New(slog.DiscardHandler), rdb: rdb, slots: s, lanes: map[string]*laneAhead{},
		lease: newScript(leaseLua), back: newScript(unleaseLua),
	}
	for _, lane := range lanes {
		keys := keysOf(alias, lane)
		a.lanes[keys.pending()] = &laneAhead{keys: keys}
	}
	a.verdicts = map[string]error{}
	return a
}

// next waits for room and returns the message of the next task of the lane whose pending list is given, or
// [redis.Nil] if there is none, or if no tasks are taken any more.
func (a *ahead) next(ctx context.Context, pending string) (string, error) {
	lane := a.lanes[pending]
	if msg, ok := a.judged(lane); ok {
		return msg, nil
	}
	a.collect()
	room := a.slots.room(a.least(), a.anyJudged)
	a.recall(ctx)
	if room == 0 {
		return "", redis.Nil
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
	_ = a.verdict(t.id) // of an earlier run that asynq never began
	a.slots.give(t.id)
	return t.msg, nil
}

// takeBack has asynq ask for tasks that were handled without it, or gives them back to their lane if it asks no more.
func (a *ahead) takeBack(lane *laneAhead, list []leasedTask) {
	if len(list) == 0 {
		return
	}
	a.mu.Lock()
	closed := a.closed
	for _, t := range list {
		switch {
		case closed:
		case t.verdict != nil:
			lane.judged = append(lane.judged, t)
		default:
			lane.returned = append(lane.returned, t)
		}
	}
	a.mu.Unlock()
	if closed {
		a.unlease(context.Background(), lane, list)
		return
	}
	a.slots.nudge()
}

// judged returns the message of a task of the lane that has its verdict. It needs no slot.
func (a *ahead) judged(lane *laneAhead) (msg string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(lane.judged) == 0 {
		return "", false
	}
	t := lane.judged[0]
	lane.judged = lane.judged[1:]
	a.verdicts[t.id] = t.verdict
	return t.msg, true
}

// anyJudged reports whether asynq should ask at once.
func (a *ahead) anyJudged() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, lane := range a.lanes {
		if len(lane.judged) > 0 {
			return true
		}
	}
	return false
}

// verdict returns the verdict of a task that asynq was given with one, once; nil for any other.
func (a *ahead) verdict(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.verdicts[id]
	delete(a.verdicts, id)
	return err
}

// collect puts tasks that were taken back beside those that asynq has not asked for.
func (a *ahead) collect() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, lane := range a.lanes {
		if len(lane.returned) == 0 {
			continue
		}
		if len(lane.ready) == 0 {
			lane.since = time.Now()
		}
		lane.ready = append(lane.ready, lane.returned...)
		a.leased += len(lane.returned)
		lane.returned = nil
	}
}

// recall gives back what has waited for too long.
func (a *ahead) recall(ctx context.Context) {
	for _, lane := range a.lanes {
		if len(lane.ready) > 0 && time.Since(lane.since) > keepAhead {
			a.giveBackOf(ctx, lane)
		}
	}
}

// news reports whether a lane may have tasks, or some were taken back.
func (a *ahead) news() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, lane := range a.lanes {
		if len(lane.returned) > 0 || len(lane.judged) > 0 || !lane.empty.Load() {
			return true
		}
	}
	return false
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
		a.slots.rest(least, a.news)
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
	leased := make([]leasedTask, 0, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		leased = append(leased, leasedTask{id: list[i], msg: list[i+1]})
	}
	if a.begin != nil {
		leased = a.begin(lane, leased, now)
	}
	lane.ready, lane.since = leased, now
	a.leased += len(lane.ready)
	return nil
}

// giveBack returns what asynq has not asked for, now and from now on. It must not ask any more.
func (a *ahead) giveBack(ctx context.Context) {
	a.mu.Lock()
	a.closed = true
	for _, lane := range a.lanes {
		lane.returned, lane.judged = append(lane.returned, lane.judged...), nil
	}
	a.mu.Unlock()
	a.collect()
	for _, lane := range a.lanes {
		if len(lane.ready) > 0 {
			a.giveBackOf(ctx, lane)
		}
	}
}

// giveBackOf returns a lane's tasks to its head.
func (a *ahead) giveBackOf(ctx context.Context, lane *laneAhead) {
	a.unlease(ctx, lane, lane.ready)
	a.leased -= len(lane.ready)
	lane.ready = nil
}

// unlease returns tasks to the head of their lane. If Redis does not listen they come back when their leases lapse.
func (a *ahead) unlease(ctx context.Context, lane *laneAhead, list []leasedTask) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	args := []any{lane.keys.tasks()}
	for _, t := range list {
		args = append(args, t.id)
	}
	keys := []string{lane.keys.pending(), lane.keys.active(), lane.keys.lease()}
	if err := a.back.Run(ctx, a.rdb, keys, args...).Err(); err != nil {
		a.log.Warn("giving leased tasks back failed, they wait for the reaper", "tasks", len(list), "err", err)
	}
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
