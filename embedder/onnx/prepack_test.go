package onnx

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
	"github.com/embedfleet/embedfleet/internal/filelock"
)

// prepare writes the prepared form of the slow graph, which has weights to prepack.
func prepare(t testing.TB) Prepared {
	t.Helper()
	rt := start(t)
	p := Prepared{Dir: filepath.Join(t.TempDir(), rt.Key()), Source: "the slow graph"}
	if err := rt.Prepack(t.Context(), File(graphPath(t, "slow.onnx")), "", p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPrepack(t *testing.T) {
	t.Parallel()
	rt, p := start(t), prepare(t)
	if err := rt.Verify(p); err != nil {
		t.Fatal(err)
	}
	opts := slow
	opts.Prepared = p
	prepared, plain := open(t, "slow.onnx", opts), open(t, "slow.onnx", slow)
	if !prepared.Prepared() || plain.Prepared() {
		t.Errorf("prepared: %t and %t, want true and false", prepared.Prepared(), plain.Prepared())
	}
	b := embedder.Batch{Rows: [][]int32{{1, 2, 3}, {4}}}
	got, err1 := prepared.Run(t.Context(), b)
	want, err2 := plain.Run(t.Context(), b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if !near(got[i], want[i]) {
			t.Errorf("row %d: prepared and plain graph differ: %v and %v", i, got[i][:4], want[i][:4])
		}
	}
}

// TestPrepackOnce lets several prepare the same folder; only one writes it.
func TestPrepackOnce(t *testing.T) {
	t.Parallel()
	rt := start(t)
	p := Prepared{Dir: filepath.Join(t.TempDir(), "new", "folder"), Source: "x"}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := rt.Prepack(t.Context(), File(graphPath(t, "slow.onnx")), "", p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	before, err := os.Stat(p.graph())
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.Prepack(t.Context(), File(graphPath(t, "slow.onnx")), "", p); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(p.graph())
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("a valid folder was written again, %v", err)
	}
	if _, err := os.Stat(p.Dir + ".partial"); !os.IsNotExist(err) {
		t.Errorf("the partial folder: %v, want it gone", err)
	}
}

// TestPreparedRefused spoils a folder in every way there is. It must not be loaded, the plain graph serves
// instead, and preparing again repairs it.
func TestPreparedRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"absent", os.RemoveAll, "no such file"},
		{"no weights", func(dir string) error { return os.Remove(filepath.Join(dir, dataName)) }, "no such file"},
		{"truncated", func(dir string) error { return os.Truncate(filepath.Join(dir, dataName), 1000) }, "1000 bytes"},
		{"a flipped bit", flipBit, "not the file that was written"},
		{"a flipped bit and a clock put back", flipUnseen, "not the file that was written"},
		{"another runtime", edit(func(m *manifest) { m.Runtime = "1.20.0" }), `made for onnx runtime "1.20.0"`},
		{"another processor", edit(func(m *manifest) { m.CPU = "amd64" }), `made for processor "amd64"`},
		{"another source", edit(func(m *manifest) { m.Source = "y" }), `made for source "y"`},
		{"another format", edit(func(m *manifest) { m.Format = 99 }), `made for format "99"`},
		{"a file outside", edit(func(m *manifest) { m.Files["../x"] = fileInfo{} }), "outside the folder"},
		{"a file not listed", edit(func(m *manifest) { delete(m.Files, dataName) }), "not in its manifest"},
		{"a tensor off its place", misalign, "no multiple of 64"},
		{"a broken manifest", func(dir string) error {
			return os.Truncate(filepath.Join(dir, manifestName), 20)
		}, manifestName},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rt, p := start(t), prepare(t)
			settle(t, rt, p)
			if err := tt.spoil(p.Dir); err != nil {
				t.Fatal(err)
			}
			if err := rt.Verify(p); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Verify = %v, want an error that says %q", err, tt.want)
			}
			opts := slow
			opts.Prepared = p
			if s := open(t, "slow.onnx", opts); s.Prepared() {
				t.Error("the spoiled folder was loaded")
			}
			if err := rt.Prepack(t.Context(), File(graphPath(t, "slow.onnx")), "", p); err != nil {
				t.Fatal(err)
			}
			if err := rt.Verify(p); err != nil {
				t.Errorf("after preparing again: %v", err)
			}
		})
	}
}

// misalign moves every tensor four bytes on, as the runtime itself may place them, in a folder that is otherwise
// as its manifest says.
func misalign(dir string) error {
	graph, data := filepath.Join(dir, graphName), filepath.Join(dir, dataName)
	weights, err1 := os.ReadFile(data)
	b, err2 := os.ReadFile(graph)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	b, err := onnxpb.Move(b, func(s onnxpb.Span) (onnxpb.Span, error) { s.Offset += 4; return s, nil })
	if err != nil {
		return err
	}
	err1 = os.WriteFile(graph, b, 0o644)
	err2 = os.WriteFile(data, append(make([]byte, 4), weights...), 0o644)
	files, err := digest(dir, []string{graphName, dataName})
	return errors.Join(err, err1, err2, edit(func(m *manifest) { m.Files = files })(dir))
}

// flipBit changes one bit of the weights.
func flipBit(dir string) error {
	path := filepath.Join(dir, dataName)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o644)
}

// flipUnseen is flipBit, after which the time of the latest write is what it was.
func flipUnseen(dir string) error {
	path := filepath.Join(dir, dataName)
	stat, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(flipBit(dir), os.Chtimes(path, stat.ModTime(), stat.ModTime()))
}

// settle prepares until files are known by their stamps, so that a test of what is noticed tests these.
func settle(t *testing.T, rt *Runtime, p Prepared) {
	t.Helper()
	for {
		m, err := rt.verify(p)
		if err != nil {
			t.Fatal(err)
		}
		if !m.digested {
			return
		}
		if err := rt.Prepack(t.Context(), File(graphPath(t, "slow.onnx")), "", p); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStamps checks that files are digested when they may have changed, and only then, and that a folder
// that was copied as it is stays valid.
func TestStamps(t *testing.T) {
	t.Parallel()
	rt, p := start(t), prepare(t)
	settle(t, rt, p)
	data := filepath.Join(p.Dir, dataName)
	copied := Prepared{Dir: p.Dir + "-copy", Source: p.Source}
	for _, tt := range []struct {
		name string
		p    Prepared
		do   func() error
	}{
		{"read and run", p, func() error { return readAll(data) }},
		{"touched", p, func() error { return os.Chtimes(data, time.Now(), time.Now()) }},
		{"copied", copied, func() error { return os.CopyFS(copied.Dir, os.DirFS(p.Dir)) }},
	} {
		if err := tt.do(); err != nil {
			t.Fatal(err)
		}
		m, err := rt.verify(tt.p)
		if err != nil || m.digested != (tt.name != "read and run") {
			t.Errorf("%s: digested %t, %v", tt.name, m.digested, err)
		}
		settle(t, rt, tt.p)
	}
	if left, err := filepath.Glob(filepath.Join(p.Dir, manifestName+".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// readAll reads a file and forgets it.
func readAll(path string) error {
	_, err := os.ReadFile(path)
	return err
}

// edit returns what rewrites a folder's manifest.
func edit(change func(*manifest)) func(string) error {
	return func(dir string) error {
		m, err := readManifest(dir)
		if err != nil {
			return err
		}
		change(&m)
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, manifestName), b, 0o644)
	}
}

func TestPrepackRefuses(t *testing.T) {
	t.Parallel()
	rt := start(t)
	if err := rt.Prepack(t.Context(), File(graphPath(t, "slow.onnx")), "", Prepared{Dir: "relative"}); err == nil {
		t.Error("a relative folder was accepted")
	}
	p := Prepared{Dir: filepath.Join(t.TempDir(), "x")}
	if err := rt.Prepack(t.Context(), File(graphPath(t, "positions.onnx")), "", p); err == nil {
		t.Error("a graph that can't be opened was prepared")
	}
	if left, _ := os.ReadDir(filepath.Dir(p.Dir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestPrepackWaitsForLock checks that a preparation waits for another process's, as long as its context.
func TestPrepackWaitsForLock(t *testing.T) {
	t.Parallel()
	p := Prepared{Dir: filepath.Join(t.TempDir(), "x")}
	lock, err := filelock.Try(p.Dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lock.Remove(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := start(t).Prepack(ctx, File(graphPath(t, "slow.onnx")), "", p); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want context.DeadlineExceeded", err)
	}
	left, err := os.ReadDir(filepath.Dir(p.Dir))
	if err != nil || !slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() == "x.lock" }) || len(left) != 1 {
		t.Errorf("left behind: %v, %v; want the lock only", left, err)
	}
}
