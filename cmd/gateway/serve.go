package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/cmd/internal/lanes"
	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
)

const (
	grace = 10 * time.Second // for requests under way when it is told to stop

	spareConns = 8 // to Redis, for probes and figures
)

// An app is the running gateway.
type app struct {
	streams
	config   *boot.Config
	settings settings
	logs     boot.Log
	traces   boot.Trace

	cfg     config
	log     *slog.Logger
	rdb     redis.UniversalClient
	fleet   *fleet.Fleet
	models  []gateway.Model
	parts   gateway.Parts
	metrics *monitoring.Gateway
	redis   *queue.Probe
	leaving atomic.Bool // told to stop
}

// serve runs until it is told to stop: then it is not ready any more, requests under way get a grace, and the
// probes go last.
func (a *app) serve(cmd *cobra.Command, _ []string) error {
	if err := a.settle(cmd.Context()); err != nil {
		return err
	}
	defer a.fleet.Close()
	defer func() { a.untraced(a.tracer.Close()) }()
	front, err := a.cfg.api.Listen(cmd.Context())
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	probes, err := a.cfg.health.Listen(cmd.Context())
	if err != nil {
		return fmt.Errorf("--probes: %w", errors.Join(err, front.Close()))
	}
	a.log.Info("configuration", a.config.Attrs()...)
	if a.cfg.open != 0 {
		a.log.Warn("the file of tokens may be read by others", "file", a.cfg.tokensFile, "mode", a.cfg.open.String())
	}
	routes, err := a.routes()
	if err != nil {
		return errors.Join(boot.Usagef("--cors-origins: %w", err), front.Close(), probes.Close())
	}
	a.log.Info("serving", "models", aliases(a.models), "address", front.Addr().String(), "probes", probes.Addr().String(), "tokens", len(a.cfg.tokens))

	last, end := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer end()
	group, ctx := errgroup.WithContext(cmd.Context())
	group.Go(func() error { return a.redis.Run(ctx) })
	group.Go(func() error {
		defer end()
		return a.answer(ctx, front, routes)
	})
	if a.cfg.batch > 0 {
		group.Go(func() error { return a.fleet.Batches(a.log, rand.Text(), a.models).Run(ctx) })
	}
	group.Go(func() error { return a.probe(last, probes) })
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// settle makes clients, and finds the model if none was named.
func (a *app) settle(ctx context.Context) (err error) {
	if err := a.config.Resolve(a.getenv); err != nil {
		return err
	}
	if a.cfg, err = a.settings.config(a.config); err != nil {
		return err
	}
	a.log = slog.New(trace.Log(a.logs.Logger(a.err).Handler()))
	if a.tracer == nil {
		o := trace.Options{Collector: a.traces.Collector, Percent: a.traces.Percent, Logger: a.log}
		if a.tracer, err = trace.Open(ctx, "gateway", o); err != nil {
			return boot.Usagef("--otlp: %w", err)
		}
	}
	boot.RedisLog(a.log)
	a.rdb = a.cfg.conn.WithPool(a.cfg.requests + spareConns).Client()
	a.fleet = fleet.New(a.rdb)
	a.fleet.Limit(queue.Limits{Queries: int64(a.cfg.queries), Tasks: int64(a.cfg.waiting)})
	if a.models, err = a.find(ctx); err != nil {
		return errors.Join(err, a.fleet.Close())
	}
	a.parts = a.fleet.Gateway(a.log, a.models)
	a.metrics = monitoring.NewGateway(version(), monitoring.NewLanes(lanes.Reader(a.fleet.Lanes, aliases(a.models)...)))
	a.redis = queue.NewProbe(a.rdb)
	return nil
}

// find returns the models that were named, or all that there are.
func (a *app) find(ctx context.Context) ([]gateway.Model, error) {
	if len(a.cfg.list) > 0 {
		return a.cfg.list, nil
	}
	names, err := a.fleet.Models(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no worker has registered, nothing waits and no model was named: name it by --model")
	}
	var list []gateway.Model
	for _, name := range names {
		list = append(list, gateway.Model{Alias: name})
	}
	return list, nil
}

func aliases(models []gateway.Model) (names []string) {
	for _, m := range models {
		names = append(names, m.Alias)
	}
	return names
}

// untraced tells of spans that got lost, which is no reason to fail.
func (a *app) untraced(err error) {
	if err != nil {
		a.log.Warn("spans were not sent", "err", err)
	}
}

// routes are those of the gateway behind its tokens, and the two probes that balancers ask for where they send
// their requests.
func (a *app) routes() (http.Handler, error) {
	a.parts.Metrics = a.metrics.Handler()
	api, err := gateway.New(a.log, a.parts, &gateway.Options{
		Tokens: a.cfg.tokens, Hosts: a.cfg.hosts, Origins: a.cfg.origins, Requests: a.cfg.requests, Zone: a.cfg.zone, Version: version(), Ready: a.ready, Unavailable: queue.Unavailable,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	probes := monitoring.Routes(a.log, a.health(), http.NotFoundHandler())
	mux.Handle("GET /livez", probes)
	mux.Handle("GET /readyz", probes)
	mux.Handle("/", a.metrics.Measure(a.tracer.HTTP(api)))
	return mux, nil
}

// answer serves until ctx ends, then lets requests under way finish for a moment.
func (a *app) answer(ctx context.Context, l net.Listener, routes http.Handler) error {
	srv := gateway.NewServer(a.log, routes)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		a.leaving.Store(true)
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if err := srv.Shutdown(patience); err != nil {
			a.log.Warn("requests were cut off", "after", grace)
			_ = srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving HTTP: %w", err)
}

func (a *app) health() monitoring.Health {
	return monitoring.Health{Live: func() error { return nil }, Ready: a.ready, Status: a.status}
}

func (a *app) ready() error {
	if a.leaving.Load() {
		return errors.New("stopping")
	}
	return a.redis.Err()
}

// status is the answer of /statusz.
func (a *app) status() any {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := a.fleet.Status(ctx, "")
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	used, err := a.parts.Meter.Used(ctx)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return struct {
		fleet.Status
		Callers map[string]gateway.Usage `json:"callers"` // what each took this minute and today
	}{s, used}
}

// probe serves the probes until ctx ends.
func (a *app) probe(ctx context.Context, l net.Listener) error {
	return monitoring.Serve(ctx, l, monitoring.Routes(a.log, a.health(), a.metrics.Handler()))
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
