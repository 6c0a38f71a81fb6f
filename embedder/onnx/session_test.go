package onnx

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// counts is the options of the graphs whose vectors count ids.
var counts = Options{VocabSize: 8, MaxTokens: 16}

// runtimes holds the process's one Runtime for all tests. It stays open to the process's end, as a
// worker's does.
var runtimes struct {
	sync.Mutex
	rt *Runtime
}

func start(t testing.TB) *Runtime {
	t.Helper()
	lib := testkit.ONNXRuntime(t)
	runtimes.Lock()
	defer runtimes.Unlock()
	if runtimes.rt == nil {
		rt, err := Init(lib, nil)
		if err != nil {
			t.Fatal(err)
		}
		runtimes.rt = rt
	}
	return runtimes.rt
}

// graphPath returns the absolute path of a test graph.
func graphPath(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, name string, opts Options) *Session {
	t.Helper()
	s, err := start(t).Open(t.Context(), graphPath(t, name), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

// countVector is the vector of a row of ids by the graphs of testdata.
func countVector(ids []int32) vector.Vector {
	v := make(vector.Vector, counts.VocabSize)
	for _, id := range ids {
		v[id]++
	}
	n := v.Norm()
	for i := range v {
		v[i] = float32(float64(v[i]) / n)
	}
	return v
}

// near compares vectors within float32 rounding.
func near(a, b vector.Vector) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Abs(float64(x-y)) < 1e-6 })
}

func TestRun(t *testing.T) {
	t.Parallel()
	rows := [][]int32{{1, 1, 2}, {7}, {0, 3, 3, 3, 5, 6}, {4, 4}}
	for _, name := range []string{"counts.onnx", "types.onnx"} {
		for _, pad := range []int32{0, 3} {
			opts := counts
			opts.PadID = pad
			s := open(t, name, opts)
			got, err := s.Run(t.Context(), embedder.Batch{Rows: rows})
			if err != nil {
				t.Fatal(err)
			}
			for i, row := range rows {
				if want := countVector(row); !near(got[i], want) {
					t.Errorf("%s, padding %d, row %d: %v, want %v", name, pad, i, got[i], want)
				}
			}
		}
	}
}

// TestRunVectorsAreApart appends to one vector and looks at the next.
func TestRunVectorsAreApart(t *testing.T) {
	t.Parallel()
	s := open(t, "counts.onnx", counts)
	got, err := s.Run(t.Context(), embedder.Batch{Rows: [][]int32{{1}, {2}}})
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got[0], 99)
	if !near(got[1], countVector([]int32{2})) {
		t.Errorf("appending to one vector changed the next to %v", got[1])
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	s := open(t, "counts.onnx", counts)
	for _, tt := range []struct {
		name string
		rows [][]int32
		want string
	}{
		{"no rows", nil, "no rows"},
		{"an empty row", [][]int32{{1}, {}}, "row 1 has 0 tokens, want 1 to 16"},
		{"a long row", [][]int32{make([]int32, 17)}, "row 0 has 17 tokens, want 1 to 16"},
		{"an id beyond the vocabulary", [][]int32{{1, 8}}, "row 0: token 1 has id 8, want 0 to 7"},
		{"a negative id", [][]int32{{-1}}, "id -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := s.Run(t.Context(), embedder.Batch{Rows: tt.rows})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestRunConcurrently(t *testing.T) {
	t.Parallel()
	s := open(t, "counts.onnx", counts)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			row := slices.Repeat([]int32{int32(g)}, g+1)
			want := countVector(row)
			for range 200 {
				got, err := s.Run(t.Context(), embedder.Batch{Rows: [][]int32{row, {1, 2, 3}}})
				if err != nil || !near(got[0], want) {
					t.Errorf("caller %d: %v, %v; want %v", g, got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// slow is a graph and a batch that take many seconds to run.
var slow = Options{VocabSize: 8, MaxTokens: 256}

func slowBatch() embedder.Batch {
	return embedder.Batch{Rows: slices.Repeat([][]int32{make([]int32, 256)}, 64)}
}

// TestRunCancelled stops a run in its middle. That it was stopped is told by the error: a run that ends by
// itself returns vectors, whatever became of its context.
func TestRunCancelled(t *testing.T) {
	t.Parallel()
	s := open(t, "slow.onnx", slow)
	why := errors.New("nobody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
	began := time.Now()
	_, err := s.Run(ctx, slowBatch())
	if !errors.Is(err, why) {
		t.Errorf("err = %v, want the cause of the context's end", err)
	}
	t.Logf("cancelled after 20ms, returned after %v", time.Since(began))
	if got, err := s.Run(t.Context(), embedder.Batch{Rows: [][]int32{{1}}}); err != nil || len(got) != 1 {
		t.Errorf("the run after a cancelled one: %v, %v", got, err)
	}
}

func TestRunCancelledBefore(t *testing.T) {
	t.Parallel()
	s := open(t, "counts.onnx", counts)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Run(ctx, embedder.Batch{Rows: [][]int32{{1}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want context.Canceled", err)
	}
}

// TestRunRandomCancels ends contexts at any moment of a run, the very last included, where the watcher and
// the freeing of the options meet.
func TestRunRandomCancels(t *testing.T) {
	t.Parallel()
	s := open(t, "counts.onnx", counts)
	b := embedder.Batch{Rows: slices.Repeat([][]int32{{1, 2, 3}}, 8)}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i*37+g)%150)*time.Microsecond)
				vs, err := s.Run(ctx, b)
				cancel()
				if (err == nil) != (len(vs) == 8) || err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d vectors and err %v", len(vs), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestCloseWaits closes while a run is inside: Close must return after it.
func TestCloseWaits(t *testing.T) {
	t.Parallel()
	s := open(t, "slow.onnx", slow)
	ctx, cancel := context.WithCancel(t.Context())
	inside, returned := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(returned)
		close(inside)
		s.Run(ctx, slowBatch())
	}()
	<-inside
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(t.Context(), embedder.Batch{Rows: [][]int32{{1}}}); !errors.Is(err, embedder.ErrClosed) {
		t.Errorf("a run after Close: %v, want ErrClosed", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	<-returned
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	rt := start(t)
	garbage := filepath.Join(t.TempDir(), "garbage.onnx")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a model ", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	wrongDim := counts
	wrongDim.Dim = 9
	output := counts
	output.Output = "sentence_embedding"
	for _, tt := range []struct {
		name string
		path string
		opts Options
		want string
	}{
		{"no file", graphPath(t, "none.onnx"), counts, "none.onnx"},
		{"garbage", garbage, counts, "which ONNX has none of"},
		{"an input it can't feed", graphPath(t, "positions.onnx"), counts, `input "position_ids" is none of`},
		{"float ids", graphPath(t, "floats.onnx"), counts, "want int64"},
		{"an output per token", graphPath(t, "unpooled.onnx"), counts, "3 axes"},
		{"an unknown dimension", graphPath(t, "open.onnx"), counts, "Options.Dim must state it"},
		{"another dimension", graphPath(t, "counts.onnx"), wrongDim, "8 dimensions, the model says 9"},
		{"another output", graphPath(t, "counts.onnx"), output, `output "sentence_embedding" is missing`},
		{"no vocabulary", graphPath(t, "counts.onnx"), Options{MaxTokens: 1}, "vocabulary size 0"},
		{"no length", graphPath(t, "counts.onnx"), Options{VocabSize: 1}, "max tokens 0"},
		{"padding beyond the vocabulary", graphPath(t, "counts.onnx"), Options{VocabSize: 1, MaxTokens: 1, PadID: 1}, "padding id 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := rt.Open(t.Context(), tt.path, tt.opts)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestOpenStatedDimension(t *testing.T) {
	t.Parallel()
	opts := counts
	opts.Dim = 8
	s := open(t, "open.onnx", opts)
	if s.Dim() != 8 {
		t.Errorf("Dim = %d, want 8", s.Dim())
	}
	if got, err := s.Run(t.Context(), embedder.Batch{Rows: [][]int32{{3}}}); err != nil || !near(got[0], countVector([]int32{3})) {
		t.Errorf("Run = %v, %v", got, err)
	}
}

func TestOpenCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := start(t).Open(ctx, graphPath(t, "counts.onnx"), counts); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want context.Canceled", err)
	}
}

// TestOpenConcurrently creates sessions side by side, which the runtime must never see.
func TestOpenConcurrently(t *testing.T) {
	t.Parallel()
	rt := start(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			s, err := rt.Open(t.Context(), graphPath(t, "counts.onnx"), counts)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	lib := testkit.ONNXRuntime(t)
	start(t)
	text := filepath.Join(t.TempDir(), "libonnxruntime.so")
	if err := os.WriteFile(text, []byte("no library"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"a relative path", "libonnxruntime.so", "not absolute"},
		{"no file", text + ".none", "no such file"},
		{"a folder", t.TempDir(), "not a file"},
		{"a second time", lib, "already initialised"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Init(tt.path, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestRuntimeCloseRefuses(t *testing.T) {
	t.Parallel()
	open(t, "counts.onnx", counts)
	if err := start(t).Close(); err == nil || !strings.Contains(err.Error(), "still open") {
		t.Errorf("closing the runtime under a session: %v, want a refusal", err)
	}
}
