package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
)

// Lanes is the queue as the collector reads it; *queue.Lanes is one.
type Lanes interface {
	Status(ctx context.Context, models ...string) ([]queue.LaneStatus, error)
}

// Workers is the registry of workers; *registry.Workers is one.
type Workers interface {
	List(ctx context.Context) ([]registry.Worker, error)
}

// Events is what changed lately, the latest first; *registry.Events is one.
type Events interface {
	List(ctx context.Context, limit int) ([]registry.Event, error)
}

// Dead counts dead letters by cause; *upkeep.Dead is one.
type Dead interface {
	Causes(ctx context.Context, model string, lanes ...tasks.Lane) ([]upkeep.CauseCount, error)
}

// Sources is what crawlers wrote down; *ledger.Ledger is one.
type Sources interface {
	Status(ctx context.Context, also ...scheduler.Schedule) ([]ledger.SourceStatus, error)
}

// Parts are what a collector reads.
type Parts struct {
	Lanes   Lanes
	Workers Workers
	Events  Events
	Dead    Dead
	Sources Sources
	// Memory returns the used part of Redis's limit, 0 if it has none. It may be nil.
	Memory func(context.Context) float64
}

const (
	// readEvery is how often what moves is read, and seldomEvery what moves little or costs round trips.
	readEvery   = 2 * time.Second
	seldomEvery = 5 * time.Second
	// readTimeout bounds one reading: a Redis that is slower is as good as away.
	readTimeout = 10 * time.Second
	// maxEvents is how many events are shown.
	maxEvents = 100
	// causeReaders is how many models' causes are read at once.
	causeReaders = 8
)

// Options are a collector's settings.
type Options struct {
	Logger *slog.Logger
	Models []string // shown even while the queue does not know them
}

// A Collector reads the fleet at its own pace, however many look at it.
type Collector struct {
	log    *slog.Logger
	parts  Parts
	models []string
	hours  *hours

	mu      sync.Mutex
	current *Snapshot
	changed chan struct{} // closed when current is replaced
}

// NewCollector returns a collector that has read nothing yet; nil options are valid.
func NewCollector(parts Parts, opts *Options) *Collector {
	if opts == nil {
		opts = &Options{}
	}
	c := &Collector{log: opts.Logger, parts: parts, models: opts.Models, hours: newHours(),
		current: &Snapshot{Since: time.Now(), Parts: map[string]Part{}}, changed: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Snapshot returns the latest state and a channel that is closed when there is a newer one. It never waits.
func (c *Collector) Snapshot() (*Snapshot, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, c.changed
}

// Run reads until ctx ends, then returns nil. Each part has a reader of its own, so that a slow one does not
// hold the others up; one that fails keeps what it last read, with its age.
func (c *Collector) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for _, r := range c.readers() {
		group.Go(func() { c.follow(ctx, r) })
	}
	group.Wait()
	return nil
}

// A reader reads one part and returns how to put it into a snapshot.
type reader struct {
	name  string
	every time.Duration
	read  func(context.Context) (func(*Snapshot), error)
}

func (c *Collector) readers() []reader {
	return []reader{
		{PartLanes, readEvery, c.readLanes},
		{PartWorkers, readEvery, func(ctx context.Context) (func(*Snapshot), error) {
			list, err := c.parts.Workers.List(ctx)
			return func(s *Snapshot) { s.Workers = list }, err
		}},
		{PartEvents, readEvery, func(ctx context.Context) (func(*Snapshot), error) {
			list, err := c.parts.Events.List(ctx, maxEvents)
			return func(s *Snapshot) { s.Events = list }, err
		}},
		{PartCauses, seldomEvery, c.readCauses},
		{PartSources, seldomEvery, func(ctx context.Context) (func(*Snapshot), error) {
			list, err := c.parts.Sources.Status(ctx)
			return func(s *Snapshot) { s.Sources = list }, err
		}},
	}
}

// follow reads one part again and again. The next reading begins a pause after the last one ended: a Redis
// that is slow is not asked more often than it answers.
func (c *Collector) follow(ctx context.Context, r reader) {
	failing := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := c.once(ctx, r)
		if ctx.Err() != nil {
			return
		}
		if (err != nil) != failing {
			failing = err != nil
			c.log.Warn("reading the fleet", "part", r.name, "works", !failing, "err", err)
		}
		timer.Reset(r.every)
	}
}

// once reads one part and publishes it.
func (c *Collector) once(ctx context.Context, r reader) error {
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	begin := time.Now()
	put, err := r.read(reading)
	c.publish(func(s *Snapshot) {
		part := s.Parts[r.name]
		part.Err = ""
		if err != nil {
			part.Err = err.Error()
		} else {
			put(s)
			part.At, part.Took = begin, time.Since(begin)
		}
		s.Parts[r.name] = part
	})
	return err
}

// publish replaces the snapshot with a changed copy; readers of the old one keep it.
func (c *Collector) publish(change func(*Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.current
	next.Number++
	next.Parts = maps.Clone(c.current.Parts)
	change(&next)
	c.current = &next
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Collector) readLanes(ctx context.Context) (func(*Snapshot), error) {
	list, err := c.parts.Lanes.Status(ctx, c.models...)
	if err != nil {
		return nil, err
	}
	trends, memory := c.hours.add(time.Now(), list), 0.0
	if c.parts.Memory != nil {
		memory = c.parts.Memory(ctx)
	}
	return func(s *Snapshot) { s.Lanes, s.Trends, s.Memory = list, trends, memory }, nil
}

// readCauses asks about the lanes that have dead letters, by the latest snapshot.
func (c *Collector) readCauses(ctx context.Context) (func(*Snapshot), error) {
	latest, _ := c.Snapshot()
	lanes := map[string][]tasks.Lane{}
	for _, l := range latest.Lanes {
		if l.Dead > 0 {
			lanes[l.Model] = append(lanes[l.Model], l.Lane)
		}
	}
	var (
		group sync.WaitGroup
		room  = make(chan struct{}, causeReaders)
		mu    sync.Mutex
		list  []Cause
		fault error
	)
	for model, some := range lanes {
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			counts, err := c.parts.Dead.Causes(ctx, model, some...)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				fault = fmt.Errorf("model %s: %w", model, err)
			}
			for _, n := range counts {
				list = append(list, Cause{Model: model, CauseCount: n})
			}
		})
	}
	group.Wait()
	slices.SortFunc(list, compareCauses)
	return func(s *Snapshot) { s.Causes = list }, fault
}
