package main

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/lanes"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler"
)

const (
	lookEvery = 15 * time.Second // at what the figures are drawn from
	unreached = time.Minute      // without Redis a scheduler is not ready after that
)

// observer carries the scheduler's measurements to the metrics.
type observer struct{ metrics *monitoring.Crawler }

func (o observer) Skipped(job, why string) { o.metrics.Skipped(job, why) }

func (o observer) Ran(job, outcome string, r scheduler.Report, _ time.Duration) {
	o.metrics.Run(job, outcome)
	o.metrics.Traffic(job, r.Requests, r.Bytes)
	for what, n := range map[string]int{
		"new": r.New, "stored": r.Stored, "repeated": r.Repeated, "dropped": r.Dropped, "refused": r.Refused,
	} {
		o.metrics.Documents(job, what, n)
	}
}

// A server is the long-running scheduler.
type server struct {
	*app
	jobs    []scheduler.Job
	metrics *monitoring.Crawler
	reached atomic.Int64 // Redis, last, in Unix nanoseconds

	every, patience time.Duration // lookEvery and unreached; shorter in tests
}

// serve runs until it is told to stop. Everything ends together: the clock gives back what is under way,
// then the probes go.
func (a *app) serve(cmd *cobra.Command, _ []string) error {
	jobs, err := a.jobs()
	if err != nil {
		return err
	}
	if len(jobs) == 0 {
		a.log.Warn("nothing to crawl: no --dart-key, no --feeds; only the lanes are kept in order")
	}
	s := &server{app: a, jobs: jobs, metrics: monitoring.NewCrawler(version()), every: lookEvery, patience: unreached}
	s.reached.Store(time.Now().UnixNano())
	s.metrics.Registry().MustRegister(
		monitoring.NewLanes(lanes.Reader(queue.NewLanes(a.rdb), a.cfg.alias)),
		monitoring.NewRedisMemory(func(ctx context.Context) float64 { return queue.UsedMemory(ctx, a.rdb) }),
	)
	clock, err := scheduler.New(a.ledger, jobs, &scheduler.Options{Logger: a.log, Observer: observer{s.metrics}})
	if err != nil {
		return err
	}
	listener, err := a.cfg.probes.Listen(cmd.Context())
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	a.log.Info("configuration", a.config.Attrs()...)
	a.log.Info("scheduling", "jobs", len(jobs), "probes", listener.Addr().String())
	group, ctx := errgroup.WithContext(cmd.Context())
	group.Go(func() error { return clock.Run(ctx) })
	group.Go(func() error {
		opts := &upkeep.Options{Logger: a.log, Models: []string{a.cfg.alias}}
		return upkeep.New(a.rdb, opts).Run(ctx)
	})
	// Workers watch each other; of the last one's death only somebody else can tell.
	group.Go(func() error { return registry.NewWorkers(a.rdb).Watch(ctx, a.log, "scheduler") })
	for name, source := range a.sources {
		f := &scheduler.Freshness{Log: a.log, Alias: a.cfg.alias, Source: name, Waiting: source, Store: a.store, Seen: s.metrics.Fresh}
		group.Go(func() error { return f.Run(ctx) })
	}
	group.Go(func() error { return s.look(ctx) })
	group.Go(func() error { return s.hear(ctx, clock, group.Go) })
	group.Go(func() error { return s.probes(ctx, listener) })
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// look draws the figures that live in Redis, until ctx ends.
func (s *server) look(ctx context.Context) error {
	ticker := time.NewTicker(s.every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := s.figures(ctx); err == nil {
			s.reached.Store(time.Now().UnixNano())
		} else if ctx.Err() == nil {
			s.log.Warn("drawing figures failed", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

func (s *server) figures(ctx context.Context) error {
	if len(s.jobs) == 0 {
		return s.rdb.Ping(ctx).Err()
	}
	if err := s.ledger.Announce(ctx, schedules(s.jobs)); err != nil {
		return err
	}
	for _, j := range s.jobs {
		state, err := s.ledger.Job(ctx, j.Source, j.Job)
		if err != nil {
			return err
		}
		if !state.LastOK.IsZero() {
			s.metrics.Succeeded(j.Job, state.LastOK)
		}
		paused := 0.0
		if state.Paused != "" {
			paused = 1
		}
		s.metrics.Paused(j.Source, paused)
	}
	for name, source := range s.sources {
		n, oldest, err := source.Awaited(ctx)
		if err != nil {
			return err
		}
		age := time.Duration(0)
		if n > 0 {
			age = time.Since(oldest)
		}
		s.metrics.Awaiting(name, n, age)
	}
	return nil
}

// probes answers until ctx ends.
func (s *server) probes(ctx context.Context, l net.Listener) error {
	return monitoring.Serve(ctx, l, monitoring.Routes(s.log, monitoring.Health{
		Live: func() error { return nil }, Ready: s.ready, Status: s.status,
	}, s.metrics.Handler()))
}

func (s *server) ready() error {
	if away := time.Since(time.Unix(0, s.reached.Load())); away > s.patience {
		return fmt.Errorf("redis was not reached for %v", away.Round(time.Second))
	}
	return nil
}

// status is the answer of /statusz.
func (s *server) status() any {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	list, err := s.overview(ctx, s.jobs)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return list
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
