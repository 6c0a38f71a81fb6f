package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/hub"
	"github.com/embedfleet/embedfleet/internal/smaps"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

// The tests of this file rehearse with ONNX Runtime and real weights what package embedder proves with
// fakes. The runtime belongs to the process, so none of them is parallel.

// A gauge is an OnCall that counts native calls.
type gauge struct {
	inside, peak, calls atomic.Int64
}

func (g *gauge) begin([]context.Context) (returned func()) {
	g.calls.Add(1)
	now := g.inside.Add(1)
	for {
		peak := g.peak.Load()
		if now <= peak || g.peak.CompareAndSwap(peak, now) {
			break
		}
	}
	return func() { g.inside.Add(-1) }
}

// tiny returns settings of the smallest model, prepared in a cache of the test's own.
func tiny(t *testing.T) engine.Settings {
	t.Helper()
	return engine.Settings{
		Model:   filepath.Join(testkit.Root(t), "embedder", "model", "testdata", "bert-mean"),
		Library: testkit.ONNXRuntime(t), Cache: t.TempDir(),
	}
}

// standard returns settings of the default model, in the cache that `make setup` filled.
func standard(t *testing.T) engine.Settings {
	t.Helper()
	set := tiny(t)
	set.Model = testkit.DefaultModel(t)
	set.Cache = filepath.Dir(filepath.Dir(set.Model))
	return set
}

// manage returns a manager over set with a count of the loads that began.
func manage(t *testing.T, set engine.Settings, devices ...string) (m *embedder.Manager, loads *atomic.Int64) {
	t.Helper()
	loads = new(atomic.Int64)
	source := engine.NewSource(testkit.Logger(t), set)
	m, err := embedder.NewManager(func(ctx context.Context, device string) (*embedder.Engine, error) {
		loads.Add(1)
		return source.Load(ctx, device)
	}, &embedder.ManagerOptions{Environment: source, Slot: new(embedder.Slot), Devices: devices})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return m, loads
}

// TestRehearsalOfTheAccident is what the system before this one died of, with the real session: two crawlers'
// worth of goroutines meet a model that is not loaded. 20 times, each with one load.
func TestRehearsalOfTheAccident(t *testing.T) {
	set := tiny(t)
	for round := range 20 {
		if round >= 18 && !testing.Short() {
			set = standard(t) // the last two with the weights of a real model
		}
		m, loads := manage(t, set)
		var wg sync.WaitGroup
		for g := range 64 {
			wg.Go(func() {
				if g%2 == 0 {
					if err := m.Load(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if _, err := m.EmbedText(t.Context(), fmt.Sprint("disclosure ", g)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, s := loads.Load(), m.Stats(); n != 1 || s.Done != 64 {
			t.Errorf("round %d: %d sessions for %d vectors, want 1 for 64", round, n, s.Done)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCancelledBatchReturns ends the context of 64 texts of 256 tokens after 20 ms. The caller is back at once;
// the native call one operator later; only then its slot is free; and the processor rests.
func TestCancelledBatchReturns(t *testing.T) {
	set := standard(t)
	returned := make(chan time.Time, 64)
	set.Options = embedder.Options{Runners: 1, QueryRunners: -1, TokenBudget: 64 * 256, MaxTexts: 64}
	set.Options.OnCall = func([]context.Context) func() { return func() { returned <- time.Now() } }
	e, err := engine.Open(t.Context(), testkit.Logger(t), set)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for len(returned) > 0 {
		<-returned // of the warm-up
	}
	text := strings.Repeat("a ", 300)
	begun := time.Now()
	if _, err := e.EmbedText(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	<-returned
	whole := 64 * time.Since(begun) // what the batch would take

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	texts := make([]string, 64)
	for i := range texts {
		texts[i] = text
	}
	ended := make(chan time.Time, 1)
	context.AfterFunc(ctx, func() { ended <- time.Now() })
	if _, err := e.EmbedAll(ctx, texts); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err = %v, want the deadline", err)
	}
	end := <-ended
	caller := time.Since(end)
	if e.Stats().Running != 1 && len(returned) == 0 {
		t.Error("the slot is free before the native call has returned")
	}
	native := (<-returned).Sub(end)
	t.Logf("whole batch about %v; after the end of its context: caller back in %v, native call in %v", whole, caller, native)
	if native > whole/3 {
		t.Errorf("the native call ran on for %v of %v, want one operator's time", native, whole)
	}
	for e.Stats().Running > 0 {
		runtime.Gosched() // settling takes a moment
	}
	before := cpuTime(t)
	time.Sleep(200 * time.Millisecond)
	if used := cpuTime(t) - before; used > 100*time.Millisecond {
		t.Errorf("%v of processor time in 200 ms after the end, want rest", used)
	}
	if _, err := e.EmbedText(t.Context(), "the next one"); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestRandomCancels lets 1,000 texts be given up at random moments: before, while and after they are inside.
// There are never more native calls than runners, and none is left.
func TestRandomCancels(t *testing.T) {
	var calls gauge
	set := standard(t)
	set.Options = embedder.Options{Runners: 2, QueryRunners: 1, OnCall: calls.begin}
	m, _ := manage(t, set)
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	total := 1000
	if testing.Short() {
		total = 200
	}
	var wg sync.WaitGroup
	var next, cancelled atomic.Int64
	for g := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 11))
			for next.Add(1) <= int64(total) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(100_000))*time.Microsecond)
				text := strings.Repeat("word ", 1+r.IntN(60))
				var err error
				if r.IntN(4) == 0 {
					_, err = m.EmbedQuery(ctx, text)
				} else {
					_, err = m.EmbedText(ctx, text)
				}
				if errors.Is(err, context.DeadlineExceeded) {
					cancelled.Add(1)
				} else if err != nil {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d cancelled, %d native calls, at most %d at once", cancelled.Load(), total, calls.calls.Load(), calls.peak.Load())
	if peak := calls.peak.Load(); peak > 3 {
		t.Errorf("%d native calls at once, want at most 2 runners and 1 for queries", peak)
	}
	if n := cancelled.Load(); n == 0 || n == int64(total) {
		t.Errorf("%d of %d cancelled, want some", n, total)
	}
	for calls.inside.Load() > 0 {
		runtime.Gosched() // abandoned ones return within an operator
	}
}

// TestCancelledLoadsLeaveNothing cancels 100 loads, every other one at a random moment, the rest where each
// stage begins, from the first request to the hub to the warm-up. Some are followed by another load of the same
// manager, which must succeed. Then it looks for goroutines, file handles and memory that stayed.
func TestCancelledLoadsLeaveNothing(t *testing.T) {
	folder := filepath.Join(testkit.Root(t), "embedder", "model", "testdata", "bert-mean")
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	set := engine.Settings{Library: testkit.ONNXRuntime(t), Model: "acme/tiny", Hub: hub.Options{Endpoint: serveHub(t, folder)}}
	scratch := t.TempDir()
	fresh := func(n int) engine.Settings { // nothing fetched, nothing prepared
		set.Cache, set.Hub.CacheDir = filepath.Join(scratch, fmt.Sprint("cache", n)), filepath.Join(scratch, fmt.Sprint("hub", n))
		return set
	}
	m, _ := manage(t, fresh(-1))
	begun := time.Now()
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole := min(time.Since(begun), 200*time.Millisecond) // on a busy machine 100 of them take too long
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	stages := []string{"checking", "fetching", "preparing", "loading", "warming"}
	r := rand.New(rand.NewPCG(1, 2))
	var before leftovers
	done := 0
	for round := range rounds {
		if round == rounds/10 {
			before = look(t) // by now pools and arenas have the size they keep
		}
		var current atomic.Pointer[embedder.Manager]
		set.Stage = nil
		if round%2 == 1 { // in turn, the moment at which each stage begins
			stage := stages[round/2%len(stages)]
			set.Stage = func(s engine.Stage) {
				if s.Name == stage {
					current.Load().CancelLoad()
				}
			}
		}
		m, _ := manage(t, fresh(round))
		current.Store(m)
		loaded := make(chan error, 1)
		go func() { loaded <- m.Load(t.Context()) }()
		if set.Stage == nil {
			time.Sleep(time.Duration(r.Int64N(int64(whole))))
			m.CancelLoad()
		}
		switch err := <-loaded; {
		case err == nil:
			done++
		case !errors.Is(err, embedder.ErrLoadCancelled):
			t.Errorf("round %d: %v, want ErrLoadCancelled", round, err)
		}
		if round%10 == 0 { // the same manager must be able to load after it
			if err := m.Load(t.Context()); err != nil {
				t.Errorf("round %d, loading again: %v", round, err)
			}
		}
		if err := m.Close(t.Context()); err != nil {
			t.Errorf("round %d, closing: %v", round, err)
		}
	}
	after := look(t)
	for range 500 { // connections of cancelled requests close a moment later, on both ends
		if after.goroutines <= before.goroutines && after.handles <= before.handles {
			break
		}
		time.Sleep(10 * time.Millisecond)
		after = look(t)
	}
	t.Logf("cancelled within %v; %d of %d were over before they were cancelled; before %+v, after %+v", whole, done, rounds, before, after)
	if after.goroutines > before.goroutines {
		t.Errorf("%d goroutines, then %d", before.goroutines, after.goroutines)
	}
	if after.handles > before.handles {
		t.Errorf("%d file handles, then %d", before.handles, after.handles)
	}
	if grown := after.private - before.private; grown > 64<<20 {
		t.Errorf("private memory has grown by %d MB", grown>>20)
	}
	left, err := filepath.Glob(filepath.Join(scratch, "*", "prepared", "*.partial"))
	if err != nil || len(left) > 0 {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}

// leftovers are what a leak shows in.
type leftovers struct {
	goroutines, handles int
	private             int64
}

func look(t *testing.T) leftovers {
	t.Helper()
	http.DefaultClient.CloseIdleConnections() // a pool is no leak
	runtime.GC()
	l := leftovers{goroutines: runtime.NumGoroutine()}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil { // elsewhere unknown
		l.handles = len(entries)
	}
	if use, err := smaps.Process(0); err == nil { // likewise
		l.private = use.Private
	}
	return l
}

// childMode says what a process of TestForcedFallbackMemory does.
const childMode = "EMBEDFLEET_TEST_FALLBACK"

// TestFallbackChild is the process that TestForcedFallbackMemory measures.
func TestFallbackChild(t *testing.T) {
	mode := os.Getenv(childMode)
	if mode == "" {
		t.Skip("for TestForcedFallbackMemory only")
	}
	set := standard(t)
	mode, set.NoPrepack = strings.CutSuffix(mode, " unprepared")
	source := engine.NewSource(testkit.Logger(t), set)
	load := func(ctx context.Context, device string) (*embedder.Engine, error) {
		if device == "cpu" || mode == "cuda" {
			return source.Load(ctx, device)
		}
		// An accelerator that takes the whole model and gives up in its last step.
		e, err := source.Load(ctx, "cpu")
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(errors.New("forced to fail"), e.Close(ctx), source.Close())
	}
	devices := []string{"cuda", "cpu"}
	if mode == "plain" {
		devices = devices[1:]
	}
	m, err := embedder.NewManager(load, &embedder.ManagerOptions{Environment: source, Devices: devices})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.EmbedText(t.Context(), strings.Repeat("word ", 200)); err != nil {
		t.Fatal(err)
	}
	if s := m.Stats(); s.Device != "cpu" || len(s.Refused) != len(devices)-1 {
		t.Errorf("served by %s after %v, want cpu after %v", s.Device, s.Refused, devices[:len(devices)-1])
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(status))
}

// highWater is the most memory that a process had resident. The figure of getrusage(2) would not do: a child's
// begins with its parent's.
var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// TestForcedFallbackMemory compares the peak memory of processes that serve at once with that of processes
// whose first device fails, with the runtime's own reason and after it had loaded everything. Two models at
// once would show as twice the weights.
func TestForcedFallbackMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the peak is read from /proc")
	}
	testkit.DefaultModel(t)
	measure := func(mode string) int64 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFallbackChild$", "-test.v")
		cmd.Env = append(os.Environ(), childMode+"="+mode)
		out, err := cmd.CombinedOutput()
		found := highWater.FindSubmatch(out)
		if err != nil || found == nil {
			t.Fatalf("%s: %v\n%s", mode, err, out)
		}
		kb, err := strconv.ParseInt(string(found[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return kb
	}
	measure("plain")                                      // prepares the model, once per machine
	for _, weights := range []string{"", " unprepared"} { // mapped, and in the process's own memory
		plain := max(measure("plain"+weights), measure("plain"+weights))
		for _, mode := range []string{"cuda" + weights, "forced" + weights} {
			got := measure(mode)
			// The moment of Go's garbage collection moves a peak by some megabytes; a second model would be 90.
			limit := 1.1*float64(plain) + 8<<10
			if float64(got) > limit {
				got = measure(mode)
			}
			t.Logf("%s: peak %d MB, without a fallback %d MB, ratio %.3f", mode, got>>10, plain>>10, float64(got)/float64(plain))
			if float64(got) > limit {
				t.Errorf("%s: peak %d MB, want at most 1.1 times the %d MB of a load without a fallback, and 8 MB", mode, got>>10, plain>>10)
			}
		}
	}
}
