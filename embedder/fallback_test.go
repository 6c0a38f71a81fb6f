package embedder_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

var errDeviceMemory = fmt.Errorf("running the graph: %w: BFCArena", embedder.ErrDeviceMemory)

// A deviceBench is a loader for several devices. It notes what is opened and closed, in order.
type deviceBench struct {
	takes  time.Duration
	each   time.Duration           // that a run takes
	spaces map[string]vector.Space // of the devices' engines; settings.Space where none is named
	fails  map[string]error        // devices that can't be loaded
	faults func(*embedtest.Faulty) // of the first engine of each accelerator
	models map[string]*embedtest.Faulty

	mu     sync.Mutex
	events []string
	open   int
	peak   int
}

func (b *deviceBench) note(event, device string, open int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, event+" "+device)
	b.open += open
	b.peak = max(b.peak, b.open)
}

func (b *deviceBench) load(ctx context.Context, device string) (*embedder.Engine, error) {
	b.note("open", device, 1)
	select {
	case <-time.After(b.takes):
	case <-ctx.Done():
		b.note("close", device, -1)
		return nil, context.Cause(ctx)
	}
	if err := b.fails[device]; err != nil {
		b.note("close", device, -1)
		return nil, err
	}
	faulty := embedtest.NewFaulty(deviceModel{embedtest.NewModel(34), b, device})
	if b.faults != nil && device != "cpu" {
		b.faults(faulty)
	}
	b.mu.Lock()
	if b.models == nil {
		b.models = map[string]*embedtest.Faulty{}
	}
	b.models[device] = faulty
	b.mu.Unlock()
	set := settings
	if space, ok := b.spaces[device]; ok {
		set.Space = space
	}
	return embedder.NewEngine(faulty, embedtest.Tokenizer{}, set, &embedder.Options{Runners: 2})
}

type deviceModel struct {
	*embedtest.Model
	bench  *deviceBench
	device string
}

func (m deviceModel) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	time.Sleep(m.bench.each)
	return m.Model.Run(ctx, b)
}

func (m deviceModel) Close() error {
	m.bench.note("close", m.device, -1)
	return m.Model.Close() // an error if a run is inside
}

// drive makes a manager over the bench and loads it; what is open at the end is an error.
func drive(t *testing.T, b *deviceBench, devices ...string) *embedder.Manager {
	t.Helper()
	m, err := embedder.NewManager(b.load, &embedder.ManagerOptions{
		Devices: devices, Slot: new(embedder.Slot), Logger: testkit.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("closing: %v", err)
		}
		if b.open != 0 || b.peak > 1 {
			t.Errorf("%d models left open, %d open at once: %v", b.open, b.peak, b.events)
		}
	})
	return m
}

// TestDevicesAreTriedInOrder checks that each attempt is released before the next, and that stats say who
// serves and who does not, and why.
func TestDevicesAreTriedInOrder(t *testing.T) {
	t.Parallel()
	b := &deviceBench{fails: map[string]error{"cuda": errors.New("no driver"), "cuda:1": errors.New("no such device")}}
	m := drive(t, b, "cuda", "cuda:1", "cpu", "never")
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"open cuda", "close cuda", "open cuda:1", "close cuda:1", "open cpu"}
	if !reflect.DeepEqual(b.events, want) {
		t.Errorf("events %v, want %v", b.events, want)
	}
	refused := []embedder.Refusal{{Device: "cuda", Error: "no driver"}, {Device: "cuda:1", Error: "no such device"}}
	if s := m.Stats(); s.Device != "cpu" || !reflect.DeepEqual(s.Refused, refused) || s.Loads != 1 {
		t.Errorf("device %q after %v in %d loads, want cpu after %v in one", s.Device, s.Refused, s.Loads, refused)
	}
}

// TestFallbackAtRunTime lets the device run out of memory with callers inside, in the line and to come. Each
// gets its vector, in one more load, and at no moment two models are open.
func TestFallbackAtRunTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &deviceBench{takes: time.Second, faults: func(f *embedtest.Faulty) { f.FailOn(3, errDeviceMemory) }}
		m := drive(t, b, "cuda", "cpu")
		if err := m.SetLimits(embedder.LimitChange{MaxAccess: new(4)}); err != nil {
			t.Fatal(err)
		}
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				text := fmt.Sprint("filing ", i)
				got, err := m.EmbedText(t.Context(), text)
				if err != nil {
					t.Errorf("text %d: %v", i, err)
					return
				}
				wantQuote(t, got.Vector, text)
			})
		}
		wg.Wait()
		s := m.Stats()
		want := []embedder.Refusal{{Device: "cuda", Error: errDeviceMemory.Error()}}
		if s.State != embedder.Ready || s.Device != "cpu" || s.Loads != 2 || !reflect.DeepEqual(s.Refused, want) {
			t.Errorf("%s on %q after %d loads, refused %v; want ready on cpu after 2, %v", s.State, s.Device, s.Loads, s.Refused, want)
		}
		if s.Calls != 20 || s.Done != 20 || s.Inside != 0 || s.Waiting != 0 {
			t.Errorf("%d calls, %d done, %d inside, %d waiting; want 20, 20, 0, 0", s.Calls, s.Done, s.Inside, s.Waiting)
		}
		select {
		case <-m.Lost():
			t.Error("lost, though it serves")
		default:
		}
	})
}

// TestFallbackKeepsItsPlaceInTheLine checks that who was inside when the device was left is served before those
// who were not.
func TestFallbackKeepsItsPlaceInTheLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var entered <-chan struct{}
		// Runs take time, lest whoever is let in third overtakes the second on the way from the door to the engine.
		b := &deviceBench{takes: time.Second, each: time.Second, faults: func(f *embedtest.Faulty) {
			entered, _ = f.BlockOn(1)
			f.FailOn(2, errDeviceMemory)
		}}
		m := drive(t, b, "cuda", "cpu")
		if err := m.SetLimits(embedder.LimitChange{MaxAccess: new(2)}); err != nil {
			t.Fatal(err)
		}
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		embed := func(text string) {
			wg.Go(func() {
				if _, err := m.EmbedText(t.Context(), text); err != nil {
					t.Errorf("%s: %v", text, err)
				}
			})
			synctest.Wait()
		}
		embed("first, inside")
		<-entered
		go embed("second, inside too") // its run fails; the first one's native call is told to stop
		time.Sleep(100 * time.Millisecond)
		for i := range 3 {
			embed(fmt.Sprint("later ", i))
		}
		wg.Wait()
		batches := fmt.Sprint(b.models["cpu"].Model.(deviceModel).Batches())
		if last := strings.Index(batches, "inside too"); last < 0 || last > strings.Index(batches, "later 0") {
			t.Errorf("batches on the second device %s, want those who were inside first", batches)
		}
	})
}

// TestFallbackOfTheLastDevice checks that the last device is kept: there is nothing better.
func TestFallbackOfTheLastDevice(t *testing.T) {
	t.Parallel()
	b := &deviceBench{faults: func(f *embedtest.Faulty) { f.FailOn(1, errDeviceMemory) }}
	m := drive(t, b, "cuda")
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.EmbedText(t.Context(), "too much"); !errors.Is(err, embedder.ErrDeviceMemory) || permanent(err) {
		t.Errorf("err = %v, want the device's, to be retried", err)
	}
	if _, err := m.EmbedText(t.Context(), "less"); err != nil || m.Stats().Loads != 1 {
		t.Errorf("the next text: %v after %d loads, want nil after 1", err, m.Stats().Loads)
	}
}

// TestFallbackToAnotherSpace checks that vectors of two spaces never come out of one manager: the model is
// lost instead, everybody is told at once, and the process hears of it.
func TestFallbackToAnotherSpace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &deviceBench{
			takes: time.Second, faults: func(f *embedtest.Faulty) { f.FailOn(1, errDeviceMemory) },
			spaces: map[string]vector.Space{"cuda": "one space", "cpu": "another space"},
		}
		m := drive(t, b, "cuda", "cpu")
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err := m.EmbedText(t.Context(), "text")
		if err == nil || !strings.Contains(err.Error(), "this process has served") || permanent(err) || time.Since(start) != time.Second {
			t.Errorf("err = %v after %v, want the two spaces named after the load of 1s", err, time.Since(start))
		}
		<-m.Lost()
		if s := m.Stats(); s.State != embedder.Failed || !strings.Contains(s.LoadError, "another") || s.Space != "" {
			t.Errorf("%s, %q; want failed with the reason", s.State, s.LoadError)
		}
		if _, err := m.EmbedText(t.Context(), "text"); err == nil || !strings.Contains(err.Error(), "not loaded") {
			t.Errorf("a later caller: %v, want the reason at once", err)
		}
	})
}

// TestFallbackCancelled cancels and closes during the second load.
func TestFallbackCancelled(t *testing.T) {
	t.Parallel()
	for _, closes := range []string{"cancelled", "closed"} {
		t.Run(closes, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &deviceBench{takes: time.Second, faults: func(f *embedtest.Faulty) { f.FailOn(1, errDeviceMemory) }}
				m := drive(t, b, "cuda", "cpu")
				if err := m.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
				waiting := make(chan error, 1)
				go func() {
					_, err := m.EmbedText(t.Context(), "text")
					waiting <- err
				}()
				time.Sleep(500 * time.Millisecond)
				want := embedder.ErrClosed
				if closes == "closed" {
					if err := m.Close(t.Context()); err != nil {
						t.Error(err)
					}
				} else {
					want = embedder.ErrLoadCancelled
					if !m.CancelLoad() {
						t.Error("there was no load to cancel")
					}
				}
				if err := <-waiting; !errors.Is(err, want) {
					t.Errorf("a waiting caller: %v, want %v", err, want)
				}
				if closes == "cancelled" {
					if err := m.Load(t.Context()); err != nil || m.Stats().Device != "cuda" {
						t.Errorf("a new load: %v on %s, want nil on the first device", err, m.Stats().Device)
					}
				}
			})
		})
	}
}

// TestFallbackStress runs down a list of devices, each of which fails at a random moment, under 64 callers
// with limits that change; every caller is served, and every reading of the stats adds up.
func TestFallbackStress(t *testing.T) {
	t.Parallel()
	rounds := uint64(4)
	if testing.Short() {
		rounds = 1
	}
	for seed := range rounds {
		r := rand.New(rand.NewPCG(seed, 3))
		b := &deviceBench{faults: func(f *embedtest.Faulty) {
			for run := range 3 {
				f.FailOn(1+r.IntN(20)+run, errDeviceMemory)
			}
		}}
		m := drive(t, b, "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cpu")
		var callers sync.WaitGroup
		var left atomic.Int64
		left.Store(64)
		for g := range 64 {
			callers.Go(func() {
				defer left.Add(-1)
				for i := range 5 {
					text := fmt.Sprint(g, " ", i)
					got, err := m.EmbedText(t.Context(), text)
					if err != nil {
						t.Errorf("%s: %v", text, err)
						return
					}
					wantQuote(t, got.Vector, text)
				}
			})
		}
		callers.Go(func() {
			if err := m.Load(t.Context()); err != nil {
				t.Error(err)
			}
		})
		for limit := 1; left.Load() > 0; limit = limit%50 + 1 {
			if err := m.SetLimits(embedder.LimitChange{MaxAccess: &limit}); err != nil {
				t.Error(err)
			}
			if s := m.Stats(); s.Calls != s.Outcomes()+int64(s.Inside+s.Waiting) {
				t.Fatalf("%d calls, %d outcomes, %d inside, %d waiting", s.Calls, s.Outcomes(), s.Inside, s.Waiting)
			}
			runtime.Gosched()
		}
		callers.Wait()
		if s := m.Stats(); s.Done != 320 || s.Calls != 320 {
			t.Errorf("%d done of %d calls, want 320", s.Done, s.Calls)
		}
	}
}
