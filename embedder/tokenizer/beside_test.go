package tokenizer_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
)

// besideJSON is a WordPiece tokenizer whose "a" and "b" have the ids 5 and 6.
const besideJSON = `{"added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,` +
	`"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":null,"model":{"type":"WordPiece",` +
	`"unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,` +
	`"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"[MASK]":4,"a":5,"b":6}}}`

func TestVocabTxtBesideIsAWitness(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, vocab string
		want        []string // in the error; none: it loads
	}{
		{"equal", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n", nil},
		{"Windows line ends", "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\na\r\nb\r\n", nil},
		{"a piece replaced", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nc\n", nil},
		{"two ids exchanged", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nb\na\n", []string{"tokenizer.json", `"b" has id 6`, "vocab.txt beside it says 5", "damaged"}},
		{"a line lost", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n", []string{`"a" has id 5`, "says 4"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := tokenizer.Open(folder(t, map[string]string{"tokenizer.json": besideJSON, "vocab.txt": tt.vocab}))
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("Open: %v", err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not name %q", err, part)
				}
			}
		})
	}
}

// TestOtherWitnesses exchanges two ids of a tokenizer.json of another kind, and expects the file that it was made
// from to tell; one of a larger vocabulary says nothing.
func TestOtherWitnesses(t *testing.T) {
	t.Parallel()
	exchange := func(d doc) {
		switch vocab := at(d, "model", "vocab").(type) {
		case doc:
			vocab["!"], vocab["?"] = vocab["?"], vocab["!"]
		case []any:
			vocab[1000], vocab[1001] = vocab[1001], vocab[1000]
		}
	}
	ids := map[string]any{}
	whole := string(variant(t, "bytebpe", func(d doc) { ids = at(d, "model", "vocab").(doc) }))
	asJSON := func(shift float64) string {
		moved := map[string]any{}
		for token, id := range ids {
			moved[token] = id.(float64) + shift
		}
		data, err := json.Marshal(moved)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, tt := range []struct {
		name, file, beside, tokenizer string
		want                          string // in the error; "": it loads
	}{
		{"BPE", "vocab.json", asJSON(0), whole, ""},
		{"BPE, exchanged", "vocab.json", asJSON(0), string(variant(t, "bytebpe", exchange)), "vocab.json beside it says"},
		{"BPE, of another vocabulary", "vocab.json", asJSON(7), whole, ""},
		{"BPE, broken", "vocab.json", "{", whole, ""},
		{"Unigram", "sentencepiece.bpe.model", spModel(t, 1), string(variant(t, "unigram-bge", func(doc) {})), ""},
		{"Unigram, exchanged", "sentencepiece.bpe.model", spModel(t, 1), string(variant(t, "unigram-bge", exchange)), "sentencepiece.bpe.model beside it says"},
		{"Unigram, broken", "sentencepiece.bpe.model", "x", string(variant(t, "unigram-bge", func(doc) {})), ""},
	} {
		_, err := tokenizer.Open(folder(t, map[string]string{"tokenizer.json": tt.tokenizer, tt.file: tt.beside}))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v, want %q", tt.name, err, tt.want)
		}
	}
}
