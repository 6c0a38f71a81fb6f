package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/coalesce"
	"github.com/embedfleet/embedfleet/tasks"
)

// A Together does several tasks at once; [tasks.Handler] is one. It reports each task once. Those it has not reported when it
// returns, or panics, are handled alone. ctx is that of all items; it and the items' own end as a [Handler]'s does.
type Together interface {
	HandleAll(ctx context.Context, items []tasks.Item, report func(tasks.Report))
}

// renewEvery is how often the leases of bundles are renewed, as asynq renews those it knows of.
const renewEvery = 5 * time.Second

// Causes of the end of a bundle's context beside its deadline.
var (
	errLeaseLost = errors.New("the lease could not be renewed: the task may be another worker's")
	errGivenBack = fmt.Errorf("the worker stops, the task is given back: %w", context.Canceled)
)

// bundles are the tasks of one pool that are handled together: leased in one round trip, handled by one goroutine, and
// acknowledged as many at a time as are done at a time. asynq is not told of them; what a task costs there, in
// goroutines, timers and waits, is more than all that is done for a text beside its inference.
//
// asynq gets those with which anything is not in order, as if they were just leased, so that every rule about failures,
// retries and refusals is in one place, [pool.ProcessTask], and this one knows only what goes well.
type bundles struct {
	log      *slog.Logger
	rdb      redis.UniversalClient
	together Together
	slots    *slots
	ahead    *ahead
	breaker  *breaker
	revoked  *revocations
	script   script // that acknowledges
	acks     *coalesce.Group[*ack]

	running sync.WaitGroup  // bundles, and acks that are repeated
	quit    context.Context //nolint:containedctx // ends with the pool
	stop    context.CancelFunc

	mu   sync.Mutex
	open map[*bundle]struct{}
}

func newBundles(rdb redis.UniversalClient, h Together, p *pool) *bundles {
	quit, stop := context.WithCancel(context.Background())
	bs := &bundles{
		log: p.log, rdb: rdb, together: h, slots: p.slots, ahead: p.ahead, breaker: p.breaker, revoked: p.revoked,
		script: newScript(ackLua), quit: quit, stop: stop, open: map[*bundle]struct{}{},
	}
	bs.acks = coalesce.New(sharedCommands, coalesce.Patience{Linger: lingerCommands}, bs.acknowledgeAll)
	return bs
}

// A bundle is tasks of one lane and one timeout.
type bundle struct {
	*bundles
	lane   *laneAhead
	ctx    context.Context //nolint:containedctx // of the goroutine that handles it
	cancel context.CancelCauseFunc
	tasks  []leasedTask
	items  []tasks.Item // beside tasks
	runs   []*Run       // beside tasks

	mu     sync.Mutex
	inside []bool    // beside tasks: nobody has dealt with it yet
	until  time.Time // the leases last
}

// begin handles those of the lane's newly leased tasks together that can be, and returns the others.
func (bs *bundles) begin(lane *laneAhead, list []leasedTask, leased time.Time) (alone []leasedTask) {
	if len(list) < 2 || !bs.breaker.free() {
		return list
	}
	b := &bundle{bundles: bs, lane: lane, until: leased.Add(leaseFor)}
	var timeout time.Duration
	var members []tasks.Task
	for _, t := range list {
		m, ok := bs.plain(t)
		if !ok || len(members) > 0 && m.Timeout != timeout {
			alone = append(alone, t)
			continue
		}
		timeout = m.Timeout
		b.tasks, members = append(b.tasks, t), append(members, m)
	}
	if len(members) < 2 {
		return list
	}
	now := time.Now()
	deadline := now.Add(timeout)
	ctx, cancel := context.WithCancelCause(context.Background())
	ctx, release := context.WithDeadline(ctx, deadline)
	b.ctx, b.cancel = ctx, func(cause error) { cancel(cause); release() }
	b.inside = make([]bool, len(members))
	for i, t := range members {
		own, revoke := context.WithCancelCause(ctx)
		b.inside[i] = true
		b.runs = append(b.runs, &Run{ID: t.ID, Lane: t.Lane, Started: now, Deadline: deadline, revoke: revoke})
		b.items = append(b.items, tasks.Item{Ctx: context.WithValue(own, taskKey{}, t), Task: t})
	}
	if !bs.slots.enterAll(b.runs) {
		b.cancel(nil)
		return list
	}
	bs.mu.Lock()
	bs.open[b] = struct{}{}
	bs.mu.Unlock()
	bs.running.Go(b.run)
	return alone
}

// plain returns the task of a message with which everything is in order so far.
func (bs *bundles) plain(t leasedTask) (tasks.Task, bool) {
	m, err := parseMessage([]byte(t.msg))
	if err != nil || m.Other || m.Retried > 0 || m.Retention > 0 || m.Timeout <= 0 ||
		!m.Expires.IsZero() && time.Now().After(m.Expires) || bs.revoked.has(t.id) {
		return tasks.Task{}, false
	}
	model, lane, ok := parseQueueName(m.Queue)
	return tasks.Task{
		ID: t.id, Kind: tasks.Kind(m.Type), Model: model, Lane: lane, Payload: m.Payload, Timeout: m.Timeout, Expires: m.Expires, Trace: m.Trace,
	}, ok
}

// run handles the bundle.
func (b *bundle) run() {
	defer b.cancel(nil)
	ended := make(chan struct{})
	stop := context.AfterFunc(b.ctx, func() { defer close(ended); b.ended() })
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	b.handle()
	b.slots.leaveAll(b.runs)
	b.handOver(b.claimAll(), nil)
	b.bundles.mu.Lock()
	delete(b.open, b)
	b.bundles.mu.Unlock()
}

func (b *bundle) handle() {
	defer func() {
		if v := recover(); v != nil {
			b.log.Error("handler panicked", "tasks", len(b.tasks), "panic", v)
		}
	}()
	b.together.HandleAll(b.ctx, b.items, b.report)
}

// report deals with what the handler says of tasks.
func (b *bundle) report(r tasks.Report) {
	failed := slices.Collect(maps.Keys(r.Failed))
	for _, list := range [][]int{r.Done, r.Alone, failed} {
		b.slots.leaveAll(b.some(list))
	}
	if done := b.claim(r.Done); len(done) > 0 {
		_ = b.breaker.leave(b.tasks[done[0]].id, nil)
		b.acknowledge(done)
	}
	b.handOver(b.claim(append(failed, r.Alone...)), r.Failed)
}

func (b *bundle) some(indexes []int) []*Run {
	list := make([]*Run, len(indexes))
	for n, i := range indexes {
		list[n] = b.runs[i]
	}
	return list
}

// claim takes tasks out of the bundle and returns those that were still there: whoever gets a task from it deals with it.
func (b *bundle) claim(indexes []int) []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []int
	for _, i := range indexes {
		if b.inside[i] {
			b.inside[i] = false
			list = append(list, i)
		}
	}
	return list
}

// remaining returns what is still inside, by index.
func (b *bundle) remaining() map[int]*Run {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := map[int]*Run{}
	for i, inside := range b.inside {
		if inside {
			left[i] = b.runs[i]
		}
	}
	return left
}

// claimAll is claim of all that are left.
func (b *bundle) claimAll() []int {
	all := make([]int, len(b.tasks))
	for i := range all {
		all[i] = i
	}
	return b.claim(all)
}

// handOver has asynq deal with tasks: those with an error and those whose time is over have failed, the others begin anew. A
// task whose lease is lost is nobody's business here any more.
func (b *bundle) handOver(indexes []int, failed map[int]error) {
	if len(indexes) == 0 || errors.Is(context.Cause(b.ctx), errLeaseLost) {
		return
	}
	list := make([]leasedTask, len(indexes))
	ids := make([]string, len(indexes))
	for n, i := range indexes {
		list[n], ids[n] = b.tasks[i], b.tasks[i].id
		list[n].verdict = failed[i]
		if list[n].verdict == nil && errors.Is(b.ctx.Err(), context.DeadlineExceeded) {
			list[n].verdict = context.DeadlineExceeded
		}
	}
	// asynq believes that a lease is a new one.
	if time.Until(b.leasedUntil()) < leaseFor/2 && !b.renewed(b.quit, ids) {
		return
	}
	b.ahead.takeBack(b.lane, list)
}

// ended deals with what is left in the bundle when its context ends: the handler may need a while to notice.
func (b *bundle) ended() {
	if errors.Is(b.ctx.Err(), context.DeadlineExceeded) || errors.Is(context.Cause(b.ctx), errLeaseLost) {
		b.handOver(b.claimAll(), nil)
	}
}

func (b *bundle) leasedUntil() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until
}

// all returns the bundles that are open.
func (bs *bundles) all() []*bundle {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	list := make([]*bundle, 0, len(bs.open))
	for b := range bs.open {
		list = append(list, b)
	}
	return list
}

// renew keeps the leases of what is inside, until ctx ends.
func (bs *bundles) renew(ctx context.Context) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, b := range bs.all() {
			b.extend(ctx)
		}
	}
}

// extend renews the leases of what is inside. A bundle whose leases have lapsed is given up.
func (b *bundle) extend(ctx context.Context) {
	var ids []string
	for _, run := range b.remaining() {
		ids = append(ids, run.ID)
	}
	if len(ids) > 0 && !b.renewed(ctx, ids) && !time.Now().Before(b.leasedUntil()) {
		b.cancel(errLeaseLost)
	}
}

// renewed renews leases of the bundle and reports whether they are its own still. A lease that has lapsed is not renewed: it
// may be another worker's.
func (b *bundle) renewed(ctx context.Context, ids []string) bool {
	now := time.Now()
	if !now.Before(b.leasedUntil()) {
		return false
	}
	until := now.Add(leaseFor)
	leases := make([]redis.Z, len(ids))
	for i, id := range ids {
		leases[i] = redis.Z{Member: id, Score: float64(until.Unix())}
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	if err := b.rdb.ZAddXX(ctx, b.lane.keys.lease(), leases...).Err(); err != nil {
		b.log.Warn("renewing leases failed", "tasks", len(ids), "err", err)
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !time.Now().Before(b.until) {
		return false
	}
	b.until = until
	return true
}

// shutdown waits for the bundles, for the grace, and gives back what is left. Handlers may then still be inside.
func (bs *bundles) shutdown(grace time.Duration) {
	defer bs.stop()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if bs.wait(ctx) {
		return
	}
	left := map[*laneAhead][]leasedTask{}
	for _, b := range bs.all() {
		indexes := b.claimAll()
		b.cancel(errGivenBack)
		if !time.Now().Before(b.leasedUntil()) {
			continue
		}
		for _, i := range indexes {
			left[b.lane] = append(left[b.lane], b.tasks[i])
		}
	}
	for lane, list := range left {
		bs.ahead.takeBack(lane, list)
	}
}

// wait waits until ctx ends for bundles and acks, and reports whether all have ended.
func (bs *bundles) wait(ctx context.Context) bool {
	all := make(chan struct{})
	go func() { bs.running.Wait(); close(all) }()
	select {
	case <-all:
		return true
	case <-ctx.Done():
		return false
	}
}
