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
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
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
	listen   func(net.Addr)     // told where the probes are, for tests
	changed  chan struct{}      // the registry should hear of something new
	inFlight *consumer.InFlight // made with the connection, before the load
	events   *registry.Events   // likewise
	finish   func()             // likewise; ends the serving as a signal does

	settling sync.Mutex // held while settings change

	mu       sync.Mutex   // guards the fields below; never held while anything is waited for
	redis    *queue.Probe // nil before there is a connection
	state    string
	since    time.Time
	reason   string
	stage    *registry.Loading
	model    *loaded
	consumer *consumer.Consumer
	settings registry.Settings // in force, or to be when the model is there
	order    registry.Order    // the latest
	revision int64             // of the latest order that was looked at
	refused  string
}

func newWorker(log *slog.Logger, cfg config) *worker {
	w := &worker{
		log: log, cfg: cfg, id: uuid.NewString(), started: time.Now(), metrics: monitoring.NewWorker(version()),
		changed: make(chan struct{}, 1), state: registry.StateLoading, since: time.Now(), listen: func(net.Addr) {},
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
	w.events = registry.NewEvents(rdb)
	w.mu.Lock()
	w.redis = queue.NewProbe(rdb)
	w.mu.Unlock()
	ctx, finish := context.WithCancel(ctx)
	defer finish()
	w.finish = finish
	quiet := w.beside(ctx, rdb)
	defer quiet()
	w.note(registry.EventStarted, w.cfg.history(w.restarts.Crashes))

	if why := w.restarts.gaveUp(); why != nil {
		w.log.Error("crashed too often, serving nothing", "err", why)
		w.become(registry.StateFailed, why.Error())
		w.note(registry.EventFailed, why.Error())
		<-ctx.Done()
		return nil
	}
	err := w.work(ctx, rdb)
	text := "in order"
	if err != nil {
		text = err.Error()
	}
	w.note(registry.EventEnded, text)
	return err
}

// beside starts what runs beside the model from the first moment to the last, and returns what ends it: other
// workers' tasks must come back and due retries must move also while this one loads or drains. None of it
// fails, see there.
func (w *worker) beside(ctx context.Context, rdb redis.UniversalClient) (quiet func()) {
	ctx, silence := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	workers := registry.NewWorkers(rdb)
	running.Go(func() { _ = workers.Announce(ctx, w.log, w.describe, w.changed) })
	running.Go(func() { _ = workers.Watch(ctx, w.log, w.label) })
	running.Go(func() {
		opts := &upkeep.Options{Logger: w.log, Models: []string{w.cfg.alias}}
		_ = upkeep.New(rdb, opts).Run(ctx)
	})
	running.Go(func() {
		self := registry.Worker{ID: w.id, Model: w.cfg.alias}
		_ = registry.NewControl(rdb).Follow(ctx, w.log, self, w.obey)
	})
	running.Go(func() { w.watchPulse(ctx) })
	running.Go(func() { _ = w.redis.Run(ctx) })
	return func() { silence(); running.Wait() }
}

// work loads the model and serves until ctx ends.
func (w *worker) work(ctx context.Context, rdb redis.UniversalClient) error {
	w.inFlight = consumer.NewInFlight(w.log, rdb, w.id)
	defer w.inFlight.Wait()
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
	err = w.serve(ctx, rdb, model)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.grace)
	defer cancel()
	if closeErr := model.close(closing); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("closing the engine: %w", closeErr))
	}
	return err
}

// serve takes tasks until ctx ends, then drains.
func (w *worker) serve(ctx context.Context, rdb redis.UniversalClient, model *loaded) error {
	docs := storeredis.New(rdb)
	if err := w.claim(ctx, docs, model.space); err != nil {
		return err
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, displace := context.WithCancelCause(ctx)
	defer displace(nil)
	c, err := w.newConsumer(rdb, model, spaceGuard{docs, displace}, docs)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.model, w.consumer = model, c
	w.mu.Unlock()
	w.settle() // what was ordered counts from the first task on
	leaveCores(w.meter.perToken(), device(model), os.LookupEnv)
	watching.Go(func() { untilLost(ctx, model, displace) })
	w.serving(model)
	defer context.AfterFunc(ctx, func() {
		w.become(registry.StateDraining, "")
		w.log.Info("draining", "running", len(c.Running()), "grace", w.cfg.grace)
	})()
	err = c.Run(ctx)
	w.log.Info("stopped serving")
	if other, ok := errors.AsType[*store.SpaceError](context.Cause(ctx)); ok {
		err = errors.Join(fmt.Errorf("%w: the alias was taken over while this worker served: %w", boot.ErrModel, other), err)
	}
	if errors.Is(context.Cause(ctx), errLost) {
		err = errors.Join(fmt.Errorf("%w: %v", errLost, model.stats().Refused), err)
	}
	return err
}

// untilLost ends the serving when the model is lost.
func untilLost(ctx context.Context, model *loaded, displace context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
	case <-model.lost:
		displace(errLost)
	}
}

// newConsumer makes what takes the tasks.
func (w *worker) newConsumer(
	rdb redis.UniversalClient, model *loaded, docs tasks.Store, answers tasks.Answers,
) (*consumer.Consumer, error) {
	parts := tasks.Parts{Model: w.cfg.alias, Space: model.space, Embedder: model, Store: docs, Answers: answers}
	handler := tasks.NewHandler(w.log, parts, &tasks.HandlerOptions{Observer: w.tracer.Observer(taskObserver{w.metrics})})
	cost := model.stats().Engine.Cost
	return consumer.New(rdb, w.cfg.alias, w.cfg.lanes, withPulse{w.tracer.Handler(handler), &w.pulse}, &consumer.Options{
		Logger: w.log, Concurrency: w.cfg.concurrency, QueryConcurrency: w.cfg.queries, Grace: w.cfg.grace, Worker: w.id,
		Ahead: w.cfg.ahead, Deadline: w.cfg.deadline,
		Cost: consumer.Cost{Rate: cost.Rate, Window: cost.Window, Half: cost.Half},
	})
}

// serving says to everybody that the worker serves.
func (w *worker) serving(model *loaded) {
	device := device(model)
	w.metrics.Loaded(monitoring.Model{Alias: w.cfg.alias, Space: string(model.space), Device: device, Dim: strconv.Itoa(model.dim)})
	w.become(registry.StateReady, "")
	took := time.Since(w.started)
	w.log.Info("serving", "alias", w.cfg.alias, "space", model.space.Short(), "lanes", w.cfg.lanes,
		"concurrency", w.cfg.concurrency, "started_for", took)
	w.note(registry.EventReady, fmt.Sprintf("%d dimensions on %s, %v after its start", model.dim, device, took.Round(100*time.Millisecond)))
}

// device is what the model serves on.
func device(model *loaded) string { return cmp.Or(model.stats().Device, "cpu") }

// spaceGuard is the store as the handler sees it. When another worker takes the alias over for its own space,
// every write of this one is refused from then on: it ends, lest it lease tasks that it can't finish.
type spaceGuard struct {
	tasks.Store
	displace context.CancelCauseFunc
}

func (s spaceGuard) RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error) {
	current, err := s.Store.RefreshMany(ctx, recs)
	s.note(err)
	return current, err
}

func (s spaceGuard) PutMany(ctx context.Context, recs []vector.Record) ([]bool, []error) {
	stored, errs := s.Store.PutMany(ctx, recs)
	for _, err := range errs {
		s.note(err)
	}
	return stored, errs
}

func (s spaceGuard) note(err error) {
	if other, ok := errors.AsType[*store.SpaceError](err); ok {
		s.displace(other)
	}
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
