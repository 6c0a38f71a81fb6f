package main

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
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
	rereadEvery = 5 * time.Second  // the file of sources
	lookEvery   = 15 * time.Second // at what the figures are drawn from
	unreached   = time.Minute      // without Redis a scheduler is not ready after that
)

// observer carries the scheduler's measurements to the metrics.
type observer struct{ metrics *monitoring.Crawler }

func (o observer) Skipped(job, why string) { o.metrics.Skipped(job, why) }

func (o observer) Ran(job, outcome string, r scheduler.Report, _ time.Duration) {
	o.metrics.Run(job, outcome)
	o.metrics.Traffic(job, r.Requests, r.Bytes)
	for what, n := range map[string]int{
		"new": r.New, "updated": r.Updated, "stored": r.Stored, "repeated": r.Repeated, "dropped": r.Dropped, "refused": r.Refused,
	} {
		o.metrics.Documents(job, what, n)
	}
}

// A server is the long-running scheduler.
type server struct {
	*app
	plan    atomic.Pointer[plan]
	metrics *monitoring.Crawler
	reached atomic.Int64 // Redis, last, in Unix nanoseconds

	every, patience time.Duration // lookEvery and unreached; shorter in tests
}

// serve runs until it is told to stop. Everything ends together: the clock gives back what is under way,
// then the probes go.
func (a *app) serve(cmd *cobra.Command, _ []string) error {
	if err := a.cfg.needAlias(); err != nil {
		return err
	}
	first, err := a.plan()
	if err != nil {
		return err
	}
	if len(first.jobs) == 0 {
		a.log.Warn("nothing to crawl: no --sources, no --dart-key, no --feeds; only the lanes are kept in order")
	}
	s := &server{app: a, metrics: monitoring.NewCrawler(version()), every: lookEvery, patience: unreached}
	s.plan.Store(first)
	s.reached.Store(time.Now().UnixNano())
	s.metrics.Registry().MustRegister(
		monitoring.NewLanes(lanes.Reader(queue.NewLanes(a.rdb), a.cfg.alias)),
		monitoring.NewRedisMemory(func(ctx context.Context) float64 { return queue.UsedMemory(ctx, a.rdb) }),
	)
	clock, err := scheduler.New(a.ledger, first.jobs, &scheduler.Options{Logger: a.log, Observer: observer{s.metrics}})
	if err != nil {
		return err
	}
	listener, err := a.cfg.probes.Listen(cmd.Context())
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	a.log.Info("configuration", a.config.Attrs()...)
	a.log.Info("scheduling", "jobs", len(first.jobs), "probes", listener.Addr().String())
	group, ctx := errgroup.WithContext(cmd.Context())
	group.Go(func() error { return clock.Run(ctx) })
	group.Go(func() error {
		opts := &upkeep.Options{Logger: a.log, Models: []string{a.cfg.alias}}
		return upkeep.New(a.rdb, opts).Run(ctx)
	})
	// Workers watch each other; of the last one's death only somebody else can tell.
	group.Go(func() error { return registry.NewWorkers(a.rdb).Watch(ctx, a.log, "scheduler") })
	group.Go(func() error { return s.freshness(ctx) })
	group.Go(func() error { return s.follow(ctx, clock) })
	group.Go(func() error { return s.look(ctx) })
	group.Go(func() error { return s.hear(ctx, clock, group.Go) })
	group.Go(func() error { return s.probes(ctx, listener) })
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// each calls do every so often until ctx ends.
func each(ctx context.Context, every time.Duration, do func()) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			do()
		}
	}
}

// follow reads the file of sources again when it changes, until ctx ends. A version that can't be read is reported, and
// the one before stays in force.
func (s *server) follow(ctx context.Context, clock *scheduler.Scheduler) error {
	if s.file == nil {
		return nil
	}
	return each(ctx, rereadEvery, func() {
		set, changed, err := s.file.Read()
		if !changed {
			return
		}
		var next *plan
		if err == nil {
			next, err = s.planOf(set)
		}
		if err == nil {
			err = clock.Replace(next.jobs)
		}
		if err != nil {
			s.log.Error("the sources can't be read, those before stay in force", "err", err)
			return
		}
		before := s.plan.Swap(next)
		s.log.Info("the sources were read again", "jobs", len(next.jobs))
		if err := s.ledger.Withdraw(ctx, gone(before, next)); err != nil {
			s.log.Warn("telling that jobs are gone failed; they are shown as kept by nobody for a week", "err", err)
		}
	})
}

// gone returns the schedules of jobs that are in one plan and not in the next.
func gone(before, next *plan) (list []scheduler.Schedule) {
	kept := names(next.jobs)
	for _, j := range before.jobs {
		if !slices.Contains(kept, j.Job) {
			list = append(list, j.Schedule)
		}
	}
	return list
}

// freshness measures how long documents take until they can be searched, of all sources, until ctx ends.
func (s *server) freshness(ctx context.Context) error {
	watches := map[string]*scheduler.Freshness{}
	return each(ctx, scheduler.FreshEvery, func() {
		for name, source := range s.plan.Load().pages {
			if watches[name] == nil {
				watches[name] = &scheduler.Freshness{Log: s.log, Alias: s.cfg.alias, Source: name, Waiting: source, Store: s.store, Seen: s.metrics.Fresh}
			}
			watches[name].Look(ctx)
		}
	})
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
	now := s.plan.Load()
	if len(now.jobs) == 0 {
		return s.rdb.Ping(ctx).Err()
	}
	if err := s.ledger.Announce(ctx, schedules(now.jobs)); err != nil {
		return err
	}
	for _, j := range now.jobs {
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
	for name, source := range now.pages {
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
	list, err := s.overview(ctx, s.plan.Load().jobs)
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
