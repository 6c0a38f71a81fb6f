package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
)

// TestConformanceReal checks tokenizers of published models, which are too large for this repository, against
// cases made of our own texts.
func TestConformanceReal(t *testing.T) {
	t.Parallel()
	for _, m := range []struct{ name, path string }{
		{"roberta-base", "data/tokenizers/roberta-base-bytebpe"},
		{"kr-sbert", "data/tokenizers/kr-sbert-v40k-modeldir/0_Transformer"}, // only has a vocab.txt
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			tk := open(t, shared(t, m.path))
			checkCases(t, tk, "testdata/variants/cases-"+m.name+".jsonl.gz", 1000)
		})
	}
	t.Run("koelectra", func(t *testing.T) {
		t.Parallel()
		// The published folder has these two files, of which the vocabulary is at hand.
		vocab, err := os.ReadFile(filepath.Join(shared(t, "data/tokenizers/koelectra-v3"), "vocab.txt"))
		if err != nil {
			t.Fatal(err)
		}
		dir := folder(t, map[string]string{"vocab.txt": string(vocab), "config.json": `{"model_type":"electra"}`})
		checkCases(t, open(t, dir), "testdata/variants/cases-koelectra.jsonl.gz", 1000)
	})
}

// TestFullSizeUnigram loads the complete vocabulary of XLM-R and encodes with it.
func TestFullSizeUnigram(t *testing.T) {
	t.Parallel()
	tk := fromBytes(t, readGzip(t, shared(t, "data/tokenizers/xlm-roberta-unigram-250k/tokenizer.json.gz")))
	if got := tk.VocabSize(); got != 250_002 {
		t.Errorf("VocabSize is %d, want 250002", got)
	}
	if got := tk.PadID(); got != 1 {
		t.Errorf("PadID is %d, want 1", got)
	}
	ids, _ := tk.Encode(nil, "Hello world", 0)
	if want := []int32{0, 35378, 8999, 2}; !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
}

// TestVocabTxtEqualsJSON writes the vocabulary of a tokenizer.json as a vocab.txt and expects equal ids.
func TestVocabTxtEqualsJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, config, vocabLineEnd string }{
		{"wordpiece-uncased", ``, "\n"},
		{"wordpiece-uncased", `{"tokenizer_class":"BertTokenizer"}`, "\r\n"},
		{"wordpiece-cased", `{"do_lower_case":false,"strip_accents":null,"tokenizer_class":"BertTokenizerFast"}`, "\n"},
	} {
		files := map[string]string{"vocab.txt": strings.Join(vocabLines(t, c.from), c.vocabLineEnd)}
		if c.config != "" {
			files["tokenizer_config.json"] = c.config
		}
		tk := open(t, folder(t, files))
		checkCases(t, tk, "testdata/public/cases-"+c.from+".jsonl.gz", 4736)
		if warnings := tk.Warnings(); len(warnings) > 0 {
			t.Errorf("unexpected warnings: %q", warnings)
		}
	}
}

// vocabLines returns the pieces of a WordPiece tokenizer in the order of their ids.
func vocabLines(tb testing.TB, name string) []string {
	tb.Helper()
	var lines []string
	variant(tb, name, func(d doc) {
		vocab := d["model"].(doc)["vocab"].(doc)
		lines = make([]string, len(vocab))
		for token, id := range vocab {
			lines[int(id.(float64))] = token
		}
	})
	return lines
}

// folder writes files to a new folder.
func folder(tb testing.TB, files map[string]string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

const tinyVocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n"

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	cased, err := os.ReadFile("testdata/public/tokenizers/wordpiece-cased.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"nothing", nil, "there is no tokenizer.json, no vocab.txt and no sentencepiece.bpe.model"},
		{"sentencepiece cut off", map[string]string{"sentencepiece.bpe.model": "x"}, "sentencepiece.bpe.model: it is cut off, or not a SentencePiece model"},
		{"sentencepiece of another class", map[string]string{"sentencepiece.bpe.model": "x", "tokenizer_config.json": `{"tokenizer_class":"CamembertTokenizer"}`},
			`tokenizer_class "CamembertTokenizer" is not supported without a tokenizer.json; get tokenizer.json`},
		{"sentencepiece of another model", map[string]string{"sentencepiece.bpe.model": "x", "config.json": `{"model_type":"camembert"}`},
			`model_type "camembert" is not supported without a tokenizer.json`},
		{"sentencepiece with another token", map[string]string{"sentencepiece.bpe.model": "x", "special_tokens_map.json": `{"cls_token":"[CLS]"}`},
			`cls_token of "[CLS]" is not supported without a tokenizer.json`},
		{"sentencepiece without pieces", map[string]string{"sentencepiece.bpe.model": ""}, `its piece 0 is not "<unk>": this is not XLM-R's`},
		{"spiece.model only", map[string]string{"spiece.model": "x"}, "only spiece.model, which is not read here; get tokenizer.json"},
		{"vocab.json only", map[string]string{"vocab.json": "{}"}, "only vocab.json"},
		{"table too small", map[string]string{"tokenizer.json": string(cased), "config.json": `{"vocab_size":5999}`},
			`tokenizer.json: token "##ving" has id 5999, but the model's embedding table has 5999 rows`},
		{"vocab.txt, table too small", map[string]string{"vocab.txt": tinyVocab, "config.json": `{"vocab_size":6}`},
			`vocab.txt: token "##b" has id 6, but the model's embedding table has 6 rows`},
		{"vocab.txt, other class", map[string]string{"vocab.txt": tinyVocab, "tokenizer_config.json": `{"tokenizer_class":"BertJapaneseTokenizer"}`},
			`vocab.txt: tokenizer_class "BertJapaneseTokenizer" is not supported without a tokenizer.json`},
		{"vocab.txt, other model", map[string]string{"vocab.txt": tinyVocab, "config.json": `{"model_type":"deberta-v2"}`},
			`model_type "deberta-v2" is not supported without a tokenizer.json`},
		{"vocab.txt, no basic tokenizer", map[string]string{"vocab.txt": tinyVocab, "tokenizer_config.json": `{"do_basic_tokenize":false}`},
			"do_basic_tokenize false is not supported"},
		{"vocab.txt, no mask", map[string]string{"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n"}, `special token "[MASK]" is not among its 4 lines`},
		{"vocab.txt, other unknown", map[string]string{"vocab.txt": tinyVocab, "special_tokens_map.json": `{"unk_token":{"content":"<unk>"}}`},
			`the unknown token "<unk>" is not in the vocabulary`},
		{"vocab.txt, not UTF-8", map[string]string{"vocab.txt": "\xff\n"}, "the file is not UTF-8"},
		{"broken settings", map[string]string{"tokenizer.json": string(cased), "tokenizer_config.json": `{`}, "tokenizer_config.json"},
		{"cut off", map[string]string{"tokenizer.json": string(cased[:5000])}, "tokenizer.json: the file is not valid JSON (at byte 5000 of 5000)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := tokenizer.Open(folder(t, c.files))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %v, want one line with %q", err, c.want)
			}
		})
	}
	if _, err := tokenizer.Open(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a missing folder was opened")
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	cased, err := os.ReadFile("testdata/public/tokenizers/wordpiece-cased.json")
	if err != nil {
		t.Fatal(err)
	}
	tk := open(t, folder(t, map[string]string{
		"tokenizer.json":          string(cased),
		"special_tokens_map.json": `{"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false},"cls_token":"[CLS]"}`,
		"tokenizer_config.json": `{"do_lower_case":true,"pad_token":"[MASK]","additional_special_tokens":["<new>"],
			"added_tokens_decoder":{"0":{"content":"[CLS]"},"7":{"content":"[SEP]"},"9":{"content":"<gone>"}}}`,
	}))
	want := []string{
		`special_tokens_map.json names "<s>" as bos_token, but no such token exists`,
		`special_tokens_map.json names "</s>" as eos_token, but no such token exists`,
		`"<new>" is an additional special token, but no such token exists`,
		`tokenizer_config.json gives token "[SEP]" id 7, its id is 2`,
		`tokenizer_config.json adds token "<gone>" with id 9, which does not exist`,
		`tokenizer_config.json says do_lower_case is true, the tokenizer says false and is followed`,
	}
	if got := tk.Warnings(); !slices.Equal(got, want) {
		t.Errorf("warnings are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := tk.PadID(); got != 4 {
		t.Errorf("PadID is %d, want 4: the one that tokenizer_config.json names", got)
	}
}

func TestDuplicateLineOfVocabTxt(t *testing.T) {
	t.Parallel()
	tk := open(t, folder(t, map[string]string{"vocab.txt": tinyVocab + "a\n"}))
	if ids, _ := tk.Encode(nil, "a ab", 0); !slices.Equal(ids, []int32{2, 7, 7, 6, 3}) {
		t.Errorf("got %v, want the later line's id, 7, for a", ids)
	}
	if w := tk.Warnings(); len(w) != 1 || !strings.Contains(w[0], `"a" is in lines 6 and 8`) {
		t.Errorf("warnings are %q", w)
	}
}

func TestLookups(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file             string
		pad, mask        int32
		maskName, absent string
		size             int
	}{
		{"public/tokenizers/wordpiece-cased.json", 1, 4, "[MASK]", "<s>", 6000},
		{"public/tokenizers/wordpiece-uncased.json", 0, 5, "[MASK]", "</s>", 6000},
		{"public/tokenizers/unigram-e5.json", 1, 6001, "<mask>", "[PAD]", 6002},
		{"public/tokenizers/unigram-bge.json", 1, 6001, "<mask>", "[CLS]", 6002},
		{"bytebpe/tokenizer.json", 1, bpeSize(t) - 1, "<mask>", "[SEP]", int(bpeSize(t))},
	} {
		tk := open(t, "testdata/"+c.file)
		if got := tk.PadID(); got != c.pad {
			t.Errorf("%s: PadID is %d, want %d", c.file, got, c.pad)
		}
		if got, ok := tk.Special(c.maskName); !ok || got != c.mask {
			t.Errorf("%s: %s is %d, %t, want %d", c.file, c.maskName, got, ok, c.mask)
		}
		if got, ok := tk.Special(c.absent); ok {
			t.Errorf("%s: %s is %d, want none", c.file, c.absent, got)
		}
		if got := tk.VocabSize(); got != c.size {
			t.Errorf("%s: VocabSize is %d, want %d", c.file, got, c.size)
		}
		if err := tk.CheckTable(c.size); err != nil {
			t.Errorf("%s: %v", c.file, err)
		}
		if err := tk.CheckTable(c.size - 1); err == nil {
			t.Errorf("%s: a table of %d rows passed", c.file, c.size-1)
		}
	}
}

func bpeSize(tb testing.TB) int32 {
	tb.Helper()
	var f struct {
		Model struct{ Vocab map[string]int32 }
	}
	data, err := os.ReadFile("testdata/bytebpe/tokenizer.json")
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return int32(len(f.Model.Vocab))
}
