package main

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A loaded model as the worker uses it; tests load a fake.
type loaded struct {
	tasks.Embedder
	space     vector.Space
	dim       int
	precision string
	runners   int
	stats     func() embedder.Stats
	limits    func(embedder.LimitChange) error
	lost      <-chan struct{} // closed when it serves no more; nil is never
	close     func(context.Context) error
}

// open loads the real model behind a manager, which has it loaded once and for all.
func (w *worker) open(ctx context.Context) (*loaded, error) {
	set := w.cfg.engine
	set.Options.Logger = w.log
	set.Options.Observer = engineObserver{w.metrics, &w.meter, &w.pulse}
	set.Options.OnCall = sabotage(w.inFlight.Mark)
	set.Stage = w.staged
	source := engine.NewSource(w.log, set)
	limits := w.cfg.settings()
	manager, err := embedder.NewManager(source.Load, &embedder.ManagerOptions{
		Limits: embedder.Limits{
			MaxAccess: limits.MaxAccess, AccessTimeout: time.Duration(limits.AccessTimeout),
			MaxWaiting: w.cfg.maxWaiting(limits), LoadTimeout: w.cfg.loadTimeout,
		},
		Devices: set.Devices, Environment: source, Logger: w.log,
	})
	if err != nil {
		return nil, err
	}
	w.metrics.Manager(func() monitoring.Manager { return readingOf(manager.Stats()) })
	w.metrics.Waiting(func() int { return manager.Stats().Engine.WaitingTexts })
	if err := manager.Load(ctx); err != nil {
		return nil, errors.Join(err, manager.Close(ctx))
	}
	runners := set.Options.Runners
	if runners == 0 {
		runners = runtime.GOMAXPROCS(0) // as the engine does
	}
	return &loaded{
		Embedder: sabotaged(manager), space: source.Space, dim: source.Model.Dim, precision: "fp32", runners: runners,
		stats: manager.Stats, limits: manager.SetLimits, lost: manager.Lost(), close: manager.Close,
	}, nil
}

// staged takes note of how far the load is.
func (w *worker) staged(s engine.Stage) {
	w.mu.Lock()
	news := w.stage == nil || w.stage.Stage != s.Name
	if news {
		w.stage = &registry.Loading{Stage: s.Name, Since: time.Now()}
	}
	w.stage = &registry.Loading{Stage: s.Name, Since: w.stage.Since, Done: s.Done, Total: s.Total} // it may be read
	w.mu.Unlock()
	if news {
		w.announce()
	}
}

// settings are the worker's by its flags. Every leased task may be inside the model unless the flags say
// less: the queue's limits are the ones that hold texts back.
func (c config) settings() registry.Settings {
	s := registry.Settings{Concurrency: c.concurrency, MaxAccess: c.maxAccess, AccessTimeout: registry.Seconds(c.accessTimeout)}
	return c.complete(s)
}

// complete fills in what follows from the rest.
func (c config) complete(s registry.Settings) registry.Settings {
	if s.MaxAccess == 0 {
		s.MaxAccess = s.Concurrency + c.queries
	}
	return s
}

// maxWaiting is how many callers may wait for access: all that the queue lets in.
func (c config) maxWaiting(s registry.Settings) int { return max(1024, s.Concurrency+c.queries) }

// readingOf puts a snapshot of the manager into the metrics' words.
func readingOf(s embedder.Stats) monitoring.Manager {
	out := monitoring.Manager{
		State: string(s.State), Inside: s.Inside, Peak: s.Peak, Waiting: s.Waiting, Loads: s.Loads, LoadTime: time.Duration(s.LoadTime),
		Limits: map[string]int{"max_access": s.Limits.MaxAccess, "max_waiting": s.Limits.MaxWaiting},
		Timeouts: map[string]time.Duration{
			"access": s.Limits.AccessTimeout, "wait": s.Limits.WaitTimeout, "load": s.Limits.LoadTimeout,
		},
		Calls: map[string]int64{
			"done": s.Done, "permanent": s.Permanent, "overloaded": s.Overloaded, "cancelled": s.Cancelled, "closed": s.Closed, "failed": s.Failed,
		},
	}
	if s.Memory.Unknown != "" {
		return out
	}
	for of, use := range map[string]embedder.MemoryUse{"weights": s.Memory.Weights, "process": s.Memory.Process} {
		for kind, n := range map[string]int64{"private": use.Private, "shared": use.Shared, "proportional": use.Proportional} {
			out.Memory = append(out.Memory, monitoring.Memory{Of: of, Kind: kind, Bytes: n})
		}
	}
	return out
}
