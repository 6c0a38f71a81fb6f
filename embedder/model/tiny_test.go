package model_test

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/model"
	"github.com/embedfleet/embedfleet/embedder/onnx"
	"github.com/embedfleet/embedfleet/embedder/tokenizer"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

// A tinyReference is the reference.json of a small model: texts with their token counts and vectors by
// sentence-transformers, float32, one text at a time.
type tinyReference struct {
	Kind      string
	MaxTokens int `json:"max_tokens"`
	Prompts   map[string]string
	Cases     []struct {
		Text   string
		Prompt string `json:"prompt_name"`
		Tokens int
		Vector vector.Vector
		Cut    vector.Vector `json:"truncated"` // Vector of length 1, where the folder cuts it
		Empty  bool
	}
}

// tinyBound is how far 1 - cosine may be from the reference: 0.999 lets a window that is off by one pass.
const tinyBound = 1e-5

func readTiny(t testing.TB, dir string) (r tinyReference) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTiny runs small models of every family that is compiled, texts alone and together, and compares.
func TestTiny(t *testing.T) {
	rt, err := onnx.Init(testkit.ONNXRuntime(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{
		"albert", "bert-bin", "bert-bin-legacy", "bert-dense-tanh", "bert-mrl", "bert-odd", "bert-pooling", "gemma3",
		"deberta-v2", "distilbert", "electra", "eurobert",
		"gte", "jina-v3", "modernbert", "modernbert-wordpiece", "mpnet", "nomic-bert", "qwen3", "roberta-bin-fp16", "xlmr-bin-sharded-bf16",
	} {
		t.Run(name, func(t *testing.T) {
			dir := testkit.Shared(t, "data", "models-tiny2", name)
			for _, kernels := range []model.Kernels{model.Standard, model.AVX512} {
				if kernels == model.AVX512 && !onnx.HasOperators() {
					continue
				}
				if worst := tiny(t, rt, dir, kernels); worst > tinyBound {
					t.Errorf("kernels %d: 1 - cosine is up to %.3g, want %g at most", kernels, worst, tinyBound)
				}
			}
		})
	}
}

// TestTinyPrompts runs folders with prompts through the engine, as it is served, and compares: those that are pooled,
// those that are read and left out, and texts without one.
func TestTinyPrompts(t *testing.T) {
	rt, err := onnx.Init(testkit.ONNXRuntime(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"bert-prompt-left-out", "gemma3", "nomic-bert", "qwen3", "xlmr-bin-sharded-bf16"} {
		t.Run(name, func(t *testing.T) {
			dir := testkit.Shared(t, "data", "models-tiny2", name)
			m, s := load(t, rt, dir, model.Standard)
			tok, err := tokenizer.Open(m.TokenizerDir)
			if err != nil {
				t.Fatal(err)
			}
			e, err := embedder.NewEngine(s, tok, embedder.Settings{
				MaxTokens: m.MaxTokens, PromptExcluded: m.PromptExcluded, Unit: m.Normalize, Space: "tiny",
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			prompts := make(map[string]int)
			for _, c := range readTiny(t, dir).Cases {
				if c.Empty {
					continue
				}
				name := cmp.Or(c.Prompt, "text")
				prompts[name]++
				prompt, err := m.Prompt(name)
				if err != nil {
					t.Fatal(err)
				}
				got, err := e.EmbedAllAs(t.Context(), prompt, []string{c.Text})
				if err != nil || got[0].Err != nil {
					t.Errorf("%q: %v, %v", c.Text, err, got)
					continue
				}
				if d := 1 - got[0].Vector.Cosine(c.Vector); d > tinyBound || got[0].Tokens != c.Tokens {
					t.Errorf("%s %q: 1 - cosine %.3g, %d tokens, want %d", name, c.Text, d, got[0].Tokens, c.Tokens)
				}
			}
			if len(prompts) < 2 {
				t.Errorf("prompts %v, want several", prompts)
			}
			if err := e.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// tiny returns the largest 1 - cosine of a folder's texts.
func tiny(t *testing.T, rt *onnx.Runtime, dir string, kernels model.Kernels) (worst float64) {
	t.Helper()
	m, s := load(t, rt, dir, kernels)
	if !m.Compiled {
		t.Errorf("%s was not compiled: %q", dir, m.Warnings)
	}
	rows, want := tinyRows(t, m, dir)
	for i, row := range rows {
		v := run(t, s, row)[0]
		worst = max(worst, 1-v.Cosine(want[i]))
		if ratio := v.Norm() / want[i].Norm(); ratio < 0.9999 || ratio > 1.0001 { // a cosine is blind to it
			t.Errorf("text %d has %.6f times the reference's length", i, ratio)
		}
	}
	for i, v := range run(t, s, rows...) {
		worst = max(worst, 1-v.Cosine(want[i]))
	}
	return worst
}

// tinyRows returns the token ids of a folder's texts and their vectors.
func tinyRows(t *testing.T, m *model.Model, dir string) (rows [][]int32, want []vector.Vector) {
	t.Helper()
	r := readTiny(t, dir)
	if m.MaxTokens != r.MaxTokens {
		t.Errorf("texts of %d tokens, want %d", m.MaxTokens, r.MaxTokens)
	}
	tok, err := tokenizer.Open(m.TokenizerDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cases {
		if m.PromptExcluded && c.Prompt != "" {
			continue // the engine's work, see TestTinyPrompts
		}
		ids, _ := tok.Encode(nil, r.Prompts[c.Prompt]+c.Text, m.MaxTokens)
		if len(ids) != c.Tokens {
			t.Errorf("%q has %d tokens, want %d", c.Text, len(ids), c.Tokens)
		}
		rows, want = append(rows, ids), append(want, c.Vector)
		if c.Cut != nil {
			want[len(want)-1] = c.Cut
		}
	}
	return rows, want
}
