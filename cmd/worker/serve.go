package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// errLost ends a worker whose model serves no more. It is not [boot.ErrModel]: a new process may find room.
var errLost = errors.New("the model left every device that it may run on")

// A worker is one process that serves one model.
type worker struct {
	log      *slog.Logger
	cfg      config
	id       string
	label    string // for people: its name and where it runs
	probes   string // where they are, set before anything reads it
	started  time.Time
	metrics  *monitoring.Worker
	pulse    monitoring.Pulse
	meter    meter
	tracer   *trace.Tracer
	restarts *restarts
	load     func(context.Context) (*loaded, error)
	listen   func(net.Addr) // told where the probes are, for tests
	changed  chan struct{}  // the registry should hear of something new
	calls    *callRecord    // made with the connection, before the load
	events   *queue.Events  // likewise
	finish   func()         // likewise; ends the serving as a signal does

	settling sync.Mutex // held while settings change

	mu       sync.Mutex // guards the fields below; never held while anything is waited for
	state    string
	since    time.Time
	reason   string
	stage    *queue.Loading
	model    *loaded
	queue    *queue.Server
	settings queue.Settings // in force, or to be when the model is there
	order    queue.Order    // the latest
	revision int64          // of the latest order that was looked at
	refused  string
}

func newWorker(log *slog.Logger, cfg config) *worker {
	w := &worker{
		log: log, cfg: cfg, id: uuid.NewString(), started: time.Now(), metrics: monitoring.NewWorker(version()),
		changed: make(chan struct{}, 1), state: queue.StateLoading, since: time.Now(), listen: func(net.Addr) {},
		settings: cfg.settings(), restarts: &restarts{}, tracer: trace.Off(),
	}
	host, _ := os.Hostname() // a name for people; none is fine
	w.label = fmt.Sprintf("%s %s:%d", cmp.Or(cfg.name, "worker"), host, os.Getpid())
	w.load = w.open
	w.metrics.Alive(&w.pulse, w.crashes)
	w.metrics.Held(w.held)
	return w
}

// run serves until ctx ends. The model is loaded here, once, on this goroutine, before a task is taken;
// there is no other way to a model in this program.
//
// The end comes in this order: (1) readiness off; (2) the queue takes no more tasks; (3) tasks under way get
// their grace, the unfinished go back unharmed; (4) the engine waits for calls still inside, then session
// and environment go; (5) the registry entry and Redis; (6) the probes' server, last, so that an
// orchestrator sees a draining worker and not a dead one.
func (w *worker) run(ctx context.Context) error {
	listener, err := w.cfg.http.Listen(ctx)
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	w.log.Info("probes are served", "address", listener.Addr().String())
	w.probes = listener.Addr().String()
	w.listen(listener.Addr())
	if w.restarts, err = openRestarts(w.cfg.restartFile); err != nil {
		return errors.Join(err, listener.Close())
	}
	last, end := context.WithCancel(context.WithoutCancel(ctx))
	group, inner := errgroup.WithContext(last)
	serving, stop := context.WithCancel(ctx)
	group.Go(func() error {
		defer stop() // a worker that nobody can probe must not go on
		return w.serveProbes(inner, listener)
	})
	group.Go(func() error {
		defer end()
		return w.withRedis(serving)
	})
	err = group.Wait()
	return errors.Join(err, w.restarts.end(err))
}

// withRedis announces the worker, keeps the lanes in order, loads, serves and stops.
func (w *worker) withRedis(ctx context.Context) error {
	rdb := w.cfg.conn.Client()
	defer rdb.Close()
	w.events = queue.NewEvents(rdb)
	ctx, finish := context.WithCancel(ctx)
	defer finish()
	w.finish = finish
	quiet := w.beside(ctx, rdb)
	defer quiet()
	w.note(queue.EventStarted, w.cfg.history(w.restarts.Crashes))

	if why := w.restarts.gaveUp(); why != nil {
		w.log.Error("crashed too often, serving nothing", "err", why)
		w.become(queue.StateFailed, why.Error())
		w.note(queue.EventFailed, why.Error())
		<-ctx.Done()
		return nil
	}
	err := w.work(ctx, rdb)
	text := "in order"
	if err != nil {
		text = err.Error()
	}
	w.note(queue.EventEnded, text)
	return err
}

// beside starts what runs beside the model from the first moment to the last, and returns what ends it: other
// workers' tasks must come back and due retries must move also while this one loads or drains. None of it
// fails, see there.
func (w *worker) beside(ctx context.Context, rdb redis.UniversalClient) (quiet func()) {
	ctx, silence := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	registry := queue.NewWorkers(rdb)
	running.Go(func() { _ = registry.Announce(ctx, w.log, w.describe, w.changed) })
	running.Go(func() { _ = registry.Watch(ctx, w.log, w.label) })
	running.Go(func() {
		opts := &queue.MaintenanceOptions{Logger: w.log, Models: []string{w.cfg.alias}}
		_ = queue.NewMaintenance(rdb, opts).Run(ctx)
	})
	running.Go(func() {
		self := queue.Worker{ID: w.id, Model: w.cfg.alias}
		_ = queue.NewControl(rdb).Follow(ctx, w.log, self, w.obey)
	})
	running.Go(func() { w.watchPulse(ctx) })
	return func() { silence(); running.Wait() }
}

// work loads the model and serves until ctx ends.
func (w *worker) work(ctx context.Context, rdb redis.UniversalClient) error {
	w.calls = &callRecord{log: w.log, calls: queue.NewCalls(rdb, w.id)}
	defer w.calls.wait()
	model, err := w.load(ctx)
	if err != nil {
		if ctx.Err() != nil {
			w.log.Info("stopped while loading at start-up")
			return nil
		}
		if errors.Is(err, engine.ErrFetch) {
			return err // a restart may help
		}
		return fmt.Errorf("%w: %w", boot.ErrModel, err)
	}
	err = w.serve(ctx, storeredis.New(rdb), model)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.grace)
	defer cancel()
	if closeErr := model.close(closing); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("closing the engine: %w", closeErr))
	}
	return err
}

// serve takes tasks until ctx ends, then drains.
func (w *worker) serve(ctx context.Context, docs *storeredis.Store, model *loaded) error {
	if err := w.claim(ctx, docs, model.space); err != nil {
		return err
	}
	ctx, displace := context.WithCancelCause(ctx)
	defer displace(nil)
	server, err := w.newServer(model, watched{docs, displace}, docs)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.model, w.queue = model, server
	w.mu.Unlock()
	w.settle() // what was ordered counts from the first task on
	leaveCores(w.meter.perToken(), device(model), os.LookupEnv)
	if err := server.Start(); err != nil {
		return err
	}
	w.serving(model)
	select {
	case <-ctx.Done():
	case <-model.lost:
		displace(errLost)
	}
	w.become(queue.StateDraining, "")
	w.log.Info("draining", "running", len(server.Running()), "grace", w.cfg.grace)
	server.Stop()
	err = server.Shutdown(context.WithoutCancel(ctx))
	w.log.Info("stopped serving")
	if other, ok := errors.AsType[*store.SpaceError](context.Cause(ctx)); ok {
		err = errors.Join(fmt.Errorf("%w: the alias was taken over while this worker served: %w", boot.ErrModel, other), err)
	}
	if errors.Is(context.Cause(ctx), errLost) {
		err = errors.Join(fmt.Errorf("%w: %v", errLost, model.stats().Refused), err)
	}
	return err
}

// newServer makes the queue's server. Documents that were leased together are handled together, unless each task is
// to have something of its own: spans, or a deadline of the operator's.
func (w *worker) newServer(model *loaded, docs tasks.Store, store *storeredis.Store) (*queue.Server, error) {
	parts := tasks.Parts{
		Model: w.cfg.alias, Space: model.space, Embedder: w.tracer.Embedder(model), Store: w.tracer.Store(docs), Answers: store,
	}
	opts := &queue.ServerOptions{
		Logger: w.log, Concurrency: w.cfg.concurrency, QueryConcurrency: w.cfg.queries, Grace: w.cfg.grace, Worker: w.id,
	}
	together := model.bulk != nil && !w.tracer.Records() && w.cfg.deadline == 0
	if together {
		parts.Bulk = bulk{model.bulk, store}
	}
	handler := tasks.NewHandler(w.log, parts, &tasks.HandlerOptions{Observer: taskObserver{w.metrics}})
	if together {
		opts.Together = feltTogether{handler, &w.pulse}
	}
	return queue.NewServer(w.cfg.conn, w.cfg.alias, w.cfg.lanes, felt{hurried{w.tracer.Handler(handler), w.cfg.deadline}, &w.pulse}, opts)
}

// serving says to everybody that the worker serves.
func (w *worker) serving(model *loaded) {
	device := device(model)
	w.metrics.Loaded(monitoring.Model{Alias: w.cfg.alias, Space: string(model.space), Device: device, Dim: strconv.Itoa(model.dim)})
	w.become(queue.StateReady, "")
	took := time.Since(w.started)
	w.log.Info("serving", "alias", w.cfg.alias, "space", model.space.Short(), "lanes", w.cfg.lanes,
		"concurrency", w.cfg.concurrency, "started_for", took)
	w.note(queue.EventReady, fmt.Sprintf("%d dimensions on %s, %v after its start", model.dim, device, took.Round(100*time.Millisecond)))
}

// device is what the model serves on.
func device(model *loaded) string { return cmp.Or(model.stats().Device, "cpu") }

// hurried is a handler with a deadline of the operator's own, if it is not 0: the earlier of it and the
// producer's counts.
type hurried struct {
	queue.Handler
	deadline time.Duration
}

func (h hurried) Handle(ctx context.Context, t tasks.Task) error {
	if h.deadline > 0 {
		cause := fmt.Errorf("the worker's --task-timeout of %v: %w", h.deadline, context.DeadlineExceeded)
		inner, cancel := context.WithTimeoutCause(ctx, h.deadline, cause)
		defer cancel()
		ctx = inner
	}
	return h.Handler.Handle(ctx, t)
}

// watched is the store as the handler sees it. When another worker takes the alias over for its own space,
// every write of this one is refused from then on: it ends, lest it lease tasks that it can't finish.
type watched struct {
	tasks.Store
	displace context.CancelCauseFunc
}

func (s watched) Refresh(ctx context.Context, rec vector.Record) (bool, error) {
	current, err := s.Store.Refresh(ctx, rec)
	return current, s.note(err)
}

func (s watched) Put(ctx context.Context, rec vector.Record) (bool, error) {
	stored, err := s.Store.Put(ctx, rec)
	return stored, s.note(err)
}

func (s watched) note(err error) error {
	if other, ok := errors.AsType[*store.SpaceError](err); ok {
		s.displace(other)
	}
	return err
}

// claim takes the alias's space-of-record. Redis may be away for a while at boot; another space is final.
func (w *worker) claim(ctx context.Context, docs *storeredis.Store, space vector.Space) error {
	mode := store.Keep
	if w.cfg.reembed {
		mode = store.ReEmbed
	}
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		err := docs.ClaimSpace(ctx, w.cfg.alias, space, mode)
		var other *store.SpaceError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &other):
			return fmt.Errorf("%w: %w; start with --reembed to take the alias over, or with another --alias", boot.ErrModel, err)
		case ctx.Err() == nil:
			w.log.Warn("claiming the space failed, trying again", "in", wait, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil // told to stop; serve drains at once
}

// serveProbes answers probes until ctx ends.
func (w *worker) serveProbes(ctx context.Context, l net.Listener) error {
	return monitoring.Serve(ctx, l, monitoring.Routes(w.log, monitoring.Health{
		Live: w.liveness, Ready: w.readiness, Status: w.status,
	}, w.metrics.Handler()))
}

// version is the build's, as Go stamped it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return info.Main.Version
}
