package model_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/model"
	"github.com/embedfleet/embedfleet/embedder/onnx"
	"github.com/embedfleet/embedfleet/embedder/tokenizer"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

var update = flag.Bool("update", false, "write the table of docs/models.md anew, with this machine's speeds")

const (
	tableBegin = "<!-- The table is printed by TestTable -update; do not edit it. -->\n"
	tableEnd   = "<!-- End of the table. -->\n"
)

// tableRows are the small folders of the table, and what people know the architecture by.
var tableRows = []struct{ folder, known string }{
	{"bert-bin", "BERT: MiniLM, KR-SBERT, e5-small, LaBSE"},
	{"bert-odd", "BERT of odd sizes: rubert-tiny2, TinyBERT-4L-312"},
	{"bert-dense-tanh", "BERT with a Dense module: LaBSE"},
	{"bert-mrl", "BERT with truncate_dim"},
	{"bert-prompt-left-out", "BERT whose prompt is not pooled"},
	{"roberta-bin-fp16", "RoBERTa: KoSimCSE, ko-sroberta"},
	{"xlmr-bin-sharded-bf16", "XLM-RoBERTa: bge-m3, KURE, e5, arctic-l, granite-r1"},
	{"distilbert", "DistilBERT: distiluse"},
	{"electra", "ELECTRA: KoELECTRA"},
	{"albert", "ALBERT: paraphrase-albert"},
	{"mpnet", "MPNet: all-mpnet-base-v2"},
	{"deberta-v2", "DeBERTa v2: kf-deberta"},
	{"modernbert", "ModernBERT: granite-r2, gte-modernbert, modernbert-embed"},
	{"modernbert-wordpiece", "ModernBERT with WordPiece: A.X-Encoder"},
	{"gte", "GTE / NewModel: gte-multilingual, arctic-m-v2"},
	{"nomic-bert", "NomicBERT: nomic-embed-text-v1.5"},
	{"jina-v3", "Jina v3, without its adapters"},
	{"eurobert", "EuroBERT: jina-v5"},
	{"qwen3", "Qwen3-Embedding"},
	{"gemma3", "Gemma 3: EmbeddingGemma"},
}

// TestTable compares the table of docs/models.md with what the folders do, all but the figures of a machine.
func TestTable(t *testing.T) {
	rt, err := onnx.Init(testkit.ONNXRuntime(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	table := "| architecture, and who has it | tokenizer | graph | kernels | largest 1 - cosine | tokens/s, of plain ONNX Runtime's |\n|---|---|---|---|---|---|\n"
	for _, r := range tableRows {
		table += tableRow(t, rt, r.known, testkit.Shared(t, "data", "models-tiny2", r.folder)) + "\n"
	}
	path := filepath.Join(testkit.Root(t), "docs", "models.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(raw), tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatal("docs/models.md has no place for the table")
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+tableBegin+table+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if onnx.HasOperators() && !slices.Equal(facts(old), facts(table)) {
		t.Errorf("docs/models.md says\n%s\nfound\n%s\nwrite it anew with -run TestTable -update", strings.Join(facts(old), "\n"), strings.Join(facts(table), "\n"))
	}
}

// facts are the first four columns of a table.
func facts(table string) (rows []string) {
	for line := range strings.Lines(table) {
		columns := strings.Split(line, "|")
		rows = append(rows, strings.Join(columns[:min(5, len(columns))], "|"))
	}
	return rows
}

// tableRow opens a folder and measures it.
func tableRow(t *testing.T, rt *onnx.Runtime, known, dir string) string {
	m, plain := load(t, rt, dir, model.Standard)
	graph, kernels, tokens := "foreign", "none", "read"
	if m.Compiled {
		graph = "compiled"
	}
	if _, err := tokenizer.Open(m.TokenizerDir); err != nil {
		tokens = "not yet"
	}
	session := plain
	if onnx.HasOperators() {
		var packed *model.Model
		if packed, session = load(t, rt, dir, model.AVX512); packed.Packed {
			kernels = packed.KernelKind()
		}
	}
	worst, ratio := "", ""
	if *update {
		if tokens == "read" {
			worst = fmt.Sprintf("%.0e", max(tiny(t, rt, dir, model.Standard), tiny(t, rt, dir, model.AVX512)))
		}
		ratio = "1" // the same graph
		if kernels != "none" {
			ratio = fmt.Sprintf("%.1f", speed(t, m, session)/speed(t, m, plain))
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", known, tokens, graph, kernels, worst, ratio)
}

// speed returns the tokens of texts of mixed lengths that a session computes in a second.
func speed(t *testing.T, m *model.Model, s *onnx.Session) float64 {
	r := rand.New(rand.NewPCG(1, 2))
	var b embedder.Batch
	tokens := 0
	for range 16 {
		row := make([]int32, 1+r.IntN(min(m.MaxTokens, 96)))
		for i := range row {
			row[i] = r.Int32N(int32(m.VocabSize))
		}
		tokens += len(row)
		b.Rows = append(b.Rows, row)
	}
	done, begun := 0, time.Now()
	for time.Since(begun) < 300*time.Millisecond {
		if _, err := s.Run(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		done += tokens
	}
	return float64(done) / time.Since(begun).Seconds()
}

// TestAddAnArchitecture holds the code of docs/add-an-architecture.md to be that of the program.
func TestAddAnArchitecture(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "add-an-architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(raw)
	}
	parts := strings.Split(string(doc), "```go\n")
	if len(parts) < 3 {
		t.Fatal("no code in it")
	}
	for _, part := range parts[1:] {
		code, _, _ := strings.Cut(part, "```")
		if !strings.Contains(source.String(), code) {
			t.Errorf("this is in the document and not in the program:\n%s", code)
		}
	}
}
