package tokenizer_test

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
)

// field appends a field of Protocol Buffers that is text.
func field(b []byte, number int, text string) []byte {
	b = binary.AppendUvarint(b, uint64(number)<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// spModel writes the pieces of a public Unigram tokenizer as the sentencepiece.bpe.model that its like come from.
func spModel(tb testing.TB, kind byte, extra ...string) string {
	tb.Helper()
	var b []byte
	add := func(text string, score float64, kind byte) {
		p := field(nil, 1, text)
		p = binary.LittleEndian.AppendUint32(append(p, 2<<3|5), math.Float32bits(float32(score)))
		b = field(b, 1, string(append(p, 3<<3, kind)))
	}
	add("<unk>", 0, 2)
	add("<s>", 0, 3)
	add("</s>", 0, 3)
	variant(tb, "unigram-bge", func(d doc) {
		vocab := at(d, "model", "vocab").([]any)
		for _, entry := range vocab[4 : len(vocab)-1] {
			add(entry.([]any)[0].(string), entry.([]any)[1].(float64), 1)
		}
		for _, token := range extra {
			add(token, 0, 4)
		}
		table, err := base64.StdEncoding.DecodeString(at(d, "normalizer", "normalizers", 0, "precompiled_charsmap").(string))
		if err != nil {
			tb.Fatal(err)
		}
		b = field(b, 2, string([]byte{3 << 3, kind, 4 << 3, 0x80, 0x3e}))
		b = field(b, 3, string(field(field(nil, 1, "nmt_nfkc"), 2, string(table))))
	})
	return string(b)
}

// TestSentencePiece expects of sentencepiece.bpe.model what transformers' converter makes of it.
func TestSentencePiece(t *testing.T) {
	t.Parallel()
	for _, config := range []string{
		`{"tokenizer_class":"XLMRobertaTokenizer","mask_token":{"content":"<mask>","lstrip":true},"cls_token":"<s>"}`,
		`{"tokenizer_class":"XLMRobertaTokenizerFast"}`, `{}`,
	} {
		tk := open(t, folder(t, map[string]string{"sentencepiece.bpe.model": spModel(t, 1), "tokenizer_config.json": config,
			"config.json": `{"model_type":"xlm-roberta","vocab_size":6002}`}))
		checkPairs(t, tk, "testdata/families/cases-xlmr-converted.jsonl.gz", 200)
		if got, want := tk.PadID(), int32(1); got != want {
			t.Errorf("PadID is %d, want %d", got, want)
		}
		if w := tk.Warnings(); len(w) > 0 {
			t.Errorf("warnings: %q", w)
		}
	}
}

// TestSentencePieceCase compares a model and the file that the converter made of it.
func TestSentencePieceCase(t *testing.T) {
	t.Parallel()
	dir := shared(t, "cases/models/xlmr-converted")
	want := open(t, dir)
	files := map[string]string{}
	for _, name := range []string{"sentencepiece.bpe.model", "tokenizer_config.json", "special_tokens_map.json", "config.json"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(data)
	}
	got := open(t, folder(t, files))
	for _, s := range append(madeUp(rand.New(rand.NewPCG(3, 3)), 2000), hard...) {
		a, _ := got.Encode(nil, s, 0)
		b, _ := want.Encode(nil, s, 0)
		if !slices.Equal(a, b) {
			t.Fatalf("%q: got %v, want %v", s, a, b)
		}
	}
}

func TestSentencePieceRefuses(t *testing.T) {
	t.Parallel()
	whole := spModel(t, 1)
	for _, c := range []struct{ name, model, want string }{
		{"BPE", spModel(t, 2), "its model_type is 2, only 1, Unigram, is supported; get tokenizer.json"},
		{"user-defined piece", spModel(t, 1, "<sep>"), `its piece "<sep>" is user-defined, which is not supported`},
		{"cut off", whole[:len(whole)/2], "it is cut off, or not a SentencePiece model"},
		{"group", "\x0b", "it is cut off, or not a SentencePiece model"},
		{"other pieces", string(field(nil, 1, string(field(nil, 1, "<pad>")))), `its piece 0 is not "<unk>"`},
	} {
		_, err := tokenizer.Open(folder(t, map[string]string{"sentencepiece.bpe.model": c.model}))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "sentencepiece.bpe.model: ") {
			t.Errorf("%s: error is %v, want one with %q", c.name, err, c.want)
		}
	}
}
