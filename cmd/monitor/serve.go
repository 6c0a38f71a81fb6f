package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/docs"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/monitoring/fleet"
	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/monitoring/page"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// An app is the running monitor.
type app struct {
	streams
	config   *boot.Config
	settings settings
	logs     boot.Log

	cfg     config
	log     *slog.Logger
	rdb     redis.UniversalClient
	frame   *frame.Frame
	guard   *login.Guard
	fleet   *fleet.Collector
	page    *page.Page
	metrics *monitoring.Monitor

	beside []func(context.Context) error // what runs as long as the page; the mounts add to it
}

// serve runs until it is told to stop. Everything ends together; the page's streams are cut, since browsers come
// back by themselves.
func (a *app) serve(cmd *cobra.Command, _ []string) error {
	if err := a.settle(); err != nil {
		return err
	}
	defer a.rdb.Close()
	front, err := a.cfg.page.Listen(cmd.Context())
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	probes, err := a.cfg.health.Listen(cmd.Context())
	if err != nil {
		return fmt.Errorf("--probes: %w", errors.Join(err, front.Close()))
	}
	handler, err := a.routes()
	if err != nil {
		return errors.Join(err, front.Close(), probes.Close())
	}
	a.log.Info("configuration", a.config.Attrs()...)
	a.log.Info("serving", "page", a.url(front.Addr()), "probes", probes.Addr().String())
	group, ctx := errgroup.WithContext(cmd.Context())
	group.Go(func() error { return a.fleet.Run(ctx) })
	group.Go(func() error { return a.page.Run(ctx) })
	group.Go(func() error { return a.servePage(ctx, front, handler) })
	group.Go(func() error { return a.serveProbes(ctx, probes) })
	for _, run := range a.beside {
		group.Go(func() error { return run(ctx) })
	}
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// settle makes everything that does no I/O.
func (a *app) settle() error {
	err := a.config.Resolve(a.getenv)
	if err != nil {
		return err
	}
	if a.cfg, err = a.settings.config(a.config); err != nil {
		return err
	}
	a.log = a.logs.Logger(a.err)
	boot.RedisLog(a.log)
	if a.frame, err = frame.New(&frame.Options{Logger: a.log, Version: version(), Assets: assets()}); err != nil {
		return err
	}
	opts := a.cfg.login
	opts.Logger = a.log
	opts.Observe = func(outcome string) { a.metrics.Login(outcome) }
	if a.guard, err = login.New(a.frame, &opts); err != nil {
		return boot.Usagef("--users: %w", err)
	}
	a.rdb = a.cfg.conn.Client()
	return a.look()
}

// look makes the reader of the fleet and its page.
func (a *app) look() (err error) {
	lanes, dead, sources := queue.NewLanes(a.rdb), upkeep.NewDead(a.rdb), ledger.New(a.rdb)
	events := registry.NewEvents(a.rdb)
	a.fleet = fleet.NewCollector(fleet.Parts{
		Lanes: lanes, Workers: registry.NewWorkers(a.rdb), Events: events, Dead: dead, Sources: sources,
		Memory: func(ctx context.Context) float64 { return queue.UsedMemory(ctx, a.rdb) },
	}, &fleet.Options{Logger: a.log, Models: a.cfg.models})
	a.metrics = newMetrics(a.fleet)
	a.metrics.Registry().MustRegister(monitoring.NewRedisMemory(func(context.Context) float64 { s, _ := a.fleet.Snapshot(); return s.Memory }))
	a.page, err = page.New(page.Parts{
		Frame: a.frame, Fleet: a.fleet, Letters: dead, Histories: sources, Waiting: lanes,
		Controls: &desk{log: a.log, lanes: lanes, control: registry.NewControl(a.rdb), dead: dead, events: events, sources: sources, forget: forgetter(a.rdb)},
	}, &page.Options{Logger: a.log, Observe: a.metrics.Order, Handbook: docs.Operations})
	return err
}

func (a *app) url(addr net.Addr) string {
	if a.cfg.cert != "" {
		return "https://" + addr.String()
	}
	return "http://" + addr.String()
}

// servePage answers until ctx ends. Writes have no bound of time, for a stream of events may last a day.
func (a *app) servePage(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends the streams
		ErrorLog:    slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAnswers)
		defer cancel()
		if srv.Shutdown(last) != nil {
			_ = srv.Close()
		}
	})
	defer func() {
		if !stop() {
			<-closed // until then handlers use Redis
		}
	}()
	var err error
	if a.cfg.cert != "" {
		err = srv.ServeTLS(l, a.cfg.cert, a.cfg.key)
	} else {
		err = srv.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving the page: %w", err)
}

// lastAnswers is the time that requests under way have at the end; streams end at once.
const lastAnswers = 3 * time.Second

// unreached is how old lanes and workers may be before the monitor is not ready.
const unreached = time.Minute

// serveProbes answers probes until ctx ends. They are beside the page, for a probe has no login.
func (a *app) serveProbes(ctx context.Context, l net.Listener) error {
	return monitoring.Serve(ctx, l, monitoring.Routes(a.log, monitoring.Health{
		Live: func() error { return nil }, Ready: a.ready, Status: func() any { s, _ := a.fleet.Snapshot(); return s.Parts },
	}, a.metrics.Handler()))
}

// ready reports why the page would show nothing, or old figures only. It asks nobody: the collector knows.
func (a *app) ready() error {
	s, _ := a.fleet.Snapshot()
	for _, name := range []string{fleet.PartLanes, fleet.PartWorkers} {
		part := s.Parts[name]
		if part.At.IsZero() {
			return fmt.Errorf("%s were not read yet: %s", name, cmp.Or(part.Err, "the first reading is under way"))
		}
		if age := time.Since(part.At); age > unreached {
			return fmt.Errorf("%s were not read for %v: %s", name, age.Round(time.Second), part.Err)
		}
	}
	return nil
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
