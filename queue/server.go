package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

// A Handler does a task. It returns nil when the task may be acknowledged; what happens after an error is
// decided by [tasks.Classify]. It may be called again for a task that it finished, and for one that it is
// still busy with if that took longer than the task's timeout. ctx ends with the timeout, or when the
// server has waited in vain for its grace.
type Handler interface {
	Handle(ctx context.Context, t tasks.Task) error
}

// MaxConcurrency bounds how many tasks one server leases at once.
const MaxConcurrency = 4096

const (
	defaultConcurrency      = 512
	defaultQueryConcurrency = 64
	defaultGrace            = 25 * time.Second

	// registerEvery is how often a server names its queues in asynq's registry (T8).
	registerEvery = 30 * time.Second
	// forwardEvery is how often asynq sends due retries back to their lane. Beside a worker Maintenance does so every
	// second, and for lanes without a worker too.
	forwardEvery = 5 * time.Second
)

// ServerOptions may be nil.
type ServerOptions struct {
	Logger *slog.Logger // by default nothing is logged
	// Concurrency is how many tasks of the live and backfill lanes are leased at once, default 512, at most
	// [MaxConcurrency]. It counts tasks, not native calls: a batcher needs many in hand to sort them by length. Those that are only
	// being acknowledged are not counted.
	Concurrency int
	// QueryConcurrency is the same for the query lane, default 64. The two never take from each other.
	QueryConcurrency int
	// Worker is the id that dead letters name, best the one that is announced in [Workers].
	Worker string
	// Together does tasks of the live and backfill lanes that were leased together, as the handler does one. By default
	// all are handled alone.
	Together Together
	// Grace is how long Shutdown waits for handlers before it gives their tasks back, default 25 s.
	Grace time.Duration

	faults faults // of tests
}

func (o *ServerOptions) withDefaults() ServerOptions {
	opts := ServerOptions{}
	if o != nil {
		opts = *o
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Concurrency < 1 {
		opts.Concurrency = defaultConcurrency
	}
	if opts.QueryConcurrency < 1 {
		opts.QueryConcurrency = defaultQueryConcurrency
	}
	opts.Concurrency = min(opts.Concurrency, MaxConcurrency)
	opts.QueryConcurrency = min(opts.QueryConcurrency, MaxConcurrency)
	if opts.Grace <= 0 {
		opts.Grace = defaultGrace
	}
	return opts
}

// faults put back on purpose what this room mends, so that tests can show that they would notice.
type faults struct {
	noAckHook     bool          // T1
	freeSlotEarly bool          // T4
	hook          redis.Hook    // sees every command after our own hook
	poll          time.Duration // instead of a plan's, where a test lets minutes pass
}

// A Server takes the tasks of one model from its lanes and hands them to a handler.
//
// Its life is Start, Stop, Shutdown; or Run, which is all three. Stop takes no more tasks and lets the
// handlers finish; Shutdown waits for them, for its grace, and gives back the rest unharmed. It never
// touches signals.
type Server struct {
	log   *slog.Logger
	rdb   redis.UniversalClient // its own, see ackHook
	pools []*pool
	names []any // of its queues

	background sync.WaitGroup
	quit       func() // ends what runs in the background
}

// NewServer returns a server of lanes, at least one, of the model called alias. It does no I/O; the
// connection it makes is its own and is closed by Shutdown.
//
// The query lane has slots of its own. Tasks of producers are taken within a few milliseconds, others within 250. The quarantine lane, if asked for, runs
// one task at a time while nothing else is inside the handler.
func NewServer(conn Conn, alias string, lanes []tasks.Lane, h Handler, opts *ServerOptions) (*Server, error) {
	if len(lanes) == 0 {
		return nil, errors.New("serving no lane: want at least one")
	}
	s := &Server{quit: func() {}}
	for _, lane := range lanes {
		if err := checkLane(alias, lane); err != nil {
			return nil, fmt.Errorf("serving a lane: %w", err)
		}
		s.names = append(s.names, queueName(alias, lane))
	}
	o := opts.withDefaults()
	s.log = o.Logger
	s.rdb = conn.Client()
	if !o.faults.noAckHook {
		s.rdb.AddHook(ackHook{&failedAcks{rdb: s.rdb, since: map[string]time.Time{}}})
	}
	hook := aheadHook{map[string]*ahead{}}
	s.rdb.AddHook(hook)
	heartbeats := heartbeatHook{map[string]*bundles{}}
	s.rdb.AddHook(heartbeats)
	if o.faults.hook != nil {
		s.rdb.AddHook(o.faults.hook)
	}
	s.rdb.AddHook(newSharedTrips(s.rdb))
	s.pools = newPools(s.rdb, alias, lanes, h, o)
	for _, p := range s.pools {
		for pending := range p.ahead.lanes {
			hook.pools[pending] = p.ahead
		}
		if p.bundles != nil {
			for _, lane := range p.ahead.lanes {
				heartbeats.pools[lane.keys.name()] = p.bundles
			}
		}
	}
	return s, nil
}

// Run serves until ctx ends, then stops and shuts down. It returns nil unless handlers are still inside
// after the grace and as long again.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Start(); err != nil {
		return err
	}
	<-ctx.Done()
	s.Stop()
	return s.Shutdown(context.WithoutCancel(ctx))
}

// Start begins to take tasks. It returns at once, and nil also if Redis can't be reached: the server then
// keeps trying. A server is started once.
func (s *Server) Start() error {
	for i, p := range s.pools {
		if err := p.server.Start(p); err != nil {
			for _, started := range s.pools[:i] {
				started.server.Shutdown()
			}
			return fmt.Errorf("starting the queue server: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.quit = cancel
	s.background.Go(func() { s.register(ctx) })
	s.background.Go(func() { s.listen(ctx) })
	s.background.Go(func() { s.pools[0].revoked.run(ctx, s.revoke) })
	for _, p := range s.pools {
		if p.bundles != nil {
			s.background.Go(func() { p.bundles.renew(ctx) })
		}
	}
	return nil
}

// Stop takes no more tasks and returns; handlers go on. It does nothing after the first call.
func (s *Server) Stop() {
	var wg sync.WaitGroup
	for _, p := range s.pools {
		wg.Go(func() {
			p.slots.close()
			p.breaker.close()
			p.server.Stop()
			p.ahead.giveBack(context.Background())
		})
	}
	wg.Wait()
}

// SetConcurrency changes how many tasks of the live and backfill lanes are leased at once, from 1 to
// [MaxConcurrency], while the server runs. Tasks beyond a lowered number are finished.
func (s *Server) SetConcurrency(n int) error {
	if n < 1 || n > MaxConcurrency {
		return fmt.Errorf("setting the concurrency to %d: want 1 to %d", n, MaxConcurrency)
	}
	for _, p := range s.pools {
		if p.resizes {
			p.slots.resize(n)
		}
	}
	return nil
}

// Shutdown waits for the handlers and ends the server. Tasks whose handlers outlast the grace go back to
// the head of their lane, no retry charged, and their contexts end. Then it waits for these handlers too,
// as long again and no longer than ctx, since nothing they use may be closed under them; the error says
// how many are still inside.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Stop()
	var wg sync.WaitGroup
	for _, p := range s.pools {
		wg.Go(p.server.Shutdown)
		if p.bundles != nil {
			wg.Go(func() { p.bundles.shutdown(p.grace) })
		}
	}
	wg.Wait()
	s.quit()
	s.background.Wait()
	ctx, cancel := context.WithTimeout(ctx, s.pools[0].grace)
	defer cancel()
	err := s.drain(ctx)
	for _, p := range s.pools {
		if p.bundles != nil {
			p.bundles.wait(ctx) // their last acks need the connection
		}
	}
	if closeErr := s.rdb.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("closing the queue's connection: %w", closeErr)
	}
	return err
}

// drain returns when no handler is inside.
func (s *Server) drain(ctx context.Context) error {
	for _, p := range s.pools {
		release, err := p.slots.seize(ctx)
		if err != nil {
			return fmt.Errorf("waiting for handlers: %d still inside: %w", len(s.Running()), err)
		}
		release()
	}
	return nil
}

// Running returns the handler's calls that have not returned, the oldest of each pool first.
func (s *Server) Running() []Run { return s.inside(func(*Run) bool { return true }) }

// Overdue returns the calls that are inside beyond their deadline. Their tasks will run again, or do
// already; a process with calls that stay overdue is stuck and should say that it is not ready.
func (s *Server) Overdue() []Run {
	now := time.Now()
	return s.inside(func(r *Run) bool { return now.After(r.Deadline) })
}

func (s *Server) inside(want func(*Run) bool) []Run {
	var list []Run
	for _, p := range s.pools {
		list = append(list, p.slots.inside(want)...)
	}
	return list
}

// revoke ends the contexts of cancelled tasks that are inside.
func (s *Server) revoke(has func(id string) bool) {
	for _, r := range s.inside(func(r *Run) bool { return has(r.ID) }) {
		r.revoke(revokedError{})
	}
}

// Held returns why tasks are held back, and since when: so many failed in a row that the fault is taken for
// the store's, Redis's or the model's. It returns nil while they are not.
func (s *Server) Held() (since time.Time, cause error) {
	for _, p := range s.pools {
		if since, cause = p.breaker.held(); cause != nil {
			return since, cause
		}
	}
	return time.Time{}, nil
}

// register keeps the queues in asynq's registry until ctx ends.
func (s *Server) register(ctx context.Context) {
	ticker := time.NewTicker(registerEvery)
	defer ticker.Stop()
	for {
		if err := s.rdb.SAdd(ctx, registryKey, s.names...).Err(); err != nil && ctx.Err() == nil {
			s.log.Warn("naming the queues failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// asynqConfig is what all pools have in common.
func asynqConfig(rdb redis.UniversalClient, o ServerOptions) asynq.Config {
	return asynq.Config{
		RetryDelayFunc: func(n int, err error, t *asynq.Task) time.Duration {
			return guarded(o.Logger, "retry delay", maxDelay, func() time.Duration { return retryDelay(n, err, t) })
		},
		IsFailure: func(err error) bool {
			return guarded(o.Logger, "is failure", true, func() bool { return isFailure(err) })
		},
		ErrorHandler: newObituaries(rdb, o),
		Logger:       asynqLog{o.Logger},
		LogLevel:     asynq.InfoLevel,
		// Not the limit, which can change: that is kept by the slots, before asynq has a task.
		Concurrency:              MaxConcurrency,
		ShutdownTimeout:          o.Grace,
		DelayedTaskCheckInterval: forwardEvery,
	}
}
