package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// A Handler does tasks. It reports each item once, from HandleBatch's own goroutine: nil when it may be acknowledged;
// what happens after an error is decided by [tasks.Classify]. It may be called again for a task that it finished. An
// item's context ends when its own work took too long, when it was cancelled, when its lease was lost, or when the
// consumer has waited in vain for its grace. HandleBatch is called from several goroutines at once.
type Handler interface {
	HandleBatch(ctx context.Context, items []tasks.Item, report func([]tasks.Result))
}

// MaxConcurrency bounds how many documents one consumer has in hand.
const MaxConcurrency = 4096

const (
	defaultConcurrency      = 512
	defaultQueryConcurrency = 64
	defaultGrace            = 25 * time.Second
	defaultAhead            = 15 * time.Second
	// defaultBatch is how many tasks are leased in one round trip at most: what a batcher needs anyway.
	defaultBatch = 256

	// registerEvery is how often a consumer names its queues in asynq's registry (T8).
	registerEvery = 30 * time.Second
	// fetchPause keeps a pool from spinning while Redis refuses to lease (T18).
	fetchPause = 200 * time.Millisecond
)

// Options may be nil.
type Options struct {
	Logger *slog.Logger // by default nothing is logged
	// Concurrency is how many tasks of the live and backfill lanes are in hand at most, default 512, at most
	// [MaxConcurrency]; QueryConcurrency is the same for the query lane, default 64.
	Concurrency      int
	QueryConcurrency int
	// Ahead is how much work is in hand at most, in time that the consumer needs for it; default 15 s.
	Ahead time.Duration
	// Batch is how many tasks are handed to the handler together at most, default 256; 1 handles each alone.
	Batch int
	// Deadline bounds the time that the model spends on one task, whatever its producer says; 0 does not.
	Deadline time.Duration
	// Cost is what texts cost, as far as it is known before the first.
	Cost Cost
	// Worker is the id that dead letters name, best the one that is announced in the registry.
	Worker string
	// Grace is how long the end waits for handlers before it gives their tasks back, default 25 s.
	Grace time.Duration
}

func (o *Options) withDefaults() Options {
	opts := Options{}
	if o != nil {
		opts = *o
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	orDefault(&opts.Concurrency, defaultConcurrency)
	orDefault(&opts.QueryConcurrency, defaultQueryConcurrency)
	orDefault(&opts.Batch, defaultBatch)
	orDefault(&opts.Ahead, defaultAhead)
	orDefault(&opts.Grace, defaultGrace)
	opts.Concurrency = min(opts.Concurrency, MaxConcurrency)
	opts.QueryConcurrency = min(opts.QueryConcurrency, MaxConcurrency)
	return opts
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v < 1 {
		*v = d
	}
}

// A plan says how a group of lanes is served.
type plan struct {
	lanes   []tasks.Lane // in falling urgency
	life    leaseLife
	look    pollInterval
	most    func(o Options) int
	alone   bool // runs while nothing else is in hand
	resizes bool // its bound is what [Consumer.SetConcurrency] sets
}

var (
	documentLease = leaseLife{lasts: 6 * time.Second, renew: 2 * time.Second}
	queryLease    = leaseLife{lasts: 1500 * time.Millisecond, renew: 400 * time.Millisecond}
)

// plans is the table of who serves which lane.
var plans = []plan{
	{
		lanes: []tasks.Lane{tasks.Query}, life: queryLease,
		look: pollInterval{subscribed: time.Second, unsubscribed: 10 * time.Millisecond},
		most: func(o Options) int { return o.QueryConcurrency },
	},
	{
		lanes: []tasks.Lane{tasks.Live, tasks.Backfill}, life: documentLease, resizes: true,
		look: pollInterval{subscribed: time.Second, unsubscribed: 80 * time.Millisecond},
		most: func(o Options) int { return o.Concurrency },
	},
	{
		lanes: []tasks.Lane{tasks.Quarantine}, life: documentLease, alone: true,
		look: pollInterval{subscribed: 2 * time.Second, unsubscribed: time.Second},
		most: func(Options) int { return 1 },
	},
}

// A Consumer does the tasks of one model.
type Consumer struct {
	log   *slog.Logger
	rdb   redis.UniversalClient
	id    string
	began time.Time
	grace time.Duration
	pools []*pool
	// demoted is set when a node refused a write because it is a replica: behind a stable name there may be another one.
	demoted atomic.Bool
}

// New returns a consumer of lanes, at least one, of the model called alias. It does no I/O before Run. The Redis client
// is the caller's.
func New(rdb redis.UniversalClient, alias string, lanes []tasks.Lane, h Handler, opts *Options) (*Consumer, error) {
	if len(lanes) == 0 {
		return nil, errors.New("serving no lane: want at least one")
	}
	for _, l := range lanes {
		if err := wire.CheckLane(alias, l); err != nil {
			return nil, fmt.Errorf("serving a lane: %w", err)
		}
	}
	o := opts.withDefaults()
	c := &Consumer{log: o.Logger, rdb: rdb, id: uuid.NewString(), grace: o.Grace}
	var others []*semaphore.Weighted
	for _, plan := range plans {
		p := newPool(rdb, plan, alias, lanes, h, o)
		if p == nil {
			continue
		}
		p.fetcher.holder = c.id
		p.demoted = func() { c.demoted.Store(true) }
		if plan.alone {
			p.others = slices.Clone(others)
		}
		others = append(others, p.alone)
		c.pools = append(c.pools, p)
	}
	return c, nil
}

// A pool is one plan in force.
type pool struct {
	log      *slog.Logger
	rdb      redis.UniversalClient
	lanes    []*lane
	handler  Handler
	limiter  *limiter
	breaker  *breaker
	fetcher  fetcher
	settler  *settler
	notifier *notifier
	alone    *semaphore.Weighted   // a batch holds one of it; who is to run alone takes all
	others   []*semaphore.Weighted // to be taken whole while this pool runs a task
	resizes  bool
	batchMax int
	deadline time.Duration
	worker   string
	demoted  func()
	turn     int // of Run's goroutine

	running sync.WaitGroup // batches
	mu      sync.Mutex
	open    map[*batch]struct{}
	newest  time.Time // lease of a task that is done
}

// everything is the weight of a pool that is to be empty.
const everything = 1 << 30

func newPool(rdb redis.UniversalClient, plan plan, alias string, served []tasks.Lane, h Handler, o Options) *pool {
	p := &pool{
		log: o.Logger, rdb: rdb, handler: h, breaker: newBreaker(), notifier: newNotifier(plan.look),
		limiter: newLimiter(plan.most(o), o.Ahead, newRate(o.Cost.Rate)),
		fetcher: fetcher{rdb: rdb, script: wire.NewScript(leaseLua), cost: o.Cost},
		settler: newSettler(o.Logger, rdb, settled),
		alone:   semaphore.NewWeighted(everything),
		resizes: plan.resizes, batchMax: o.Batch, deadline: o.Deadline, worker: o.Worker,
		open: map[*batch]struct{}{},
	}
	for _, name := range plan.lanes {
		if slices.Contains(served, name) {
			p.lanes = append(p.lanes, &lane{name: name, model: alias, keys: wire.KeysOf(alias, name), life: plan.life})
		}
	}
	if len(p.lanes) == 0 {
		return nil
	}
	return p
}

// Run serves until ctx ends. Then it takes no more tasks, waits for the handlers, for its grace, gives the rest back
// unharmed, and waits for their handlers too, as long again, since nothing they use may be closed under them: the
// error says how many are still inside.
func (c *Consumer) Run(ctx context.Context) error {
	c.began = time.Now()
	beside, quiet := context.WithCancel(context.WithoutCancel(ctx))
	var background, loops sync.WaitGroup
	background.Go(func() { c.register(beside) })
	background.Go(func() { c.listen(beside) })
	background.Go(func() { c.heartbeat(beside) })
	for _, p := range c.pools {
		background.Go(func() { p.keep(beside) })
		background.Go(func() { p.followCancelled(beside) })
		loops.Go(func() { p.run(ctx) })
	}
	loops.Wait()
	err := c.drain()
	quiet()
	background.Wait()
	return err
}

// run is the loop: wait for room, lease, execute.
func (p *pool) run(ctx context.Context) {
	for {
		r, ok := p.limiter.wait(ctx)
		if !ok {
			return
		}
		n, probe, wait := p.breaker.allow()
		if n == 0 {
			wire.Pause(ctx, wait)
			continue
		}
		r.tasks = min(r.tasks, n, p.batchMax)
		if err := p.alone.Acquire(ctx, 1); err != nil {
			return
		}
		l, got, err := p.fetch(ctx, r)
		if len(got.tasks) > 0 {
			b, runs := p.begin(l, got, probe)
			p.running.Go(func() { p.execute(b, runs) })
			continue
		}
		p.alone.Release(1)
		p.breaker.cancel(probe)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.log.Warn("leasing tasks failed", "err", err)
			if redis.IsReadOnlyError(err) {
				p.demoted()
			}
			wire.Pause(ctx, fetchPause)
		case got.dropped == 0:
			p.notifier.wait(ctx)
		}
	}
}

// backfillEvery is how often the less urgent lane of a pool is asked first, lest it starve.
const backfillEvery = 5

// fetch leases from the most urgent lane that has tasks.
func (p *pool) fetch(ctx context.Context, r room) (*lane, lease, error) {
	p.turn++
	p.notifier.looking()
	order := slices.Clone(p.lanes)
	if p.turn%backfillEvery == 0 {
		slices.Reverse(order)
	}
	var got lease
	var err error
	for _, l := range order {
		dropped := got.dropped
		got, err = p.fetcher.fetch(ctx, l, r)
		got.dropped += dropped
		if err != nil || len(got.tasks) > 0 {
			return l, got, err
		}
	}
	return nil, got, nil
}

// drain ends what is in hand.
func (c *Consumer) drain() error {
	grace, cancel := context.WithTimeout(context.Background(), c.grace)
	defer cancel()
	if !c.returned(grace) {
		for _, p := range c.pools {
			p.giveBack()
		}
	}
	last, cancel := context.WithTimeout(context.Background(), c.grace)
	defer cancel()
	all := c.returned(last)
	for _, p := range c.pools {
		p.settler.wait(last)
	}
	if !all {
		return fmt.Errorf("waiting for handlers: %d tasks still inside after %v", len(c.Running()), 2*c.grace)
	}
	return nil
}

// returned waits until ctx ends for the handlers, and reports whether all have returned.
func (c *Consumer) returned(ctx context.Context) bool {
	all := make(chan struct{})
	go func() {
		for _, p := range c.pools {
			p.running.Wait()
		}
		close(all)
	}()
	select {
	case <-all:
		return true
	case <-ctx.Done():
		return false
	}
}

// batches returns those with something in hand. A batch whose decisions are under way is one of them until they have been
// carried out: its leases are to last so long.
func (p *pool) batches() []*batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*batch, 0, len(p.open))
	for b := range p.open {
		if b.over() {
			delete(p.open, b)
			continue
		}
		list = append(list, b)
	}
	return list
}

// SetConcurrency changes how many tasks of the live and backfill lanes are in hand at most, from 1 to
// [MaxConcurrency], while the consumer runs. Tasks beyond a lowered number are finished.
func (c *Consumer) SetConcurrency(n int) error {
	if n < 1 || n > MaxConcurrency {
		return fmt.Errorf("setting the concurrency to %d: want 1 to %d", n, MaxConcurrency)
	}
	for _, p := range c.pools {
		if p.resizes {
			p.limiter.resize(n)
		}
	}
	return nil
}

// Running returns the tasks that the handler has not reported, the oldest first.
func (c *Consumer) Running() []Run {
	var list []Run
	for _, p := range c.pools {
		for _, b := range p.batches() {
			for _, r := range b.unreported() {
				list = append(list, Run{r.task.ID, r.task.Lane, r.leased, r.work, r.clock.overdue()})
			}
		}
	}
	slices.SortFunc(list, func(a, b Run) int { return a.Leased.Compare(b.Leased) })
	return list
}

// Overdue returns those of the running tasks that are inside beyond their deadline. They will run again elsewhere; a
// process with tasks that stay overdue is stuck and should say that it is not ready.
func (c *Consumer) Overdue() []Run {
	return slices.DeleteFunc(c.Running(), func(r Run) bool { return r.Overdue == 0 })
}

// Held returns why tasks are held back, and since when: so many failed in a row that the fault is taken for
// the store's, Redis's or the model's. It returns nil while they are not.
func (c *Consumer) Held() (since time.Time, cause error) {
	for _, p := range c.pools {
		if since, cause = p.breaker.open(); cause != nil {
			return since, cause
		}
	}
	return time.Time{}, nil
}

// register keeps the queues in asynq's registry until ctx ends.
func (c *Consumer) register(ctx context.Context) {
	var names []any
	for _, p := range c.pools {
		for _, l := range p.lanes {
			names = append(names, l.keys.Queue())
		}
	}
	ticker := time.NewTicker(registerEvery)
	defer ticker.Stop()
	for {
		if err := c.rdb.SAdd(ctx, wire.RegistryKey, names...).Err(); err != nil && ctx.Err() == nil {
			c.log.Warn("naming the queues failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
