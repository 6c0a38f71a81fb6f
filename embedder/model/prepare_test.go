package model

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/filelock"
)

// read returns a file's content.
func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// flip changes one byte of a file; a negative place counts from the end.
func flip(file string, at int) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		raw := []byte(read(t, filepath.Join(dir, file)))
		raw[(at+len(raw))%len(raw)] ^= 1
		write(file, string(raw))(t, dir)
	}
}

// entries lists what is in a folder.
func entries(t *testing.T, dir string) string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range found {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	m, cache := mustOpen(t, "testdata/bert-mean", nil), t.TempDir()
	first, err := m.Prepare(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	if got := entries(t, first.Dir); got != "graph.onnx graph.onnx_data manifest.json" || first.Reused {
		t.Errorf("the folder holds %q, reused %t", got, first.Reused)
	}
	if got := entries(t, filepath.Join(cache, "prepared")); got != first.Key {
		t.Errorf("the cache holds %q, want only %q", got, first.Key)
	}
	write("beside.txt", "another room's")(t, first.Dir)
	second, err := m.Prepare(t.Context(), cache)
	if err != nil || !second.Reused || second.Graph != first.Graph {
		t.Errorf("second time: %+v, %v", second, err)
	}
	no := false
	other, err := mustOpen(t, "testdata/bert-mean", &Overrides{Normalize: &no}).Prepare(t.Context(), cache)
	if err != nil || other.Reused || other.Key == first.Key {
		t.Errorf("other settings: %+v, %v: want another folder", other, err)
	}
}

// TestPrepareDamaged replaces a folder that isn't what its manifest says.
func TestPrepareDamaged(t *testing.T) {
	t.Parallel()
	m := mustOpen(t, "testdata/bert-mean", nil)
	for name, e := range map[string]edit{
		"no graph":        remove(GraphFile),
		"cut data":        cut(dataFile, 1),
		"flipped bit":     flip(dataFile, 100),
		"other graph":     flip(GraphFile, 20),
		"no manifest":     remove(manifestFile),
		"broken manifest": write(manifestFile, "{"),
		"other key":       set(manifestFile, map[string]any{"key": "x"}),
	} {
		cache := t.TempDir()
		p, err := m.Prepare(t.Context(), cache)
		if err != nil {
			t.Fatal(err)
		}
		whole := read(t, p.Graph)
		e(t, p.Dir)
		p, err = m.Prepare(t.Context(), cache)
		if err != nil || p.Reused || read(t, p.Graph) != whole || !m.complete(t.Context(), p.Dir, p.Key) {
			t.Errorf("%s: %+v, %v: want the folder written anew", name, p, err)
		}
	}
}

// TestPrepareLeftovers clears what a process left that was killed while writing.
func TestPrepareLeftovers(t *testing.T) {
	t.Parallel()
	m, cache := mustOpen(t, "testdata/variants/bert-all", nil), t.TempDir()
	write(filepath.Join("prepared", m.PreparedKey()+".partial", "graph.onnx_data"), "half")(t, cache)
	write(filepath.Join("prepared", m.PreparedKey()+".lock"), "")(t, cache)
	if _, err := m.Prepare(t.Context(), cache); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, filepath.Join(cache, "prepared")); got != m.PreparedKey() {
		t.Errorf("the cache holds %q", got)
	}
}

// A stopping is a context that ends itself when it has been asked for its error n times, that is, at the
// n-th place where the work looks whether to go on.
type stopping struct {
	context.Context //nolint:containedctx // it is a context itself
	cancel          context.CancelFunc
	mu              sync.Mutex
	left            int
}

func (s *stopping) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left <= 0 {
		s.cancel()
	}
	return s.Context.Err()
}

// TestPrepareCancelled cancels at every place where the work looks, until it is through without one.
func TestPrepareCancelled(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"bert-mean", "variants/xlmr-weighted-sharded", "foreign/opset13-external"} {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			m := mustOpen(t, filepath.Join("testdata", dir), nil)
			for n := 1; ; n++ {
				cache := t.TempDir()
				ctx, cancel := context.WithCancel(t.Context())
				p, err := m.Prepare(&stopping{Context: ctx, cancel: cancel, left: n}, cache)
				cancel()
				left := entries(t, filepath.Join(cache, "prepared"))
				if err == nil {
					if n < 4 || left != p.Key {
						t.Errorf("through after looking %d times, with %q in the cache", n, left)
					}
					return
				}
				if !errors.Is(err, context.Canceled) || left != "" {
					t.Fatalf("stopped the %d. time: %v, with %q in the cache", n, err, left)
				}
			}
		})
	}
}

// TestPrepareFails takes the weights away while they are being read and expects nothing left behind.
func TestPrepareFails(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]edit{
		"model.safetensors has changed since the model was opened": flip("model.safetensors", -1),
		"model.safetensors: no such file":                          remove("model.safetensors"),
	} {
		dir, cache := copyOf(t, "variants/bert-all"), t.TempDir()
		m := mustOpen(t, dir, nil)
		m.weightFiles[0].modified = time.Time{} // a change within the file system's clock tick is one too
		e(t, dir)
		_, err := m.Prepare(t.Context(), cache)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if left := entries(t, filepath.Join(cache, "prepared")); left != "" {
			t.Errorf("the cache holds %q", left)
		}
	}
	m := mustOpen(t, "testdata/variants/bert-all", nil)
	if _, err := m.Prepare(t.Context(), filepath.Join(m.Dir, "config.json")); err == nil {
		t.Error("prepared into a file")
	}
}

// TestPrepareTogether has many callers at once: one writes, all get the same folder.
func TestPrepareTogether(t *testing.T) {
	t.Parallel()
	m, cache := mustOpen(t, "testdata/variants/bert-all", nil), t.TempDir()
	var wrote sync.Map
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			p, err := m.Prepare(t.Context(), cache)
			if err != nil {
				t.Error(err)
			}
			if !m.complete(t.Context(), p.Dir, p.Key) {
				t.Error("got a folder that is not complete")
			}
			if !p.Reused {
				wrote.Store(i, true)
			}
		})
	}
	group.Wait()
	writers := 0
	wrote.Range(func(any, any) bool { writers++; return true })
	if writers != 1 {
		t.Errorf("%d callers wrote, want 1", writers)
	}
	if got := entries(t, filepath.Join(cache, "prepared")); got != m.PreparedKey() {
		t.Errorf("the cache holds %q", got)
	}
}

// TestPrepareWaits holds the lock: who waits for it ends with its context and leaves it alone.
func TestPrepareWaits(t *testing.T) {
	t.Parallel()
	m, cache := mustOpen(t, "testdata/variants/bert-all", nil), t.TempDir()
	lockFile := filepath.Join(cache, "prepared", m.PreparedKey()+".lock")
	if err := os.Mkdir(filepath.Dir(lockFile), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := filelock.Try(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Prepare(ctx, cache); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), lockFile) {
		t.Errorf("waiting for a lock: %v, want its path and context.Canceled", err)
	}
	if err := lock.Remove(); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, filepath.Dir(lockFile)); left != "" {
		t.Errorf("%q is left", left)
	}
}
