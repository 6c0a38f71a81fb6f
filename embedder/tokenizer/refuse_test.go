package tokenizer_test

import (
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
)

// at returns what lies under keys in nested objects and arrays.
func at(v any, keys ...any) any {
	for _, k := range keys {
		switch k := k.(type) {
		case string:
			v = v.(doc)[k]
		case int:
			v = v.([]any)[k]
		}
	}
	return v
}

// set returns an edit that puts value under the last key of the object that the keys before lead to.
func set(value any, keys ...any) func(doc) {
	last := keys[len(keys)-1].(string)
	return func(d doc) { at(d, keys[:len(keys)-1]...).(doc)[last] = value }
}

// TestNewRefuses changes one thing in a good file and expects an error of one line that names it. What is
// not understood must not load: a tokenizer that is nearly right only makes vectors a little worse.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	const cased, bge, e5, bpe = "wordpiece-cased", "unigram-bge", "unigram-e5", "bytebpe"
	for _, c := range []struct {
		name, from string
		edit       func(doc)
		want       string
	}{
		{"version", cased, set("2.0", "version"), `"version" of "2.0" is not supported`},
		{"unknown section", cased, set(doc{"a": 1}, "post_tokenizer"), `field "post_tokenizer" ({"a":1}) is not known`},
		{"no model", cased, set(nil, "model"), `field "model" is missing`},
		{"model type", cased, set("WordLevel", "model", "type"), `model type "WordLevel" is not supported`},
		{"no type, nothing like one", cased, func(d doc) { d["model"] = doc{"vocab": doc{"a": 1}} }, `field "type" is missing`},
		{"unknown model field", cased, set(7, "model", "fuse_unk"), `model: field "fuse_unk" (7) is not known`},
		{"vocabulary missing", cased, set(nil, "model", "vocab"), `model: field "vocab" is missing`},
		{"vocabulary of the other kind", cased, set([]any{}, "model", "vocab"), `model: field "vocab" is [], not an object`},
		{"id is text", cased, set("1", "model", "vocab", "new"), `model: token "new": "1" is not an id`},
		{"id is negative", cased, set(-1, "model", "vocab", "new"), `model: token "new": -1 is not an id`},
		{"id is huge", cased, set(1<<40, "model", "vocab", "new"), `is not an id (0 to 2147483646)`},
		{"id twice", cased, set(0, "model", "vocab", "new"), `both have id 0`},
		{"unknown token missing", cased, set("<unk>", "model", "unk_token"), `the unknown token "<unk>" is not in the vocabulary`},
		{"normalizer", cased, set("NFKX", "normalizer", "type"), `normalizer "NFKX" is not supported`},
		{"normalizer field", cased, set(true, "normalizer", "nfkc"), `normalizer "BertNormalizer": field "nfkc" (true) is not known`},
		{"normalizer value", cased, set("yes", "normalizer", "lowercase"), `normalizer "BertNormalizer": field "lowercase"`},
		{"pre-tokenizer", cased, set("UnicodeScripts", "pre_tokenizer", "type"), `pre_tokenizer "UnicodeScripts" is not supported`},
		{"second pre-tokenizer", cased, set(doc{"type": "Sequence", "pretokenizers": []any{doc{"type": "BertPreTokenizer"}, doc{"type": "FixedLength"}}}, "pre_tokenizer"), `pre_tokenizer "FixedLength" is not supported`},
		{"post-processor", cased, set("Other", "post_processor", "type"), `post_processor "Other" is not supported`},
		{"template id", cased, set([]any{5}, "post_processor", "special_tokens", "[CLS]", "ids"), `post_processor gives token "[CLS]" id 5, but the vocabulary gives it 0`},
		{"template token", cased, set([]any{"[BOS]"}, "post_processor", "special_tokens", "[CLS]", "tokens"), `post_processor adds token "[BOS]" with id 0, but no such token exists`},
		{"template token without ids", cased, set(doc{}, "post_processor", "special_tokens"), `special token "[CLS]" has no ids`},
		{"template type", cased, set(1, "post_processor", "single", 0, "SpecialToken", "type_id"), `only one text, A, and special tokens of type 0`},
		{"template without text", cased, set([]any{}, "post_processor", "single"), `"single" has no place for the text`},
		{"special tokens twice", cased, func(d doc) {
			d["post_processor"] = doc{"type": "Sequence", "processors": []any{d["post_processor"], d["post_processor"]}}
		}, `special tokens are added twice`},
		{"added token's id", cased, set(9, "added_tokens", 2, "id"), `added token "[SEP]" has id 9, but the vocabulary gives it 2`},
		{"added token behind the vocabulary", cased, set("[NEW]", "added_tokens", 4, "content"), `added token "[NEW]" has id 4, but the next one behind the vocabulary is 6000`},
		{"added token twice", cased, func(d doc) {
			addTokens(doc{"content": "[NEW]"}, doc{"content": "[NEW]"})(d)
		}, `added token "[NEW]" has two ids, 6000 and 6001`},
		{"added token field", cased, set(true, "added_tokens", 0, "fuzzy"), `added_tokens[0]: field "fuzzy" (true) is not known`},
		{"added token without id", cased, set(nil, "added_tokens", 0, "id"), `added_tokens[0]: field "id" is missing`},
		{"added tokens alike once normalised", "wordpiece-uncased", addTokens(doc{"content": "Ab", "normalized": true}, doc{"content": "AB", "normalized": true}), `are both "ab" once normalised`},
		{"added token of nothing but accents", "wordpiece-uncased", addTokens(doc{"content": "\u0301", "normalized": true}), `is empty once normalised`},
		{"padding id", cased, set(7, "padding", "pad_id"), `padding gives token "[PAD]" id 7, but the vocabulary gives it 1`},
		{"byte fallback with one byte", bge, edits(set(true, "model", "byte_fallback"), func(d doc) { at(d, "model", "vocab", 9).([]any)[0] = "<0x41>" }),
			`"byte_fallback" is not supported without the piece "<0x00>"`},
		{"unknown id", bge, set(6002, "model", "unk_id"), `unk_id 6002 is not an id of the vocabulary (0 to 6001)`},
		{"no unknown id", bge, set(nil, "model", "unk_id"), `model: field "unk_id" is missing`},
		{"token twice", bge, func(d doc) { at(d, "model", "vocab", 9).([]any)[0] = "<s>" }, `model: token "<s>" has two ids, 0 and 9`},
		{"score is text", bge, func(d doc) { at(d, "model", "vocab", 9).([]any)[1] = "x" }, `"x" is not a score`},
		{"entry of three", bge, func(d doc) { v := at(d, "model", "vocab").([]any); v[9] = append(v[9].([]any), 1) }, `vocabulary entry 9 is not a pair`},
		{"charsmap", bge, set("AAAA", "normalizer", "normalizers", 0, "precompiled_charsmap"), `normalizer "Precompiled": precompiled_charsmap is cut off`},
		{"charsmap size", bge, set("/////w==", "normalizer", "normalizers", 0, "precompiled_charsmap"), `precompiled_charsmap says its trie has 4294967295 bytes, of 0 that follow`},
		{"charsmap code", bge, set("!", "normalizer", "normalizers", 0, "precompiled_charsmap"), `decoding precompiled_charsmap`},
		{"replace pattern", bge, set(doc{"Regex": "(a)\\1"}, "normalizer", "normalizers", 1, "pattern"), `normalizer "Replace": regular expression "(a)\\1": \1 is not supported`},
		{"replace nothing", bge, set(doc{"String": ""}, "normalizer", "normalizers", 1, "pattern"), `normalizer "Replace": an empty pattern is not supported`},
		{"replace two patterns", bge, set(doc{"String": "a", "Regex": "a"}, "normalizer", "normalizers", 1, "pattern"), `"pattern" of {"Regex":"a","String":"a"} is not supported`},
		{"replace content", bge, set(nil, "normalizer", "normalizers", 1, "content"), `normalizer "Replace": field "content" is missing`},
		{"third normalizer", bge, func(d doc) {
			n := at(d, "normalizer").(doc)
			n["normalizers"] = append(n["normalizers"].([]any), doc{"type": "ByteLevel"})
		}, `normalizer "ByteLevel" is not supported`},
		{"prepend scheme", bge, set("last", "pre_tokenizer", "prepend_scheme"), `pre_tokenizer "Metaspace": "prepend_scheme" of "last" is not supported`},
		{"two characters as mark", bge, set("__", "pre_tokenizer", "replacement"), `"replacement" of "__" is not one character`},
		{"two that put something before words", bge, func(d doc) { d["pre_tokenizer"] = sequenceOf(d["pre_tokenizer"], d["pre_tokenizer"]) }, `only one component that puts something before words is supported`},
		{"ByteLevel with Unigram", bge, set(doc{"type": "ByteLevel"}, "pre_tokenizer"), `"Unigram" is not supported with pre_tokenizer "ByteLevel"`},
		{"prefix space", e5, set(false, "pre_tokenizer", "pretokenizers", 1, "add_prefix_space"), `"add_prefix_space" of false contradicts "prepend_scheme"`},
		{"dropout", bpe, set(0.1, "model", "dropout"), `dropout of 0.1 makes ids random`},
		{"word suffix", bpe, set("_w", "model", "end_of_word_suffix"), `"end_of_word_suffix" are not supported with pre_tokenizer "ByteLevel"`},
		{"behind bytes", bpe, func(d doc) { d["pre_tokenizer"] = sequenceOf(d["pre_tokenizer"], doc{"type": "Digits"}) }, `pre_tokenizer "Digits" behind "ByteLevel" is not supported`},
		{"behavior", bpe, set(split("a", "Kept"), "pre_tokenizer"), `"behavior" of "Kept" is not supported`},
		{"unknown token of a BPE", "charbpe", set("<none>", "model", "unk_token"), `the unknown token "<none>" is not in the vocabulary`},
		{"byte missing", bpe, func(d doc) {
			v := at(d, "model", "vocab").(doc)
			v["other"] = v["Ġ"]
			delete(v, "Ġ")
		}, `no piece "Ġ" for byte 0x20`},
		{"merge of unknown", bpe, func(d doc) { at(d, "model", "merges").([]any)[0] = "Ġ 한" }, `merge 0, "Ġ" and "한", has a token that is not in the vocabulary`},
		{"merge of three", bpe, func(d doc) { at(d, "model", "merges").([]any)[3] = "a b c" }, `merge 3 has 3 parts, want 2`},
		{"merges missing", bpe, set(nil, "model", "merges"), `model: field "merges" is missing`},
		{"cls is no pair", bpe, set([]any{"<s>"}, "post_processor", "cls"), `field "cls" is not a token with its id`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := tokenizer.New(variant(t, c.from, c.edit))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want one with %s", err, c.want)
			}
			if !strings.HasPrefix(err.Error(), "tokenizer.json: ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is not one line that names the file: %v", err)
			}
		})
	}
}

func TestNewRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ data, want string }{
		{"", "the file is not valid JSON (at byte 0 of 0)"},
		{"{", "the file is not valid JSON (at byte 1 of 1)"},
		{"[]", "the file is not an object"},
		{"\xff\xfe{\x00", "the file is not UTF-8"},
		{"{}", `field "model" is missing`},
	} {
		if _, err := tokenizer.New([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%q): error is %v, want one with %q", c.data, err, c.want)
		}
	}
}

// TestNewAccepts are changes that make no difference to ids and must not be refused.
func TestNewAccepts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, from string
		edit       func(doc)
	}{
		{"unused field of a newer writer", "unigram-bge", set(nil, "model", "future")},
		{"sequence of one", "wordpiece-cased", func(d doc) {
			d["normalizer"] = doc{"type": "Sequence", "normalizers": []any{d["normalizer"]}}
		}},
		{"model without type", "wordpiece-cased", func(d doc) { delete(d["model"].(doc), "type") }},
		{"Unigram without type", "unigram-e5", func(d doc) { delete(d["model"].(doc), "type") }},
		{"truncation and padding", "unigram-e5", func(d doc) {
			d["truncation"] = doc{"max_length": 4, "strategy": "LongestFirst", "stride": 0}
			d["padding"] = doc{"strategy": doc{"Fixed": 64}, "pad_id": 1, "pad_token": "<pad>"}
		}},
		{"processor by name", "wordpiece-cased", set(doc{"type": "BertProcessing", "cls": []any{"[CLS]", 0}, "sep": []any{"[SEP]", 2}}, "post_processor")},
		{"sequence of processors", "wordpiece-cased", func(d doc) {
			d["post_processor"] = doc{"type": "Sequence", "processors": []any{doc{"type": "ByteLevel", "trim_offsets": true}, d["post_processor"]}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			checkCases(t, fromBytes(t, variant(t, c.from, c.edit)), "testdata/public/cases-"+c.from+".jsonl.gz", 4736)
		})
	}
}
