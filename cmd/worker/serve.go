package main

import (
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
	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// The states of a worker, as the registry and /statusz show them.
const (
	loading  = "loading"  // the model is not there yet; tasks wait in Redis
	ready    = "ready"    // serving
	draining = "draining" // told to stop; finishing what is under way
)

// A loaded model as the worker uses it; tests load a fake.
type loaded struct {
	tasks.Embedder
	space   vector.Space
	dim     int
	waiting func() int
	stats   func() any
	close   func(context.Context) error
}

// A worker is one process that serves one model.
type worker struct {
	log     *slog.Logger
	cfg     config
	id      string
	started time.Time
	metrics *monitoring.Worker
	load    func(context.Context) (*loaded, error)
	listen  func(net.Addr) // told where the probes are, for tests
	changed chan struct{}  // the registry should hear of a new state
	calls   *callRecord    // made with the connection, before the load

	mu    sync.Mutex // guards the fields below
	state string
	since time.Time
	model *loaded
	queue *queue.Server
}

func newWorker(log *slog.Logger, cfg config) *worker {
	w := &worker{
		log: log, cfg: cfg, id: uuid.NewString(), started: time.Now(), metrics: monitoring.NewWorker(version()),
		changed: make(chan struct{}, 1), state: loading, since: time.Now(), listen: func(net.Addr) {},
	}
	w.load = w.open
	return w
}

// open loads the real model behind a manager, which has it loaded once and for all.
func (w *worker) open(ctx context.Context) (*loaded, error) {
	set := w.cfg.engine
	set.Options.Logger = w.log
	set.Options.Observer = engineObserver{w.metrics}
	set.Options.OnCall = sabotage(w.calls.begin)
	source := engine.NewSource(w.log, set)
	manager, err := embedder.NewManager(source.Load, &embedder.ManagerOptions{
		// Every leased task may be inside: the queue's limits are the ones that hold texts back.
		Limits:      embedder.Limits{MaxAccess: w.cfg.concurrency + w.cfg.queries, LoadTimeout: w.cfg.loadTimeout},
		Environment: source, Logger: w.log,
	})
	if err != nil {
		return nil, err
	}
	if err := manager.Load(ctx); err != nil {
		return nil, errors.Join(err, manager.Close(ctx))
	}
	return &loaded{
		Embedder: manager, space: source.Space, dim: source.Model.Dim, close: manager.Close,
		waiting: func() int { return manager.Stats().Engine.WaitingTexts },
		stats:   func() any { return manager.Stats() },
	}, nil
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
	w.listen(listener.Addr())
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
	return group.Wait()
}

// withRedis announces the worker, keeps the lanes in order, loads, serves and stops.
func (w *worker) withRedis(ctx context.Context) error {
	rdb := w.cfg.conn.Client()
	defer rdb.Close()
	// What runs beside the model from the first moment to the last: other workers' tasks must come back and
	// due retries must move also while this one loads or drains. Neither fails, see there.
	beside, silence := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = queue.NewWorkers(rdb).Announce(beside, w.log, w.describe, w.changed) })
	running.Go(func() {
		opts := &queue.MaintenanceOptions{Logger: w.log, Models: []string{w.cfg.alias}}
		_ = queue.NewMaintenance(rdb, opts).Run(beside)
	})
	defer running.Wait()
	defer silence()

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
	w.metrics.Waiting(model.waiting)
	w.metrics.Loaded(monitoring.Model{Alias: w.cfg.alias, Space: string(model.space), Device: "cpu", Dim: strconv.Itoa(model.dim)})
	ctx, displace := context.WithCancelCause(ctx)
	defer displace(nil)
	handler := tasks.NewHandler(w.log, tasks.Parts{
		Model: w.cfg.alias, Space: model.space, Embedder: model, Store: watched{docs, displace}, Answers: docs,
	}, &tasks.HandlerOptions{Observer: taskObserver{w.metrics}})
	server, err := queue.NewServer(w.cfg.conn, w.cfg.alias, w.cfg.lanes, hurried{handler, w.cfg.deadline}, &queue.ServerOptions{
		Logger: w.log, Concurrency: w.cfg.concurrency, QueryConcurrency: w.cfg.queries, Grace: w.cfg.grace, Worker: w.id,
	})
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	w.become(ready, model, server)
	w.log.Info("serving", "alias", w.cfg.alias, "space", model.space.Short(), "lanes", w.cfg.lanes, "concurrency", w.cfg.concurrency,
		"started_for", time.Since(w.started))
	<-ctx.Done()
	w.become(draining, model, server)
	w.log.Info("draining", "running", len(server.Running()), "grace", w.cfg.grace)
	server.Stop()
	err = server.Shutdown(context.WithoutCancel(ctx))
	w.log.Info("stopped serving")
	if other, ok := errors.AsType[*store.SpaceError](context.Cause(ctx)); ok {
		err = errors.Join(fmt.Errorf("%w: the alias was taken over while this worker served: %w", boot.ErrModel, other), err)
	}
	return err
}

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

func (w *worker) become(state string, model *loaded, server *queue.Server) {
	w.mu.Lock()
	w.state, w.since, w.model, w.queue = state, time.Now(), model, server
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default: // an announcement is due already and will tell the newest state
	}
}

// describe is the worker's entry in the registry.
func (w *worker) describe() queue.Worker {
	host, _ := os.Hostname() // a name for people; none is fine
	w.mu.Lock()
	defer w.mu.Unlock()
	out := queue.Worker{
		ID: w.id, Model: w.cfg.alias, State: w.state, Since: w.since, Host: host, PID: os.Getpid(),
		Lanes: w.cfg.lanes, Concurrency: w.cfg.concurrency, Version: version(),
	}
	if w.model != nil {
		out.Space = w.model.space
	}
	return out
}

// serveProbes answers probes until ctx ends.
func (w *worker) serveProbes(ctx context.Context, l net.Listener) error {
	return monitoring.Serve(ctx, l, monitoring.Routes(w.log, monitoring.Health{
		Live: func() error { return nil }, Ready: w.readiness, Status: w.status,
	}, w.metrics.Handler()))
}

// readiness reports why the worker takes no tasks.
func (w *worker) readiness() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != ready {
		return fmt.Errorf("%s since %v", w.state, time.Since(w.since).Round(time.Second))
	}
	if since, cause := w.queue.Held(); cause != nil {
		return fmt.Errorf("tasks are held back since %v: %w", since.Format(time.TimeOnly), cause)
	}
	if late := w.queue.Overdue(); len(late) > 0 {
		return fmt.Errorf("%d tasks are inside beyond their deadline", len(late))
	}
	return nil
}

// status is the answer of /statusz.
func (w *worker) status() any {
	out := map[string]any{"worker": w.describe(), "uptime_seconds": int(time.Since(w.started).Seconds())}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.model != nil {
		out["engine"] = w.model.stats()
		out["running"] = len(w.queue.Running())
		out["overdue"] = len(w.queue.Overdue())
		if since, cause := w.queue.Held(); cause != nil { // store, Redis or model fail; nobody is charged
			out["held"] = map[string]any{"since": since, "cause": cause.Error()}
		}
	}
	return out
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
