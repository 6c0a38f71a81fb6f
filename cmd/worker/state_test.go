package main

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/supervise"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// TestProbesByState is the table of what the probes say in each state. The server has nothing in hand: what
// its figures do to readiness is in the other tests.
func TestProbesByState(t *testing.T) {
	t.Parallel()
	stuck := func(p *monitoring.Pulse) { p.Enter(); time.Sleep(time.Minute) }
	fine := func(p *monitoring.Pulse) { p.Enter(); p.Done(); time.Sleep(time.Minute) }
	for _, tt := range []struct {
		name, state string
		work        func(*monitoring.Pulse)
		live, ready string // what the probe names, "" for ok
	}{
		{"loading", registry.StateLoading, fine, "", "loading since"},
		{"ready", registry.StateReady, fine, "", ""},
		{"stuck", registry.StateReady, stuck, "with 1 in hand", "stuck"},
		{"draining", registry.StateDraining, fine, "", "draining since"},
		{"stuck while draining", registry.StateDraining, stuck, "stuck", "draining since"},
		{"given up", registry.StateFailed, fine, "", "failed since 0s: 5 crashes"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorker(testkit.Logger(t), config{})
			w.consumer = &consumer.Consumer{}
			tt.work(&w.pulse)
			reason := ""
			if tt.state == registry.StateFailed {
				reason = "5 crashes"
			}
			w.become(tt.state, reason)
			for what, probe := range map[string]struct {
				err  error
				want string
			}{"/livez": {w.liveness(), tt.live}, "/readyz": {w.readiness(), tt.ready}} {
				if (probe.err == nil) != (probe.want == "") || probe.err != nil && !strings.Contains(probe.err.Error(), probe.want) {
					t.Errorf("%s: %s says %v, want %q", tt.name, what, probe.err, probe.want)
				}
			}
		})
	}
}

// TestProbesDoNotWaitForInference asks every probe while all of the model hangs, and more is coming.
func TestProbesDoNotWaitForInference(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", func(c *config) { c.concurrency = 2; c.grace = time.Second })
	x.gate <- nil
	x.until("ready", func() bool { return x.status().Worker.Serving() })
	x.enqueue("stall 1", "stall 2", "stall 3")
	x.until("both slots are taken", func() bool { return x.status().Worker.InUse == 2 })
	for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusOK, "/statusz": http.StatusOK, "/metrics": http.StatusOK} {
		if code, body := x.get(path); code != want {
			t.Errorf("%s: %d %.200s", path, code, body)
		}
	}
	if _, body := x.get("/metrics"); !strings.Contains(body, "embed_worker_tasks 2") {
		t.Error("the tasks in hand are not counted")
	}
	close(x.fake.stalled)
	x.stop()
	if err := x.end(); err != nil {
		t.Error(err)
	}
}

// TestNoTaskLoadsAModel has tasks waiting before, while and after the one load that there is.
func TestNoTaskLoadsAModel(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", nil)
	receipts := x.enqueue("one", "two")
	x.until("it loads", func() bool { return x.fake.loads.Load() == 1 })
	receipts = append(receipts, x.enqueue("three")...)
	x.until("the stage shows", func() bool {
		l := x.status().Worker.Loading
		return l != nil && l.Stage == "checking" && time.Since(l.Since) < time.Minute
	})
	x.gate <- nil
	receipts = append(receipts, x.enqueue("four")...)
	if failures, err := x.fleet.Queue.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Fatalf("waiting: %v, %v", failures, err)
	}
	if n := x.fake.loads.Load(); n != 1 {
		t.Errorf("%d loads, want 1", n)
	}
	x.stop()
	if err := x.end(); err != nil {
		t.Error(err)
	}
}

// TestWhatIsProgress has tasks follow each other without a gap for longer than a worker may be silent, each
// ending in the same way: only a verdict is progress.
func TestWhatIsProgress(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		end   func() error
		stuck bool
	}{
		"stored":     {func() error { return nil }, false},
		"bad input":  {func() error { return embedder.ErrEmpty }, false},
		"store away": {func() error { return errors.New("connection refused") }, true},
		"no room":    {func() error { return embedder.ErrOverloaded }, true},
		"cancelled":  {func() error { return context.Canceled }, true},
		"it panics":  {func() error { panic("for the test") }, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var pulse monitoring.Pulse
			h := withPulse{handlerFunc(func(_ []tasks.Item, report func([]tasks.Result)) {
				time.Sleep(8 * time.Second)
				report([]tasks.Result{{Err: tt.end()}})
			}), &pulse}
			var running sync.WaitGroup
			for range 12 {
				running.Go(func() {
					defer func() { _ = recover() }()
					h.HandleBatch(t.Context(), make([]tasks.Item, 1), func([]tasks.Result) {})
				})
				time.Sleep(4 * time.Second)
			}
			if err := pulse.Stuck(); (err != nil) != tt.stuck {
				t.Errorf("%s: %v", name, err)
			}
			running.Wait()
			if pulse.Inside() != 0 || pulse.Stuck() != nil {
				t.Errorf("%s: %d inside at the end, %v", name, pulse.Inside(), pulse.Stuck())
			}
		})
	}
}

// TestAStuckWorkerIsTold runs the watch of a worker whose model never comes back.
func TestAStuckWorkerIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		w := newWorker(testkit.Logger(t), config{})
		w.events, w.consumer = registry.NewEvents(rdb), &consumer.Consumer{}
		w.become(registry.StateReady, "")
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { w.watchPulse(ctx) })
		w.pulse.Enter()
		time.Sleep(5 * time.Minute)
		if d := w.describe(); d.State != registry.StateZombie || !strings.Contains(d.Reason, "nothing came back for 5m0s with 1 in hand; the limit is 30s") {
			t.Errorf("%+v", d)
		}
		w.pulse.Beat(time.Second)
		if d := w.describe(); d.State != registry.StateReady || d.Reason != "" || w.liveness() != nil || w.readiness() != nil {
			t.Errorf("it goes on, but says %+v", d)
		}
		cancel()
		watching.Wait()
		list, err := w.events.List(t.Context(), 10)
		if err != nil || len(list) != 1 || list[0].What != registry.EventZombie || list[0].About != w.id {
			t.Errorf("events %+v, %v, want one", list, err)
		}
	})
}

func TestStagesOfALoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(testkit.Logger(t), config{})
		w.staged(engine.Stage{Name: "fetching", Done: 1, Total: 9})
		begun := time.Now()
		time.Sleep(time.Minute)
		w.staged(engine.Stage{Name: "fetching", Done: 5, Total: 9})
		if got := w.describe().Loading; *got != (registry.Loading{Stage: "fetching", Since: begun, Done: 5, Total: 9}) {
			t.Errorf("%+v", got)
		}
		w.staged(engine.Stage{Name: "warming"})
		if got := w.describe().Loading; *got != (registry.Loading{Stage: "warming", Since: time.Now()}) {
			t.Errorf("%+v", got)
		}
		w.become(registry.StateReady, "")
		if got := w.describe(); got.Loading != nil {
			t.Errorf("%+v of a worker that has loaded", got.Loading)
		}
	})
}

func TestMeter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var m meter
		expect := func(texts, tokens int64, rate float64) {
			t.Helper()
			if a, b, c := m.read(); a != texts || b != tokens || c != rate {
				t.Errorf("%d texts, %d tokens, %v tokens/s; want %d, %d, %v", a, b, c, texts, tokens, rate)
			}
		}
		expect(0, 0, 0)
		for range 20 {
			m.add(2, 100, time.Second)
			time.Sleep(time.Second)
		}
		expect(40, 2000, 90) // nine whole seconds and the one that just begins
		time.Sleep(4 * time.Second)
		expect(40, 2000, 50)
		time.Sleep(time.Hour)
		expect(40, 2000, 0)
		m.add(1, 30, time.Second)
		expect(41, 2030, 3)
	})
}

func TestParseMemory(t *testing.T) {
	t.Parallel()
	const status = "Name:\tworker\nVmRSS:\t  300 kB\nRssAnon:\t  100 kB\nRssFile:\t  190 kB\nRssShmem:\t  10 kB\nThreads:\t9\n"
	if got, want := parseMemory(strings.NewReader(status)), (registry.Memory{Private: 100 << 10, Shared: 200 << 10, RSS: 300 << 10}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestManagerReading checks that every outcome that a manager counts is a series.
func TestManagerReading(t *testing.T) {
	t.Parallel()
	s := embedder.Stats{
		State: embedder.Ready, Inside: 1, Peak: 2, Waiting: 3,
		Counts: embedder.Counts{Loads: 1, Done: 1, Permanent: 2, Overloaded: 4, Cancelled: 8, Closed: 16, Failed: 32},
		Memory: embedder.Memory{Process: embedder.MemoryUse{Private: 5, Shared: 6, Proportional: 7}},
	}
	got := readingOf(s)
	var sum int64
	for _, n := range got.Calls {
		sum += n
	}
	if sum != s.Outcomes() || got.State != "ready" || got.Inside+got.Peak+got.Waiting != 6 || len(got.Memory) != 6 ||
		!slices.Contains(got.Memory, monitoring.Memory{Of: "process", Kind: "shared", Bytes: 6}) {
		t.Errorf("%+v", got)
	}
	s.Memory.Unknown = "no /proc"
	if got := readingOf(s); len(got.Memory) > 0 {
		t.Errorf("figures that nobody knows: %+v", got.Memory)
	}
}

// TestRestartFile is the life of a worker under a supervisor that restarts without counting.
func TestRestartFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "restarts")
	synctest.Test(t, func(t *testing.T) {
		start := func() *restarts {
			t.Helper()
			r, err := openRestarts(path)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		end := func(r *restarts, err error) {
			t.Helper()
			if err := r.end(err); err != nil {
				t.Fatal(err)
			}
		}
		end(start(), nil)
		if r := start(); r.Crashes != 0 || r.gaveUp() != nil { // and it crashes
			t.Errorf("after an end in order: %+v", r)
		}
		time.Sleep(supervise.Window + time.Second)
		for i := range supervise.Crashes {
			r := start()
			if r.Crashes != i+1 {
				t.Errorf("start %d: %+v", i, r)
			}
			if why := r.gaveUp(); (why != nil) != (i == supervise.Crashes-1) {
				t.Errorf("start %d: gave up %v", i, why)
			} else if why != nil && (!strings.Contains(why.Error(), "5 crashes in 10m0s") || !strings.Contains(why.Error(), "no memory")) {
				t.Errorf("it does not say why: %v", why)
			}
			if i == 2 {
				end(r, errors.New("no memory")) // not in order either
			}
			time.Sleep(time.Minute)
		}
		end(start(), nil) // an operator stops it
		if r := start(); r.gaveUp() != nil || r.Crashes != supervise.Crashes+1 {
			t.Errorf("after it was stopped and started: %+v", r)
		}
	})
}

// TestAWorkerThatCrashedTooOftenStaysUpAndSaysSo runs one whose file says so.
func TestAWorkerThatCrashedTooOftenStaysUpAndSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "restarts")
	for range supervise.Crashes {
		if _, err := openRestarts(path); err != nil {
			t.Fatal(err)
		}
	}
	x := newTrial(t, testkit.RedisServer(t), "s1", func(c *config) { c.restartFile = path; c.name = "worker-7" })
	receipts := x.enqueue("one")
	x.until("it says so", func() bool { return x.state() == registry.StateFailed })
	s := x.status().Worker
	if s.Crashes != supervise.Crashes || !strings.Contains(s.Reason, "5 crashes in 10m0s") || s.Name != "worker-7" {
		t.Errorf("%+v", s)
	}
	if code, body := x.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "5 crashes") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, _ := x.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d; a restart was tried", code)
	}
	lanes, err := x.fleet.Lanes.Status(t.Context(), receipts[0].Model)
	if err != nil || lanes[1].Pending != 1 || x.fake.loads.Load() != 0 {
		t.Errorf("the task does not wait: %+v, %v; %d loads", lanes, err, x.fake.loads.Load())
	}
	x.until("an event", func() bool { return x.has(registry.EventFailed, "5 crashes") })
	x.stop()
	if err := x.end(); err != nil {
		t.Error(err)
	}
	if r, err := openRestarts(path); err != nil || r.gaveUp() != nil {
		t.Errorf("after it was stopped: %+v, %v", r, err)
	}
}
