package tokenizer_test

import (
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
		{"two ids exchanged", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nb\na\n", []string{"tokenizer.json", `"b" has id 6`, "says 5", "damaged"}},
		{"a line lost", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n", []string{`"a" has id 5`, "line 5", "says 4"}},
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
