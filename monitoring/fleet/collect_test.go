package fleet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
)

// fake is a Redis that is slow, away, or hangs, and counts what it is asked.
type fake struct {
	asked atomic.Int64
	lanes []queue.LaneStatus

	mu   sync.Mutex
	slow time.Duration
	err  error
}

// become changes how it answers from now on.
func (f *fake) become(slow time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow, f.err = slow, err
}

func (f *fake) answer(ctx context.Context) error {
	f.asked.Add(1)
	f.mu.Lock()
	slow, err := f.slow, f.err
	f.mu.Unlock()
	select {
	case <-time.After(slow):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fake) Status(ctx context.Context, _ ...string) ([]queue.LaneStatus, error) {
	return slices.Clone(f.lanes), f.answer(ctx)
}

func (f *fake) Causes(ctx context.Context, _ string, lanes ...tasks.Lane) ([]upkeep.CauseCount, error) {
	return []upkeep.CauseCount{{Code: "timeout", Letters: int64(len(lanes))}}, f.answer(ctx)
}

type fakeWorkers struct{ *fake }

func (f fakeWorkers) List(ctx context.Context) ([]registry.Worker, error) {
	return []registry.Worker{{ID: "w1"}}, f.answer(ctx)
}

type fakeEvents struct{ *fake }

func (f fakeEvents) List(ctx context.Context, _ int) ([]registry.Event, error) {
	return []registry.Event{{What: "x"}}, f.answer(ctx)
}

type fakeSources struct{ *fake }

func (f fakeSources) Status(ctx context.Context, _ ...scheduler.Schedule) ([]ledger.SourceStatus, error) {
	return []ledger.SourceStatus{{Source: "dart"}}, f.answer(ctx)
}

func collector(t *testing.T, f *fake) *Collector {
	return NewCollector(Parts{Lanes: f, Workers: fakeWorkers{f}, Events: fakeEvents{f}, Dead: f, Sources: fakeSources{f}}, &Options{Logger: testkit.Logger(t)})
}

// run lets a collector run for a while of the bubble's time, then does the test's part.
func run(t *testing.T, c *Collector, test func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	test()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestACollectorReadsAtItsOwnPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{slow: time.Millisecond, lanes: []queue.LaneStatus{{Model: "minilm", Lane: tasks.Live, Dead: 2}, {Model: "minilm", Lane: tasks.Query}}}
		c := collector(t, f)
		if s, _ := c.Snapshot(); s.Read() {
			t.Error("something was read before Run")
		}
		run(t, c, func() {
			time.Sleep(time.Minute)
			s, _ := c.Snapshot()
			if !s.Read() || len(s.Workers) != 1 || len(s.Sources) != 1 || len(s.Events) != 1 {
				t.Errorf("the snapshot misses parts: %+v", s)
			}
			if len(s.Causes) != 1 || s.Causes[0].Letters != 1 {
				t.Errorf("causes were asked of lanes without letters, or not at all: %+v", s.Causes)
			}
			if parts, _ := s.Stale(time.Now()); parts != nil {
				t.Errorf("stale: %v", parts)
			}
			for range 1000 { // viewers
				c.Snapshot()
			}
		})
		// Three parts every 2 s, two every 5 s.
		if n := f.asked.Load(); n < 100 || n > 120 {
			t.Errorf("%d readings in a minute, want about 114", n)
		}
	})
}

// TestSlowParts has each answer take 200 ms, as a Redis far away does, and then 30 s, as one that hangs.
func TestSlowParts(t *testing.T) {
	for _, tt := range []struct {
		slow  time.Duration
		stale bool
	}{{200 * time.Millisecond, false}, {30 * time.Second, true}} {
		t.Run(tt.slow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{slow: time.Millisecond}
				c := collector(t, f)
				run(t, c, func() {
					time.Sleep(10 * time.Second)
					f.become(tt.slow, nil)
					time.Sleep(time.Minute)
					s, _ := c.Snapshot()
					parts, since := s.Stale(time.Now())
					if (parts != nil) != tt.stale {
						t.Errorf("stale: %v since %v", parts, since)
					}
					if age := time.Since(since); tt.stale && (age < 55*time.Second || age > 65*time.Second) {
						t.Errorf("the age is given as %v", age)
					}
					if !s.Read() || len(s.Workers) != 1 {
						t.Error("what was read before is gone")
					}
					f.become(time.Millisecond, nil)
					time.Sleep(30 * time.Second)
					s, _ = c.Snapshot()
					if parts, _ := s.Stale(time.Now()); parts != nil {
						t.Errorf("stale after it is back: %v", parts)
					}
				})
			})
		})
	}
}

func TestAFailureKeepsWhatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{lanes: []queue.LaneStatus{{Model: "minilm", Lane: tasks.Live, Pending: 5}}}
		c := collector(t, f)
		run(t, c, func() {
			time.Sleep(5 * time.Second)
			f.become(0, errors.New("connection refused"))
			time.Sleep(20*time.Second + 500*time.Millisecond) // between two readings
			s, newer := c.Snapshot()
			if len(s.Lanes) != 1 || s.Lanes[0].Pending != 5 {
				t.Errorf("lanes: %+v", s.Lanes)
			}
			if s.Parts[PartLanes].Err != "connection refused" {
				t.Errorf("part: %+v", s.Parts[PartLanes])
			}
			v := Judge(s, time.Now())
			if v.Level != Wrong || v.Findings[0].Runbook != "redis-is-slow-or-away" {
				t.Errorf("verdict: %+v", v)
			}
			select {
			case <-newer:
				t.Error("a snapshot is replaced without a reading")
			default:
			}
			time.Sleep(3 * time.Second)
			select {
			case <-newer:
			default:
				t.Error("viewers are not told of a newer snapshot")
			}
		})
	})
}

func TestTrend(t *testing.T) {
	t.Parallel()
	h := newHours()
	at := noon
	add := func(pending, processed, dead int64) Trend {
		return h.add(at, []queue.LaneStatus{{Model: "m", Lane: tasks.Live, Pending: pending, Processed: processed, Dead: dead}})[Lane{"m", tasks.Live}]
	}
	var last Trend
	processed := int64(1000) // it ran before anybody looked
	for range 2 * 3600 / 2 {
		last = add(int64(at.Minute()), processed, int64(at.Sub(noon)/time.Minute))
		processed += 20
		at = at.Add(2 * time.Second)
	}
	if len(last.Pending) != trendPoints || len(last.Rate) != trendPoints {
		t.Fatalf("an hour has %d and %d points", len(last.Pending), len(last.Rate))
	}
	for i, rate := range last.Rate {
		if rate < 9 || rate > 11 {
			t.Errorf("point %d: %.1f a second, want 10", i, rate)
		}
	}
	if got := last.Pending[len(last.Pending)-1]; got != 59 {
		t.Errorf("at the end %v wait, want 59", got)
	}
	if got := last.Grew(); got < 59 || got > 60 {
		t.Errorf("dead letters grew by %d in the hour", got)
	}
	processed = 7 // Redis lost its counter
	add(1, processed, 0)
	at = at.Add(trendStep)
	if last = add(1, processed, 0); last.Rate[len(last.Rate)-1] < 0 || last.Grew() != 0 {
		t.Errorf("a counter that began anew: rate %v, grew %d", last.Rate[len(last.Rate)-1], last.Grew())
	}
	at = at.Add(10 * time.Minute) // nobody looked
	if last = add(3, processed, 0); len(last.Pending) != trendPoints || last.Pending[len(last.Pending)-2] != 1 {
		t.Errorf("a gap is not filled with what was known: %v", last.Pending)
	}
	if got := h.add(at, nil); len(got) != 1 {
		t.Errorf("%d trends of lanes that are gone", len(got)-1)
	}
}

func TestTotals(t *testing.T) {
	t.Parallel()
	s := snapshot(lanes(
		queue.LaneStatus{Model: "a", Lane: tasks.Live, Pending: 1, Pace: queue.Pace{Work: time.Minute, ETA: time.Hour}},
		queue.LaneStatus{Model: "a", Lane: tasks.Backfill, Pending: 2, Pace: queue.Pace{Work: 2 * time.Minute}},
		queue.LaneStatus{Model: "b", Lane: tasks.Live, Pending: 4, Pace: queue.Pace{Work: 90 * time.Second}},
	))
	if sum := s.Total(""); sum.Pending != 7 || sum.Work != 3*time.Minute || sum.ETA != time.Hour {
		t.Errorf("the fleet: %+v", sum)
	}
	if sum := s.Total("b"); sum.Pending != 4 || sum.Work != 90*time.Second {
		t.Errorf("b: %+v", sum)
	}
}
