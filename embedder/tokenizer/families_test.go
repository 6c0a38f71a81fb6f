package tokenizer_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A family is a tokenizer in the layout of a published one, with the vocabulary of one in testdata.
type family struct {
	name, from string
	edit       func(doc)
}

// families are the layouts of models that people deploy, and of parts that tokenizer.json may combine.
var families = []family{
	{"modernbert", "bytebpe", edits(
		setPart("normalizer", doc{"type": "NFC"}), addTokens(append(spaces,
			doc{"content": "|||IP_ADDRESS|||", "normalized": true}, doc{"content": "É", "normalized": true})...))},
	{"qwen3", "bytebpe", edits(setPart("normalizer", doc{"type": "NFC"}), setPart("pre_tokenizer", bytesBehind(qwen)),
		setPart("post_processor", suffixOnly))},
	{"llama3", "bytebpe", edits(setPart("pre_tokenizer", bytesBehind(llama)), set(true, "model", "ignore_merges"),
		setPart("post_processor", doc{"type": "Sequence", "processors": []any{doc{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}, prefixOnly}}))},
	{"gpt4o", "bytebpe", edits(setPart("pre_tokenizer", bytesBehind(gpt4o)))},
	{"cl100k", "bytebpe", edits(setPart("pre_tokenizer", bytesBehind(cl100k)), setPart("post_processor", nil))},
	{"deepseek", "bytebpe", edits(setPart("normalizer", doc{"type": "Sequence", "normalizers": []any{}}), setPart("pre_tokenizer", sequenceOf(
		split("[\r\n]", "Isolated"), split("\\s?\\p{L}+", "Isolated"), split("\\s?\\p{P}+", "Isolated"), split("\\s+$", "Isolated"),
		split("[一-龥ࠀ-一가-퟿]+", "Isolated"), doc{"type": "Digits", "individual_digits": true},
		doc{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})))},
	{"gemma", "charbpe", func(doc) {}},
	{"gemma-late", "charbpe", addTokens(doc{"content": "the", "normalized": true}, doc{"content": " x", "normalized": true}, doc{"content": "\n\n"})},
	{"llama2", "charbpe", edits(setPart("normalizer", doc{"type": "Sequence", "normalizers": []any{
		doc{"type": "Prepend", "prepend": "▁"}, replaceText(" ", "▁")}}), setPart("pre_tokenizer", nil))},
	{"llama2-first", "charbpe", edits(setPart("normalizer", nil), setPart("pre_tokenizer",
		doc{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}))},
	{"first-split", "charbpe", edits(setPart("normalizer", doc{"type": "Sequence", "normalizers": []any{
		doc{"type": "Strip", "strip_left": true, "strip_right": false}, doc{"type": "StripAccents"}}}), setPart("pre_tokenizer", sequenceOf(
		doc{"type": "Digits", "individual_digits": false}, doc{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"})))},
	{"never", "charbpe", edits(setPart("normalizer", nil), setPart("pre_tokenizer",
		doc{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true}))},
	{"no-fallback", "charbpe", edits(set(false, "model", "byte_fallback"), setPart("normalizer", doc{"type": "NFKD"}), setPart("pre_tokenizer",
		doc{"type": "Whitespace"}))},
	{"no-fuse", "charbpe", edits(set(false, "model", "byte_fallback"), set(false, "model", "fuse_unk"), setPart("normalizer", doc{"type": "NFD"}),
		setPart("pre_tokenizer", split("\\p{Lu}|\\d+|[^\\w\\s]", "MergedWithNext")))},
	{"no-unknown", "charbpe", edits(set(false, "model", "byte_fallback"), set(nil, "model", "unk_token"), set(true, "model", "ignore_merges"),
		setPart("normalizer", doc{"type": "NFKC"}), setPart("pre_tokenizer", doc{"type": "Punctuation", "behavior": "Contiguous"}))},
	{"some-bytes", "charbpe", func(d doc) {
		vocab := at(d, "model", "vocab").(doc)
		vocab["<0x100>"] = vocab["<0xEC>"]
		delete(vocab, "<0xEC>")
	}},
	{"clip", "charbpe", edits(set(false, "model", "byte_fallback"), set("</w>", "model", "end_of_word_suffix"), set([]any{}, "model", "merges"),
		func(d doc) {
			vocab := at(d, "model", "vocab").(doc)
			for _, token := range slices.Sorted(maps.Keys(vocab)) {
				if len(token) == 1 {
					vocab[token+"</w>"] = len(vocab)
				}
			}
		}, setPart("normalizer", doc{"type": "Sequence", "normalizers": []any{doc{"type": "NFC"}, doc{"type": "Replace",
			"pattern": doc{"Regex": "\\s+"}, "content": " "}, doc{"type": "Lowercase"}}}),
		setPart("pre_tokenizer", doc{"type": "Split", "pattern": doc{"Regex": "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
			"behavior": "Removed", "invert": true}))},
	{"albert", "unigram-e5", func(d doc) {
		d["normalizer"] = doc{"type": "Sequence", "normalizers": []any{replaceText("``", "\""), replaceText("''", "\""),
			doc{"type": "NFKD"}, doc{"type": "StripAccents"}, doc{"type": "Lowercase"}, d["normalizer"], replaceSpaces(" ")}}
	}},
	{"xlmr-converted", "unigram-bge", edits(strippedRight, func(d doc) {
		list := at(d, "normalizer", "normalizers").([]any)
		list[len(list)-1] = replaceSpaces("▁")
	})},
	{"xlmr-converted-late", "unigram-bge", edits(strippedRight, func(d doc) {
		list := at(d, "normalizer", "normalizers").([]any)
		list[len(list)-1] = replaceSpaces("▁")
	}, addTokens(doc{"content": "▁x", "normalized": true}, doc{"content": "the", "normalized": true, "lstrip": true}))},
	{"deberta-v2", "unigram-e5", edits(setPart("normalizer", doc{"type": "Sequence", "normalizers": []any{
		doc{"type": "Replace", "pattern": doc{"Regex": "\\s{2,}|[\\n\\r\\t]"}, "content": " "}, doc{"type": "NFC"},
		doc{"type": "Strip", "strip_left": false, "strip_right": true}}}),
		setPart("pre_tokenizer", sequenceOf(doc{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})))},
	{"spm-settings", "unigram-bge", func(d doc) { // as transformers 5 writes a SentencePiece model of no known class
		d["normalizer"] = doc{"type": "Sequence", "normalizers": []any{at(d, "normalizer", "normalizers", 0),
			doc{"type": "Replace", "pattern": doc{"Regex": "\\A +| +\\z"}, "content": ""}, replaceSpaces(" "), replaceText(" ", "▁"),
			doc{"type": "Replace", "pattern": doc{"Regex": "\\A▁"}, "content": "▁▁"}}}
		d["pre_tokenizer"] = doc{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false}
	}},
	{"nmt", "unigram-e5", edits(setPart("normalizer", doc{"type": "Nmt"}))},
	{"unigram-bytes", "unigram-bge", func(d doc) {
		m := d["model"].(doc)
		vocab := m["vocab"].([]any)
		for b := range 256 {
			vocab = append(vocab, []any{fmt.Sprintf("<0x%02X>", b), -20.0})
		}
		m["vocab"], m["byte_fallback"] = vocab, true
	}},
	{"wordpiece-parts", "wordpiece-uncased", edits(setPart("normalizer", doc{"type": "Sequence", "normalizers": []any{
		doc{"type": "NFD"}, doc{"type": "Lowercase"}, doc{"type": "StripAccents"}}}), setPart("pre_tokenizer", sequenceOf(
		doc{"type": "WhitespaceSplit"}, doc{"type": "Punctuation"}, doc{"type": "Digits", "individual_digits": true})))},
	{"wordpiece-nfc", "wordpiece-cased", func(d doc) {
		d["normalizer"] = doc{"type": "Sequence", "normalizers": []any{doc{"type": "NFC"}, d["normalizer"]}}
		d["pre_tokenizer"] = doc{"type": "CharDelimiterSplit", "delimiter": " "}
	}},
}

// TestFamilies checks the families against cases made by Hugging Face's code, single texts and pairs.
func TestFamilies(t *testing.T) {
	t.Parallel()
	if *dump != "" {
		dumpTexts(t)
	}
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			data := variant(t, f.from, f.edit)
			if *dump != "" {
				if err := os.WriteFile(filepath.Join(*dump, f.name+".json"), data, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			checkPairs(t, fromBytes(t, data), "testdata/families/cases-"+f.name+".jsonl.gz", 200)
		})
	}
}

// dumpTexts writes the texts that the families' cases are made of, for testdata/tools/oracle.py.
func dumpTexts(tb testing.TB) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(19, 11))
	texts := madeUp(rng, 120)
	public := readCases(tb, "testdata/public/cases-wordpiece-cased.jsonl.gz")
	for range 60 {
		if c := public[rng.IntN(len(public))]; c.B64 == nil && len(c.Text) < 400 {
			texts = append(texts, c.Text)
		}
	}
	var cases []pairCase
	for i, s := range texts {
		if len(s) > 2000 {
			s = string([]rune(s)[:500])
		}
		cases = append(cases, pairCase{Cat: "single", Src: "own", Text: s, Max: []int{0, 9, 64, 512}[rng.IntN(4)]})
		if other := texts[rng.IntN(len(texts))]; i%3 == 0 && len(other) < 2000 {
			cases = append(cases, pairCase{Cat: "pair", Src: "own", Text: s, Pair: &other, Max: []int{0, 8, 15, 16, 63, 64}[rng.IntN(6)]})
		}
	}
	data, err := json.Marshal(cases)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*dump, "texts.json"), data, 0o644); err != nil {
		tb.Fatal(err)
	}
}

// The regular expressions of published tokenizers.
const (
	qwen   = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
	llama  = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
	gpt4o  = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
	cl100k = "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s"
)

// spaces are the tokens of several spaces that ModernBERT has.
var spaces = []doc{{"content": "  ", "normalized": true}, {"content": "    ", "normalized": true}, {"content": "   ", "normalized": true}}

// Templates that put something on one side of a text only.
var (
	suffixOnly = doc{"type": "TemplateProcessing", "single": []any{textA, special("</s>", 0)}, "pair": []any{textA, textB, special("</s>", 1)},
		"special_tokens": doc{"</s>": doc{"id": "</s>", "ids": []any{2}, "tokens": []any{"</s>"}}}}
	prefixOnly = doc{"type": "TemplateProcessing", "single": []any{special("<s>", 0), textA}, "pair": []any{special("<s>", 0), textA, special("<s>", 1), textB},
		"special_tokens": doc{"<s>": doc{"id": "<s>", "ids": []any{0, 3}, "tokens": []any{"<s>", "<unk>"}}}}
	textA = doc{"Sequence": doc{"id": "A", "type_id": 0}}
	textB = doc{"Sequence": doc{"id": "B", "type_id": 1}}
)

func special(token string, typ int) doc { return doc{"SpecialToken": doc{"id": token, "type_id": typ}} }

func edits(list ...func(doc)) func(doc) {
	return func(d doc) {
		for _, edit := range list {
			edit(d)
		}
	}
}

func setPart(name string, part any) func(doc) { return func(d doc) { d[name] = part } }

func sequenceOf(parts ...any) doc { return doc{"type": "Sequence", "pretokenizers": parts} }

func split(regex, behavior string) doc {
	return doc{"type": "Split", "pattern": doc{"Regex": regex}, "behavior": behavior, "invert": false}
}

func bytesBehind(regex string) doc {
	return sequenceOf(split(regex, "Isolated"), doc{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

func replaceText(from, to string) doc {
	return doc{"type": "Replace", "pattern": doc{"String": from}, "content": to}
}

func replaceSpaces(to string) doc {
	return doc{"type": "Replace", "pattern": doc{"Regex": " {2,}"}, "content": to}
}

func strippedRight(d doc) {
	n := d["normalizer"].(doc)
	n["normalizers"] = slices.Insert(n["normalizers"].([]any), 1, any(doc{"type": "Strip", "strip_left": false, "strip_right": true}))
}
