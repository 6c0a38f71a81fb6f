package simulation

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	alias   = "m"
	workers = 3
	slots   = 8 // of a worker's live lane
	runners = 1 // so that two calls at once are one too many

	maxTokens = 32
	timeout   = 20 * time.Second // of a producer's task
	slowTime  = 30 * time.Second // of a slow call, beyond the timeout
	restart   = 3 * time.Second  // from a worker's death to its successor's birth
)

// served are the lanes of the workers.
var served = []tasks.Lane{tasks.Live, tasks.Backfill, tasks.Quarantine}

var space = vector.Space("5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed")

// A process is what dies together.
type process struct {
	world  *world
	name   string
	skew   time.Duration
	ctx    context.Context //nolint:containedctx // a process is its context
	cancel context.CancelFunc
	rdb    redis.UniversalClient

	sluggish bool // its calls take as long as a deadline

	dead    atomic.Bool
	died    chan struct{} // closed when it dies
	buried  chan struct{} // closed when the world ends, for the dead to end too
	patient atomic.Int64  // until this instant what it sends takes longer, Unix nanoseconds

	parts sync.WaitGroup

	mu    sync.Mutex
	conns []*conn
}

func newProcess(w *world, name string) *process {
	p := &process{world: w, name: name, buried: w.buried, died: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.rdb = p.conn().Client()
	return p
}

// conn is an address at which the process finds Redis.
func (p *process) conn() queue.Conn {
	return queue.ConnOf(redis.UniversalOptions{
		Addrs: []string{"redis"}, Protocol: 2, DisableIdentity: true, Dialer: p.dial, PoolSize: 32,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

func (p *process) dial(context.Context, string, string) (net.Conn, error) {
	// To wait here for the end would be more like death, but a client dials while it holds a lock for which its
	// other goroutines wait, and then the clock of the bubble stands still.
	if p.isDead() || p.world.away() || p.world.over() {
		return nil, errUnreachable
	}
	c := newConn(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	return c, nil
}

// sever ends the connections of a process.
func (p *process) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.deliver(nil, broken)
	}
	p.conns = nil
}

func (p *process) isDead() bool { return p.dead.Load() }

// stall makes what follows a broken connection take its time, for clients repeat after a random while.
func (p *process) stall() { p.patient.Store(time.Now().Truncate(coarse).Add(coarse).UnixNano()) }

func (p *process) stalled() bool { return time.Now().UnixNano() < p.patient.Load() }

// end stops the parts of a process, in the order in which its program would, and waits.
func (p *process) end() {
	p.cancel()
	p.parts.Wait()
	_ = p.rdb.Close()
}

// startWorker is cmd/worker without its probes.
func (w *world) startWorker(name string, who int) {
	p := newProcess(w, name)
	for _, f := range w.plan.Faults {
		if f.Kind == skew && f.Who == who {
			p.skew = f.For
		}
		p.sluggish = p.sluggish || f.Kind == sluggish && f.Who == who
	}
	w.add(p)
	p.parts.Go(func() {
		_ = registry.NewWorkers(p.rdb).Announce(p.ctx, w.log, func() registry.Worker {
			return registry.Worker{ID: p.name, Model: alias, State: registry.StateReady}
		}, nil)
	})
	if w.plan.Every {
		p.maintain()
	}
	p.parts.Go(func() { p.serve(who) })
}

func (p *process) maintain() {
	opts := &upkeep.Options{Logger: p.world.log, Models: []string{alias}}
	p.parts.Go(func() { _ = upkeep.New(p.rdb, opts).Run(p.ctx) })
}

// serve loads, claims, and takes tasks until the process ends. Some workers handle batches as they ship, some each task
// alone.
func (p *process) serve(who int) {
	w := p.world
	docs := storeredis.New(p.rdb)
	sleep(p.ctx, time.Second) // loading
	for docs.ClaimSpace(p.ctx, alias, space, store.Keep) != nil {
		if sleep(p.ctx, time.Second); p.ctx.Err() != nil {
			return
		}
	}
	model := &model{Model: embedtest.NewModel(maxTokens), p: p}
	marks := consumer.NewInFlight(w.log, p.rdb, p.name)
	defer marks.Wait()
	engine, err := embedder.NewEngine(model, embedtest.Tokenizer{}, embedder.Settings{MaxTokens: maxTokens, Unit: true, Space: space},
		&embedder.Options{Runners: runners, QueryRunners: -1, TokenBudget: 4 * maxTokens, OnCall: marks.Mark})
	if err != nil {
		w.t.Error(err)
		return
	}
	defer func() { _ = engine.Close(p.ctx) }()
	h := tasks.NewHandler(w.log, tasks.Parts{Model: alias, Space: space, Embedder: engine, Store: docs, Answers: docs}, nil)
	opts := &consumer.Options{Logger: w.log, Concurrency: slots, Worker: p.name, Grace: time.Second, Batch: 1}
	if who%3 != 0 || w.plan.Batch {
		opts.Batch = 256 // as it ships
	}
	c, err := consumer.New(p.rdb, alias, served, watched{p, h}, opts)
	if err != nil {
		w.t.Error(err)
		return
	}
	_ = c.Run(p.ctx) // whom it waits for in vain, engine.Close waits for
}

// watched is a handler whose tasks are counted.
type watched struct {
	p *process
	consumer.Handler
}

func (h watched) HandleBatch(ctx context.Context, items []tasks.Item, report func([]tasks.Result)) {
	leave := make([]func(bool), len(items))
	for i, item := range items {
		leave[i] = h.p.world.watch.enter(h.p, item.Task.ID)
	}
	h.Handler.HandleBatch(ctx, items, func(results []tasks.Result) {
		for _, r := range results {
			leave[r.Index](r.Err == nil && items[r.Index].Ctx.Err() == nil) // else it is too late to be acknowledged
		}
		report(results)
	})
}

// A model takes time, kills its process, and gives vectors that can be read back.
type model struct {
	*embedtest.Model

	p *process
}

// Run is a native call: deaf to its context for a while, and in a slow one for all its time.
func (m *model) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	w := m.p.world
	var texts []string
	deadly, h := false, fnv.New64a()
	for _, row := range b.Rows {
		s := embedtest.Text(row)
		texts, deadly = append(texts, s), deadly || poisons(s)
		h.Write([]byte(s))
	}
	nth := w.watch.call(m.p, texts)
	defer w.watch.returned(m.p)
	took, patience := 50*time.Millisecond+time.Duration(h.Sum64()%400)*time.Millisecond, time.Second
	kind := w.faults.call(nth)
	if m.p.sluggish {
		took, patience = timeout-time.Second, time.Second
	}
	if kind == slowCall {
		w.watch.happened(m.p, "FAULT %s %d", kind, nth)
		took, patience = slowTime, slowTime
	}
	if deadly || kind == killedBusy {
		w.pass(m.p, took/2)
		w.kill(m.p, fmt.Sprintf("in call %d", nth))
		<-m.p.buried
		return nil, errors.New("simulated: the process is dead")
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { close(done) })
	defer stop()
	select {
	case <-w.after(m.p, took):
	case <-done:
		w.pass(m.p, min(took, patience))
		return nil, context.Cause(ctx)
	}
	vs, err := m.Model.Run(ctx, b)
	for i := range vs {
		if bad(texts[i]) {
			vs[i][0] = float32(math.NaN())
		}
	}
	return vs, err
}

// startScheduler is cmd/scheduler with one source: what the plan's crawled texts show.
func (w *world) startScheduler(name string) {
	p := newProcess(w, name)
	w.add(p)
	p.maintain()
	board := ledger.New(p.rdb)
	source := board.Source("feed", 24*time.Hour)
	outbox := scheduler.Outbox{Log: w.log, Alias: alias, Lane: tasks.Live, Memory: source,
		Queue: enqueuer{w, queue.NewClient(p.rdb, nil)}, Store: storeredis.New(p.rdb)}
	job := scheduler.Job{
		Schedule: scheduler.Schedule{Job: "crawl", Source: "feed", Cron: []string{"* * * * *"}, Window: time.Hour},
		Timeout:  50 * time.Second,
		Do: func(ctx context.Context, _ scheduler.Tick) (scheduler.Report, error) {
			sleep(ctx, w.plan.Crawl)
			return outbox.Put(ctx, w.shown())
		},
	}
	s, err := scheduler.New(board, []scheduler.Job{job}, &scheduler.Options{Logger: w.log})
	if err != nil {
		w.t.Error(err)
		return
	}
	p.parts.Go(func() { _ = s.Run(p.ctx) })
}

// enqueuer is cmd/scheduler's.
type enqueuer struct {
	world  *world
	client *queue.Client
}

func (e enqueuer) Enqueue(ctx context.Context, list []tasks.Task) ([]error, error) {
	receipts, err := e.client.Enqueue(ctx, list)
	if err != nil {
		return nil, err
	}
	refused := make([]error, len(receipts))
	for i, r := range receipts {
		if refused[i] = r.Err; r.State != queue.Refused && r.Err != nil {
			return nil, fmt.Errorf("enqueuing task %s: %w", r.ID, r.Err)
		}
		e.world.watch.took(r.ID)
	}
	return refused, nil
}

// startProducer hands in each document's texts at their time, the next when the last was accepted.
func (w *world) startProducer() {
	p := newProcess(w, "producer")
	w.add(p)
	for _, versions := range w.produced() {
		// One each: a client's limits are read under a lock, and a bubble's clock stands still while somebody
		// waits for a lock whose owner waits for Redis.
		client := queue.NewClient(p.rdb, nil)
		p.parts.Go(func() {
			for _, x := range versions {
				sleep(p.ctx, time.Until(w.began.Add(x.At)))
				for p.ctx.Err() == nil && !p.enqueue(client, x) {
					sleep(p.ctx, time.Second)
				}
			}
		})
	}
}

func (p *process) enqueue(client *queue.Client, x text) bool {
	t, err := x.task()
	if err != nil {
		p.world.t.Error(err)
		return true
	}
	list := []tasks.Task{t}
	if x.Twice {
		t.Lane = tasks.Backfill
		list = append(list, t)
	}
	refused, err := enqueuer{p.world, client}.Enqueue(p.ctx, list)
	return err == nil && errors.Join(refused...) == nil
}

// task is the task that a text becomes.
func (x text) task() (tasks.Task, error) {
	doc := vector.Document{ID: x.Doc, Text: x.Text}
	if x.Crawled {
		return tasks.New(alias, tasks.Live, doc, nil)
	}
	return tasks.New(alias, tasks.Live, doc, &tasks.Options{Version: x.Version, Timeout: timeout})
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
