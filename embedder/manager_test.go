package embedder_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

// A loadBench is a loader whose load takes a second of fake time, and what it has done.
type loadBench struct {
	t      testing.TB
	err    error         // what loads fail with
	takes  time.Duration // how long a load takes
	deaf   bool          // a load does not hear that its context has ended
	loads  atomic.Int64
	open   atomic.Int64 // models not closed
	peak   atomic.Int64 // most models open at once
	faulty *embedtest.Faulty
}

// countedModel tells its bench when it is closed.
type countedModel struct {
	embedder.Model
	bench *loadBench
}

func (m countedModel) Close() error {
	m.bench.open.Add(-1)
	return m.Model.Close()
}

func (b *loadBench) load(ctx context.Context, device string) (*embedder.Engine, error) {
	b.loads.Add(1)
	b.peak.Store(max(b.peak.Load(), b.open.Add(1)))
	done := ctx.Done()
	if b.deaf {
		done = nil
	}
	select {
	case <-time.After(b.takes):
	case <-done:
		b.open.Add(-1)
		return nil, context.Cause(ctx)
	}
	if b.err != nil {
		b.open.Add(-1)
		return nil, fmt.Errorf("on %s: %w", device, b.err)
	}
	b.faulty = embedtest.NewFaulty(countedModel{embedtest.NewModel(34), b})
	return embedder.NewEngine(b.faulty, embedtest.Tokenizer{}, settings, nil)
}

// manage makes a manager over the bench, in a slot of its own, and closes it with the test.
func manage(t testing.TB, b *loadBench, opts *embedder.ManagerOptions) *embedder.Manager {
	t.Helper()
	if opts == nil {
		opts = &embedder.ManagerOptions{}
	}
	if opts.Slot == nil {
		opts.Slot = new(embedder.Slot)
	}
	opts.Logger = testkit.Logger(t)
	b.t = t
	m, err := embedder.NewManager(b.load, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("closing: %v", err)
		}
		if n := b.open.Load(); n != 0 {
			t.Errorf("%d models left open", n)
		}
		if n := b.peak.Load(); n > 1 {
			t.Errorf("%d models open at once", n)
		}
	})
	return m
}

// TestManagerRehearsal is the accident of the system before this one: two crawlers' worth of goroutines
// meet a model that is not loaded. Each of them asks for a load, and there must be one.
func TestManagerRehearsal(t *testing.T) {
	t.Parallel()
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		synctest.Test(t, func(t *testing.T) {
			b := &loadBench{takes: time.Second}
			m := manage(t, b, nil)
			var wg sync.WaitGroup
			for g := range 64 {
				wg.Go(func() {
					if g%2 == 0 {
						if err := m.Load(t.Context()); err != nil {
							t.Error(err)
						}
					}
					text := fmt.Sprint("disclosure ", g)
					got, err := m.EmbedText(t.Context(), text)
					if err != nil {
						t.Error(err)
						return
					}
					wantQuote(t, got.Vector, text)
				})
			}
			wg.Wait()
			if n := b.loads.Load(); n != 1 {
				t.Errorf("%d loads, want 1", n)
			}
		})
	}
}

// TestManagerNeverLoadsByItself checks that a text does not trigger a load.
func TestManagerNeverLoadsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{takes: time.Second}
		m := manage(t, b, &embedder.ManagerOptions{Limits: embedder.Limits{WaitTimeout: time.Minute}})
		start := time.Now()
		_, err := m.EmbedText(t.Context(), "early")
		var timeout *embedder.TimeoutError
		if !errors.As(err, &timeout) || timeout.What != "wait" || timeout.After != time.Minute || !overloaded(err) {
			t.Errorf("err = %v, want the wait timeout", err)
		}
		if took := time.Since(start); took != time.Minute || b.loads.Load() != 0 {
			t.Errorf("%d loads after %v, want none after 1m", b.loads.Load(), took)
		}
	})
}

func TestManagerServesInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{takes: time.Minute}
		m := manage(t, b, &embedder.ManagerOptions{Limits: embedder.Limits{MaxAccess: 1}})
		go m.Load(t.Context())
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				if _, err := m.EmbedText(t.Context(), "text"); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
		}
		wg.Wait()
		for i, got := range order {
			if got != i {
				t.Fatalf("served in the order %v, want that of arrival", order)
			}
		}
	})
}

func TestManagerLoadFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{takes: time.Second, err: errors.New("weights are truncated")}
		m := manage(t, b, &embedder.ManagerOptions{Devices: []string{"cuda", "cpu"}})
		errs := make(chan error, 3)
		for range 2 {
			go func() {
				_, err := m.EmbedQuery(t.Context(), "who?")
				errs <- err
			}()
		}
		go func() { errs <- m.Load(t.Context()) }()
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, b.err) {
				t.Errorf("err = %v, want the load's", err)
			}
		}
		if n := b.loads.Load(); n != 2 {
			t.Errorf("%d attempts, want one per device", n)
		}
		if _, err := m.EmbedText(t.Context(), "later"); !errors.Is(err, b.err) {
			t.Errorf("a later caller: %v, want the load's error at once", err)
		}
		if s := m.Stats(); s.State != embedder.Failed || !strings.Contains(s.LoadError, b.err.Error()) {
			t.Errorf("state %s, %v; want failed", s.State, s.LoadError)
		}
		b.err = nil
		if err := m.Load(t.Context()); err != nil {
			t.Fatalf("loading again: %v", err)
		}
		if s := m.Stats(); s.State != embedder.Ready || s.Device != "cuda" || s.LoadError != "" || s.LoadTime != embedder.Seconds(time.Second) {
			t.Errorf("stats %+v, want ready on the first device after 1s", s)
		}
	})
}

// TestManagerFallsBack checks that the second device serves when the first does not, one at a time.
func TestManagerFallsBack(t *testing.T) {
	t.Parallel()
	b := &loadBench{}
	cpuOnly := func(ctx context.Context, device string) (*embedder.Engine, error) {
		if device != "cpu" {
			return nil, errors.New("no such device")
		}
		return b.load(ctx, device)
	}
	m, err := embedder.NewManager(cpuOnly, &embedder.ManagerOptions{Devices: []string{"cuda", "cpu"}, Slot: new(embedder.Slot)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	if err := m.Load(t.Context()); err != nil || m.Stats().Device != "cpu" {
		t.Errorf("Load = %v on %q, want nil on cpu", err, m.Stats().Device)
	}
}

func TestManagerLoadTimeout(t *testing.T) {
	t.Parallel()
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprint("deaf loader: ", deaf), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &loadBench{takes: time.Hour, deaf: deaf}
				m := manage(t, b, &embedder.ManagerOptions{Limits: embedder.Limits{LoadTimeout: time.Minute}})
				err := m.Load(t.Context())
				var timeout *embedder.TimeoutError
				if !errors.As(err, &timeout) || timeout.What != "load" || timeout.After != time.Minute || overloaded(err) {
					t.Errorf("err = %v, want the load timeout", err)
				}
			})
		})
	}
}

func TestManagerCancelLoad(t *testing.T) {
	t.Parallel()
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprint("deaf loader: ", deaf), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &loadBench{takes: time.Minute, deaf: deaf}
				m := manage(t, b, nil)
				if m.CancelLoad() {
					t.Error("cancelled a load that had not begun")
				}
				first, waiting := make(chan error, 1), make(chan error, 1)
				go func() { first <- m.Load(t.Context()) }()
				go func() {
					_, err := m.EmbedText(t.Context(), "waiting")
					waiting <- err
				}()
				synctest.Wait()
				cancelled := time.Now()
				if !m.CancelLoad() || m.CancelLoad() {
					t.Error("CancelLoad reported the opposite of what it did")
				}
				if err := <-waiting; !errors.Is(err, embedder.ErrLoadCancelled) || time.Since(cancelled) > 0 {
					t.Errorf("a waiting caller: %v after %v, want ErrLoadCancelled at once", err, time.Since(cancelled))
				}
				// A load that begins while the cancelled one is still on its way out.
				if err := m.Load(t.Context()); err != nil {
					t.Errorf("the next load: %v", err)
				}
				if err := <-first; !errors.Is(err, embedder.ErrLoadCancelled) {
					t.Errorf("the cancelled load: %v, want ErrLoadCancelled", err)
				}
				if _, err := m.EmbedText(t.Context(), "text"); err != nil || b.loads.Load() != 2 {
					t.Errorf("after %d loads: %v, want service after 2", b.loads.Load(), err)
				}
			})
		})
	}
}

// TestManagerRandomCancels cancels and closes loads at random moments; the bench counts what is left.
func TestManagerRandomCancels(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			b := &loadBench{takes: 10 * time.Millisecond, deaf: seed%2 == 0}
			m := manage(t, b, nil)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { m.Load(t.Context()) })
				wg.Go(func() { m.EmbedText(t.Context(), "text") })
			}
			for range 3 {
				time.Sleep(time.Duration(r.IntN(15)) * time.Millisecond)
				m.CancelLoad()
				wg.Go(func() { m.Load(t.Context()) })
			}
			if err := m.Close(t.Context()); err != nil {
				t.Error(err)
			}
			wg.Wait()
		})
	}
}

func TestManagerAccessTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{}
		m := manage(t, b, &embedder.ManagerOptions{Limits: embedder.Limits{MaxAccess: 1, MaxWaiting: 1, AccessTimeout: 30 * time.Second}})
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		entered, release := b.faulty.BlockOn(1)
		go m.EmbedText(t.Context(), "inside")
		<-entered
		late := make(chan error, 1)
		start := time.Now()
		go func() {
			_, err := m.EmbedText(t.Context(), "late")
			late <- err
		}()
		synctest.Wait()
		_, err := m.EmbedText(t.Context(), "too late")
		var over *embedder.OverloadError
		if !errors.As(err, &over) || over.Count != 1 || over.Limit != 1 || over.What != "callers waiting" {
			t.Errorf("err = %v, want an overload of 1 caller waiting", err)
		}
		err = <-late
		var timeout *embedder.TimeoutError
		if !errors.As(err, &timeout) || timeout.What != "access" || !errors.As(err, &over) || over.Limit != 1 || time.Since(start) != 30*time.Second {
			t.Errorf("err = %v after %v, want the access timeout after 30s", err, time.Since(start))
		}
		// A shorter deadline of the caller wins.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.EmbedText(ctx, "hasty"); !errors.Is(err, context.DeadlineExceeded) || overloaded(err) {
			t.Errorf("err = %v, want the caller's own deadline", err)
		}
		release()
		synctest.Wait()
		if s := m.Stats(); s.Done != 1 || s.Overloaded != 2 || s.Cancelled != 1 || s.Calls != 4 {
			t.Errorf("counts %+v", s.Counts)
		}
	})
}

// TestManagerSetLimits checks that a nil field is "as it was", that a zero is a value like any other, and
// that one bad value among good ones changes nothing.
func TestManagerSetLimits(t *testing.T) {
	t.Parallel()
	m := manage(t, &loadBench{}, nil)
	before := m.Stats().Limits
	seconds := func(d time.Duration) *embedder.Seconds { return new(embedder.Seconds(d)) }
	for want, change := range map[string]embedder.LimitChange{
		"max access -1, want 1 to 1048576":          {MaxAccess: new(-1)},
		"max access 0, want 1 to 1048576":           {MaxAccess: new(0), MaxWaiting: new(7)},
		"max waiting 1073741824, want 1 to 1048576": {MaxWaiting: new(1 << 30), AccessTimeout: seconds(time.Second)},
		"access timeout 1ns, want 1ms to 24h0m0s":   {AccessTimeout: seconds(1)},
		"wait timeout 48h0m0s, want 1ms to 24h0m0s": {WaitTimeout: seconds(48 * time.Hour)},
		"load timeout -1s, want 1ms to 24h0m0s":     {LoadTimeout: seconds(-time.Second)},
	} {
		if err := m.SetLimits(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SetLimits(%+v) = %v, want an error that says %q", change, err, want)
		}
		if got := m.Stats().Limits; got != before {
			t.Errorf("refused limits changed %+v to %+v", before, got)
		}
	}
	if err := m.SetLimits(embedder.LimitChange{MaxAccess: new(16), AccessTimeout: seconds(20 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	want := before
	want.MaxAccess, want.AccessTimeout = 16, 20*time.Second
	if got := m.Stats().Limits; got != want {
		t.Errorf("limits %+v, want %+v: others as they were", got, want)
	}
}

// TestManagerStatsAddUp reads stats while callers of all kinds come and go and limits change; every
// reading must add up.
func TestManagerStatsAddUp(t *testing.T) {
	t.Parallel()
	b := &loadBench{}
	m := manage(t, b, nil)
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.faulty.FailOn(5, errors.New("once"))
	var callers sync.WaitGroup
	for g := range 200 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 7))
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(5000))*time.Microsecond)
				m.EmbedText(ctx, strings.Repeat("x", r.IntN(3)))
				cancel()
			}
		})
	}
	done := make(chan struct{})
	go func() { callers.Wait(); close(done) }()
	for limit := 1; ; limit = limit%50 + 1 {
		if err := m.SetLimits(embedder.LimitChange{MaxAccess: &limit}); err != nil {
			t.Error(err)
		}
		s := m.Stats()
		if s.Calls != s.Outcomes()+int64(s.Inside+s.Waiting) {
			t.Fatalf("%d calls, %d outcomes, %d inside, %d waiting", s.Calls, s.Outcomes(), s.Inside, s.Waiting)
		}
		select {
		case <-done:
			if s := m.Stats(); s.Calls != 200*20 || s.Outcomes() != s.Calls || s.Inside != 0 || s.Waiting != 0 {
				t.Errorf("at the end: %+v", s)
			}
			return
		default:
		}
	}
}

func TestManagerClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{}
		env := &environment{bench: b}
		slot := new(embedder.Slot)
		m := manage(t, b, &embedder.ManagerOptions{Environment: env, Slot: slot, Limits: embedder.Limits{MaxAccess: 1}})
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := embedder.NewManager(b.load, &embedder.ManagerOptions{Slot: slot}); err == nil {
			t.Error("a second manager was made in the same slot")
		}
		entered, _ := b.faulty.BlockOn(1)
		errs := make(chan error, 2)
		for i := range cap(errs) {
			go func() {
				_, err := m.EmbedText(t.Context(), fmt.Sprint("text ", i))
				errs <- err
			}()
		}
		<-entered
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := m.Close(ctx); err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("Close = %v after %v, want nil after the deadline of 5s", err, time.Since(start))
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, embedder.ErrClosed) {
				t.Errorf("a caller: %v, want ErrClosed", err)
			}
		}
		if env.closed != 1 || env.openModels != 0 {
			t.Errorf("the environment was closed %d times, with %d models open; want once, with none", env.closed, env.openModels)
		}
		if err := m.Close(ctx); err != nil || env.closed != 1 {
			t.Errorf("closing again: %v", err)
		}
		if err := m.Load(t.Context()); !errors.Is(err, embedder.ErrClosed) {
			t.Errorf("Load after Close = %v, want ErrClosed", err)
		}
		again, err := embedder.NewManager(b.load, &embedder.ManagerOptions{Slot: slot})
		if err != nil {
			t.Fatalf("a manager after the first is closed: %v", err)
		}
		again.Close(t.Context())
	})
}

// environment stands for the runtime: it notes how many models are open when it is closed.
type environment struct {
	bench      *loadBench
	closed     int
	openModels int64
}

func (e *environment) Close() error {
	e.closed++
	e.openModels = e.bench.open.Load()
	return nil
}

// TestManagerProcessSlot is the only test that takes the process's own slot.
func TestManagerProcessSlot(t *testing.T) {
	t.Parallel()
	b := &loadBench{}
	m, err := embedder.NewManager(b.load, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embedder.NewManager(b.load, nil); err == nil || !strings.Contains(err.Error(), "one model per process") {
		t.Errorf("err = %v, want a refusal of the second", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
