package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

// A plan says how a group of lanes is served: with slots of its own, by an asynq server of its own, since
// one asynq server has one poll interval and one limit for all of its queues.
type plan struct {
	weights map[tasks.Lane]int // share of the dequeues while all have tasks
	poll    time.Duration      // asynq's sleep after it found nothing, in which it hears no announcement: short where looks are rare
	looks   looks              // that reach Redis
	slots   func(o ServerOptions) int
	alone   bool // runs while nothing else is inside the handler
	bundles bool // tasks are handled together, if the server can
	resizes bool // its slots are what [Server.SetConcurrency] sets
}

// plans is the table of who serves which lane.
var plans = []plan{
	{
		weights: map[tasks.Lane]int{tasks.Query: 1},
		poll:    time.Millisecond,
		looks:   looks{awake: 250 * time.Millisecond, deaf: 10 * time.Millisecond},
		slots:   func(o ServerOptions) int { return o.QueryConcurrency },
	},
	{
		weights: map[tasks.Lane]int{tasks.Live: 4, tasks.Backfill: 1},
		poll:    time.Millisecond,
		looks:   looks{awake: 250 * time.Millisecond, deaf: 80 * time.Millisecond},
		slots:   func(o ServerOptions) int { return o.Concurrency },
		bundles: true,
		resizes: true,
	},
	{
		weights: map[tasks.Lane]int{tasks.Quarantine: 1},
		poll:    time.Second,
		slots:   func(ServerOptions) int { return 1 },
		alone:   true,
	},
}

// A pool is one plan in force: an asynq server and what it calls for each task.
type pool struct {
	log     *slog.Logger
	server  *asynq.Server
	handler Handler
	slots   *slots
	ahead   *ahead
	others  []*slots // to be empty while this pool runs a task
	resizes bool
	grace   time.Duration
	faults  faults
	deaths  *obituaries
	revoked *revocations
	breaker *breaker
	bundles *bundles // nil: all tasks are handled alone
}

// newPools returns a pool for each plan that has one of the lanes.
func newPools(rdb redis.UniversalClient, alias string, lanes []tasks.Lane, h Handler, o ServerOptions) []*pool {
	revoked := newRevocations(rdb, alias, lanes, o)
	var pools []*pool
	var all []*slots
	for _, plan := range plans {
		config := asynqConfig(rdb, o)
		config.Queues = map[string]int{}
		var served []tasks.Lane
		for lane, weight := range plan.weights {
			if slices.Contains(lanes, lane) {
				config.Queues[queueName(alias, lane)] = weight
				served = append(served, lane)
			}
		}
		if len(served) == 0 {
			continue
		}
		config.TaskCheckInterval = cmp.Or(o.faults.poll, plan.poll)
		slots := newSlots(plan.slots(o))
		ahead := newAhead(rdb, alias, served, slots)
		ahead.log, ahead.looks = o.Logger, plan.looks
		p := &pool{
			log:     o.Logger,
			server:  asynq.NewServerFromRedisClient(rdb, config),
			handler: h,
			slots:   slots,
			ahead:   ahead,
			resizes: plan.resizes,
			grace:   o.Grace,
			faults:  o.faults,
			deaths:  newObituaries(rdb, o),
			revoked: revoked,
			breaker: newBreaker(),
		}
		if plan.bundles && o.Together != nil {
			p.bundles = newBundles(rdb, o.Together, p)
			ahead.begin = p.bundles.begin
		}
		if plan.alone {
			p.others = slices.Clone(all)
		}
		all = append(all, p.slots)
		pools = append(pools, p)
	}
	return pools
}

// errBusy is the end of a task's wait for a slot: the slots are held by overdue calls, or the task was to
// run alone and the others did not end. It is nobody's failure.
var errBusy = busyError{}

type busyError struct{}

func (busyError) Error() string    { return "no slot became free in half of the task's time" }
func (busyError) Overloaded() bool { return true }

// ProcessTask is called by asynq for each task it took.
func (p *pool) ProcessTask(ctx context.Context, at *asynq.Task) error {
	growStack()
	t, err := taskOf(ctx, at)
	if err != nil {
		return judge(tasks.AsPermanent(err))
	}
	known := p.ahead.verdict(t.ID)
	if !t.Expires.IsZero() && time.Now().After(t.Expires) {
		return judge(expiredError{})
	}
	if known != nil {
		if p.revoked.has(t.ID) && p.revoked.confirmed(ctx, t) {
			return judge(revokedError{})
		}
		return p.end(ctx, t, p.breaker.leave(t.ID, judge(known)))
	}
	inner, revoke := context.WithCancelCause(ctx)
	defer revoke(nil)
	leave, err := p.enter(inner, t, revoke)
	if err != nil {
		return judge(err)
	}
	defer leave()
	if p.faults.freeSlotEarly {
		context.AfterFunc(ctx, leave)
	}
	if p.revoked.has(t.ID) && p.revoked.confirmed(ctx, t) {
		return judge(revokedError{})
	}
	err = p.try(inner, t)
	if cause := context.Cause(inner); err != nil && errors.Is(cause, revokedError{}) {
		if !p.revoked.confirmed(ctx, t) {
			return judge(wantedError{}) // again, meanwhile
		}
		return judge(cause)
	}
	return p.end(ctx, t, err)
}

// end buries a task whose time is over and tells asynq to forget it; all other verdicts are asynq's to carry
// out. After the deadline or a lost lease the task may be another worker's, and asynq no longer listens.
func (p *pool) end(ctx context.Context, t tasks.Task, err error) error {
	if err == nil || ctx.Err() != nil || !isFailure(err) {
		return err
	}
	if outcomeOf(err) != tasks.Permanent && !lastTry(ctx) {
		return err
	}
	if p.deaths.bury(ctx, t, err) {
		return asynq.RevokeTask
	}
	return err
}

// enter waits for a slot, and for the others to be empty if it must. It gives up half-way to the deadline:
// at the deadline itself asynq would count a failure.
func (p *pool) enter(ctx context.Context, t tasks.Task, revoke context.CancelCauseFunc) (leave func(), err error) {
	end := time.Now().Add(t.Timeout / 2)
	var held []func()
	leave = sync.OnceFunc(func() {
		for _, f := range held {
			f()
		}
	})
	for _, other := range p.others {
		wait, cancel := context.WithDeadline(ctx, end)
		release, err := other.seize(wait)
		cancel()
		if err != nil {
			leave()
			return nil, busy(ctx, err)
		}
		held = append(held, release)
	}
	release, err := p.slots.enter(ctx, end, t, revoke)
	if err != nil {
		leave()
		return nil, busy(ctx, err)
	}
	held = append(held, release)
	return leave, nil
}

func busy(ctx context.Context, err error) error {
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return errBusy
	}
	return err
}

// try calls the handler and judges its error. asynq archives a task whose retries are used up even if this
// time it only found no room, or the worker is stopping; so at its last try such a task waits here, and
// tries again, until there is a verdict or asynq takes it back.
func (p *pool) try(ctx context.Context, t tasks.Task) error {
	for {
		err := p.once(ctx, t)
		if err == nil || isFailure(err) || !lastTry(ctx) {
			return err
		}
		if outcomeOf(err) == tasks.Cancelled {
			<-ctx.Done()
			return err
		}
		if pause(ctx, overloadDelay); ctx.Err() != nil {
			return err
		}
	}
}

// once calls the handler once, as soon as the lane is not held back; it gives up half-way to the deadline.
func (p *pool) once(ctx context.Context, t tasks.Task) error {
	if !p.breaker.free() {
		wait, cancel := context.WithTimeout(ctx, t.Timeout/2)
		defer cancel()
		if err := p.breaker.enter(wait, t.ID); err != nil {
			return judge(err)
		}
	}
	return p.breaker.leave(t.ID, judge(p.call(ctx, t)))
}

// call calls the handler and turns a panic into a permanent error: the same task would panic again.
func (p *pool) call(ctx context.Context, t tasks.Task) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("handler panicked", "task", t.ID, "panic", v)
			err = tasks.AsPermanent(fmt.Errorf("handler panicked: %v", v))
		}
	}()
	return p.handler.Handle(context.WithValue(ctx, taskKey{}, t), t)
}

func lastTry(ctx context.Context) bool {
	retried, ok1 := asynq.GetRetryCount(ctx)
	limit, ok2 := asynq.GetMaxRetry(ctx)
	return ok1 && ok2 && retried >= limit
}

// taskOf rebuilds the task that a producer enqueued.
func taskOf(ctx context.Context, at *asynq.Task) (tasks.Task, error) {
	id, _ := asynq.GetTaskID(ctx)
	name, _ := asynq.GetQueueName(ctx)
	model, lane, ok := parseQueueName(name)
	if !ok {
		return tasks.Task{}, fmt.Errorf("queue %q is not a lane of a model", name)
	}
	deadline, _ := ctx.Deadline() // asynq always sets one
	return tasks.Task{
		ID:      id,
		Kind:    tasks.Kind(at.Type()),
		Model:   model,
		Lane:    lane,
		Payload: at.Payload(),
		Timeout: (time.Until(deadline) + time.Second - 1).Truncate(time.Second), // a moment has passed
		Expires: parseExpires(at.Headers()[expiresHeader]),
		Trace:   at.Headers()[traceHeader],
	}, nil
}
