package model_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/model"
	"github.com/embedfleet/embedfleet/embedder/onnx"
	"github.com/embedfleet/embedfleet/embedder/tokenizer"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

// TestConformance runs every small model through a real runtime and compares with the vectors that
// transformers (or, for the variants, a plain forward pass in float64) made of it.
func TestConformance(t *testing.T) {
	rt, err := onnx.Init(testkit.ONNXRuntime(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, kernels := range map[string]model.Kernels{"standard": model.Standard, "avx512": model.AVX512} {
		t.Run(name, func(t *testing.T) {
			if kernels == model.AVX512 && !onnx.HasOperators() {
				t.Skip("this processor has no AVX-512")
			}
			for _, dir := range folders(t) {
				t.Run(filepath.ToSlash(dir), func(t *testing.T) { conform(t, rt, dir, kernels) })
			}
			t.Run("all-MiniLM-L6-v2", func(t *testing.T) { conformReal(t, rt, kernels) })
		})
	}
}

// conformReal runs real weights on real texts and compares with sentence-transformers, in batches of texts
// as they come: the padding must not show. Every fourth of the 320 texts is enough to see a difference.
func conformReal(t *testing.T, rt *onnx.Runtime, kernels model.Kernels) {
	raw, err := os.ReadFile(testkit.Shared(t, "models", "reference", "all-MiniLM-L6-v2.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	m, s := load(t, rt, testkit.DefaultModel(t), kernels)
	tok, err := tokenizer.Open(m.TokenizerDir)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]int32
	var want []vector.Vector
	for i, line := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		if i%4 != 0 {
			continue
		}
		var c struct {
			Text   string
			Prefix string
			Vector []byte `json:"vector_f32le_base64"`
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		ids, _ := tok.Encode(nil, c.Prefix+c.Text, m.MaxTokens)
		v, err := vector.Parse(c.Vector)
		if err != nil {
			t.Fatal(err)
		}
		rows, want = append(rows, ids), append(want, v)
	}
	if len(rows) < 80 {
		t.Fatalf("%d texts, want 80", len(rows))
	}
	for i := 0; i < len(rows); i += 8 {
		for j, v := range run(t, s, rows[i:i+8]...) {
			near(t, "real text", i+j, v, want[i+j])
		}
	}
}

// folders lists the folders with reference vectors.
func folders(t *testing.T) []string {
	t.Helper()
	var dirs []string
	for _, pattern := range []string{"testdata/*-mean", "testdata/*-cls", "testdata/variants/*", "testdata/foreign/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: nothing there (%v)", pattern, err)
		}
		dirs = append(dirs, found...)
	}
	return dirs
}

// load opens and prepares a folder and loads its graph, until the end of the test.
func load(t *testing.T, rt *onnx.Runtime, dir string, kernels model.Kernels) (*model.Model, *onnx.Session) {
	t.Helper()
	m, err := model.Open(t.Context(), dir, &model.Options{Kernels: kernels})
	if err != nil {
		t.Fatal(err)
	}
	if m.Lowercase {
		t.Fatalf("%s wants lower case, which is the tokenizer's work: test it there", dir)
	}
	p, err := m.Prepare(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := rt.Open(t.Context(), p.Graph, onnx.Options{
		VocabSize: m.VocabSize, MaxTokens: m.MaxTokens, PadID: int32(m.PadID), Dim: m.Dim,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, s
}

func conform(t *testing.T, rt *onnx.Runtime, dir string, kernels model.Kernels) {
	m, s := load(t, rt, dir, kernels)
	rows, want := reference(t, m, dir)
	alone := make([]vector.Vector, len(rows))
	for i, row := range rows {
		alone[i] = run(t, s, row)[0]
		near(t, "alone", i, alone[i], want[i])
	}
	for i, v := range run(t, s, rows...) {
		near(t, "in a batch", i, v, want[i])
		near(t, "in a batch against alone", i, v, alone[i])
		check := vector.Vector.Check
		if m.Normalize {
			check = vector.Vector.CheckUnit
		}
		if err := check(v, m.Dim); err != nil {
			t.Error(err)
		}
	}
}

// reference returns a folder's rows of token ids and their vectors.
func reference(t *testing.T, m *model.Model, dir string) ([][]int32, []vector.Vector) {
	t.Helper()
	var r struct {
		Rows    [][]int32
		Vectors []vector.Vector
		Cases   []struct {
			Text   string
			Tokens int
			Vector vector.Vector
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	if r.Cases != nil {
		tok, err := tokenizer.Open(m.TokenizerDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Cases {
			ids, _ := tok.Encode(nil, m.Prompts.Document+c.Text, m.MaxTokens)
			if len(ids) != c.Tokens {
				t.Errorf("%q has %d tokens, want %d", c.Text, len(ids), c.Tokens)
			}
			r.Rows, r.Vectors = append(r.Rows, ids), append(r.Vectors, c.Vector)
		}
	}
	if len(r.Rows) == 0 || len(r.Rows) != len(r.Vectors) {
		t.Fatalf("%s: %d rows and %d vectors", dir, len(r.Rows), len(r.Vectors))
	}
	return r.Rows, r.Vectors
}

func run(t *testing.T, s *onnx.Session, rows ...[]int32) []vector.Vector {
	t.Helper()
	v, err := s.Run(t.Context(), embedder.Batch{Rows: slices.Clone(rows)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// near demands the direction that float32 can give and, since a cosine is blind to it, the same length.
func near(t *testing.T, what string, i int, got, want vector.Vector) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: row %d has %d dimensions, want %d", what, i, len(got), len(want))
		return
	}
	if c := got.Cosine(want); c < 0.9999999 {
		t.Errorf("%s: row %d has cosine %.9f to the reference", what, i, c)
	}
	if ratio := got.Norm() / want.Norm(); ratio < 0.99999 || ratio > 1.00001 {
		t.Errorf("%s: row %d has %.6f times the reference's length", what, i, ratio)
	}
}
