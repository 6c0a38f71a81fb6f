package model

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// An edit changes a copy of a folder before it is opened.
type edit func(t *testing.T, dir string)

// copyOf returns a changed copy of a folder of testdata.
func copyOf(t *testing.T, name string, edits ...edit) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		e(t, dir)
	}
	return dir
}

// set sets fields of a JSON object, which is made if need be; a nil value takes a field out.
func set(file string, values map[string]any) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		object := make(map[string]any)
		if raw, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			if err := json.Unmarshal(raw, &object); err != nil {
				t.Fatal(err)
			}
		}
		maps.Copy(object, values)
		maps.DeleteFunc(object, func(_ string, v any) bool { return v == nil })
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		write(file, string(raw))(t, dir)
	}
}

func config1(key string, value any) edit { return set("config.json", map[string]any{key: value}) }

func write(file, content string) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(files ...string) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		for _, f := range files {
			if err := os.RemoveAll(filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func cut(file string, bytes int64) edit {
	return func(t *testing.T, dir string) {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, file), info.Size()-bytes); err != nil {
			t.Fatal(err)
		}
	}
}

func mustOpen(t *testing.T, dir string, o *Overrides) *Model {
	t.Helper()
	if o == nil {
		o = &Overrides{}
	}
	m, err := Open(t.Context(), dir, &Options{Overrides: *o})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]Model{
		"bert-mean": {
			Architecture: "bert", Compiled: true, Layers: 2, Hidden: 64, Heads: 4, VocabSize: 6100,
			Pooling: Pooling{Mean}, Normalize: true, Dim: 64, MaxTokens: 128, PadID: 0,
		},
		"roberta-cls": {
			Architecture: "roberta", Compiled: true, Layers: 2, Hidden: 64, Heads: 4, VocabSize: 6100,
			Pooling: Pooling{CLS}, Dim: 64, MaxTokens: 128, PadID: 1,
		},
		"variants/roberta-514": {
			Architecture: "roberta", Compiled: true, Layers: 2, Hidden: 16, Heads: 2, VocabSize: 64,
			Pooling: Pooling{Mean}, Normalize: true, Dim: 16, MaxTokens: 512, PadID: 1,
		},
		"variants/bert-all": {
			Architecture: "bert", Compiled: true, Layers: 2, Hidden: 16, Heads: 2, VocabSize: 64,
			Pooling: Pooling{LastToken, CLS, Mean, Max, WeightedMean}, Dim: 80, MaxTokens: 40, PadID: 0,
		},
		"foreign/opset11": {
			Architecture: "distilbert", Layers: 1, Hidden: 16, Heads: 1, VocabSize: 64,
			Pooling: Pooling{Mean, Max, LastToken}, Normalize: true, Dim: 48, MaxTokens: 32, PadID: 0,
		},
		"foreign/sentence": {
			Architecture: "distilbert", Layers: 1, Hidden: 16, Heads: 1, VocabSize: 64,
			Normalize: true, Dim: 16, MaxTokens: 32, PadID: 0,
		},
	} {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			got := mustOpen(t, filepath.Join("testdata", dir), nil)
			if g, w := brief(*got), brief(want); g != w {
				t.Errorf("opened\n%s\nwant\n%s", g, w)
			}
			if !filepath.IsAbs(got.Dir) || got.TokenizerDir != got.Dir {
				t.Errorf("folders %q and %q, want the same absolute one", got.Dir, got.TokenizerDir)
			}
		})
	}
}

// brief returns the fields that a folder decides.
func brief(m Model) string {
	m.Dir, m.TokenizerDir, m.Files, m.Warnings = "", "", nil, nil
	b, _ := json.Marshal(m) // of plain fields only
	return string(b)
}

func TestOpenOverrides(t *testing.T) {
	t.Parallel()
	no, q, d := false, "q: ", ""
	m := mustOpen(t, "testdata/bert-mean", &Overrides{
		Pooling: Pooling{CLS, Mean}, Normalize: &no, MaxTokens: 17, QueryPrompt: &q, DocumentPrompt: &d,
	})
	if m.Pooling.String() != "cls+mean" || m.Dim != 128 || m.Normalize || m.MaxTokens != 17 || m.Prompts != (Prompts{Query: "q: "}) {
		t.Errorf("overrides were not taken: %s", brief(*m))
	}
	for want, o := range map[string]Overrides{
		"at most 129 tokens were asked for, the network reads 1 to 128": {MaxTokens: 129},
		`pooling mode "median" is unknown`:                              {Pooling: Pooling{"median"}},
		`pooling mode "mean" is named twice`:                            {Pooling: Pooling{Mean, Mean}},
	} {
		if _, err := Open(t.Context(), "testdata/bert-mean", &Options{Overrides: o}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestOpenDigests(t *testing.T) {
	t.Parallel()
	m := mustOpen(t, "testdata/variants/xlmr-weighted-sharded", nil)
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Name)
		if raw, err := os.ReadFile(filepath.Join(m.Dir, f.Name)); err != nil || int64(len(raw)) != f.Size || len(f.SHA256) != 64 {
			t.Errorf("file %+v: %v, %d bytes on disk", f, err, len(raw))
		}
	}
	want := []string{
		"config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json",
		"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors",
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
}

// TestOpenSubfolder opens a published folder whose network lies in 0_Transformer and whose tokenizer is
// only a vocabulary. Its weights are not there, which is what must be said.
func TestOpenSubfolder(t *testing.T) {
	t.Parallel()
	dir := testkit.Shared(t, "data", "tokenizers", "kr-sbert-v40k-modeldir")
	if _, err := Open(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), "0_Transformer/model.safetensors is missing") {
		t.Errorf("error %v, want one that names the missing weights", err)
	}
	moved := copyOf(t, "variants/bert-all", func(t *testing.T, dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		write("0_Transformer/vocab.txt", "a\nb\n[PAD]\n")(t, dir)
		for _, e := range entries {
			if e.Name() != "modules.json" && e.Name() != "1_Pooling" {
				if err := os.Rename(filepath.Join(dir, e.Name()), filepath.Join(dir, "0_Transformer", e.Name())); err != nil {
					t.Fatal(err)
				}
			}
		}
		remove("0_Transformer/tokenizer.json")(t, dir)
		write("modules.json", `[{"path":"0_Transformer","type":"a.b.Transformer"},{"path":"1_Pooling","type":"sentence_transformers.sentence_transformer.modules.pooling.Pooling"}]`)(t, dir)
	})
	m := mustOpen(t, moved, nil)
	if m.TokenizerDir != filepath.Join(m.Dir, "0_Transformer") || m.PadID != 2 {
		t.Errorf("tokenizer in %q with padding id %d, want 0_Transformer and 2", m.TokenizerDir, m.PadID)
	}
	if err := m.WriteGraph(t.Context(), t.TempDir()); err != nil {
		t.Error(err)
	}
}

// TestOpenSentencePiece has a folder whose tokenizer is only a SentencePiece model, which the tokenizer makes XLM-R's of.
func TestOpenSentencePiece(t *testing.T) {
	t.Parallel()
	m := mustOpen(t, copyOf(t, "variants/bert-all", remove("tokenizer.json"), write("sentencepiece.bpe.model", "x")), nil)
	if m.PadID != 1 {
		t.Errorf("padding id %d, want 1", m.PadID)
	}
	if !slices.ContainsFunc(m.Files, func(f File) bool { return f.Name == "sentencepiece.bpe.model" }) {
		t.Errorf("sentencepiece.bpe.model is not among %v", m.Files)
	}
}

// TestOpenPadID is the trap of multilingual-e5-small: config.json and tokenizer name different ids.
func TestOpenPadID(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		edits []edit
		want  int
	}{
		"the tokenizer wins": {[]edit{config1("pad_token_id", 7)}, 0},
		"an object":          {[]edit{set("tokenizer_config.json", map[string]any{"pad_token": map[string]any{"content": "[SEP]"}})}, 3},
		"special tokens map": {[]edit{
			set("tokenizer_config.json", map[string]any{"pad_token": nil}),
			write("special_tokens_map.json", `{"pad_token":"[CLS]"}`),
		}, 2},
		"in the vocabulary": {[]edit{set("tokenizer_config.json", map[string]any{"pad_token": "a0"})}, 4},
		"from the padding": {[]edit{
			set("tokenizer_config.json", map[string]any{"pad_token": nil}),
			set("tokenizer.json", map[string]any{"padding": map[string]any{"pad_id": 9}}),
		}, 9},
		"nobody says": {[]edit{set("tokenizer_config.json", map[string]any{"pad_token": nil}), config1("pad_token_id", 5)}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if m := mustOpen(t, copyOf(t, "variants/bert-all", tc.edits...), nil); m.PadID != tc.want {
				t.Errorf("padding id %d, want %d", m.PadID, tc.want)
			}
		})
	}
}

func TestOpenMaxTokens(t *testing.T) {
	t.Parallel()
	sentence := func(n int) edit { return set("sentence_bert_config.json", map[string]any{"max_seq_length": n}) }
	limit := func(n any) edit { return set("tokenizer_config.json", map[string]any{"model_max_length": n}) }
	for name, tc := range map[string]struct {
		edits    []edit
		want     int
		warnings int
	}{
		"positions":           {nil, 512, 0},
		"no model_max_length": {[]edit{limit(nil)}, 512, 0},
		"model_max_length":    {[]edit{limit(100)}, 100, 0},
		"max_seq_length wins": {[]edit{limit(100), sentence(200)}, 200, 0},
		"all 514 positions":   {[]edit{sentence(514)}, 512, 1},
		"old name":            {[]edit{set("sentence_roberta_config.json", map[string]any{"max_seq_length": 64})}, 64, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := mustOpen(t, copyOf(t, "variants/roberta-514", tc.edits...), nil)
			if m.MaxTokens != tc.want || len(m.Warnings) != tc.warnings {
				t.Errorf("%d tokens with warnings %q, want %d with %d", m.MaxTokens, m.Warnings, tc.want, tc.warnings)
			}
		})
	}
}

func TestOpenPrompts(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]Prompts{
		`{}`: {},
		`{"prompts":{"query":"q: ","passage":"p: "}}`:                                              {"q: ", "p: "},
		`{"prompts":{"query":"q: ","passage":"p: ","document":"d: ","corpus":"c: "}}`:              {"q: ", "d: "},
		`{"prompts":{"query":"q: ","other":"o: "},"default_prompt_name":"other"}`:                  {"q: ", "o: "},
		`{"prompts":{"query":"","document":"","x":"x: "},"default_prompt_name":"x"}`:               {},
		`{"prompts":{"query":null},"default_prompt_name":null,"model_type":"SentenceTransformer"}`: {},
	} {
		dir := copyOf(t, "variants/bert-all", write("config_sentence_transformers.json", config))
		if m := mustOpen(t, dir, nil); m.Prompts != want {
			t.Errorf("%s: prompts %+v, want %+v", config, m.Prompts, want)
		}
	}
}

func TestOpenWithoutModules(t *testing.T) {
	t.Parallel()
	m := mustOpen(t, copyOf(t, "variants/roberta-514", remove("modules.json", "1_Pooling")), nil)
	if m.Pooling.String() != "mean" || m.Normalize || len(m.Warnings) != 1 {
		t.Errorf("pooling %s, normalised %t, warnings %q: want mean, not normalised, one warning", m.Pooling, m.Normalize, m.Warnings)
	}
}
