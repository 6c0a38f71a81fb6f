package tokenizer_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// dump is where TestVariants writes its tokenizers instead of testing them, so that testdata/tools/oracle.js
// can make their cases.
var dump = flag.String("dump", "", "a `folder` to write the variants' tokenizer.json files to")

// doc is a decoded tokenizer.json.
type doc = map[string]any

// variants are tokenizers that differ from a public one in what published files may have different.
var variants = []struct {
	name, from string
	edit       func(doc)
}{
	{"strip-only", "wordpiece-uncased", setNormalizer("strip_accents", true, "lowercase", false)},
	{"lower-only", "wordpiece-uncased", setNormalizer("strip_accents", false, "lowercase", true)},
	{"not-clean", "wordpiece-uncased", setNormalizer("clean_text", false)},
	{"no-chinese", "wordpiece-uncased", setNormalizer("handle_chinese_chars", false, "strip_accents", true)},
	{"bert-added", "wordpiece-uncased", addTokens(
		doc{"content": "Samsung", "normalized": true}, doc{"content": "É", "normalized": true, "single_word": true},
		doc{"content": "삼성전자", "normalized": true, "rstrip": true}, doc{"content": "<x>", "rstrip": true, "lstrip": true},
		doc{"content": "in", "single_word": true}, doc{"content": "ing", "normalized": true},
		doc{"content": "【"}, doc{"content": "금리", "single_word": true})},
	{"bge-strip", "unigram-bge", strippedRight},
	{"bge-added", "unigram-bge", addTokens(
		doc{"content": "삼성전자", "normalized": true}, doc{"content": "the", "normalized": true, "single_word": true},
		doc{"content": "  b", "normalized": true}, doc{"content": "<y>", "rstrip": true})},
	{"bge-no-normalizer", "unigram-bge", func(d doc) { d["normalizer"] = nil }},
	{"e5-added", "unigram-e5", addTokens(
		doc{"content": "㈜", "normalized": true}, doc{"content": "은", "normalized": true, "single_word": true},
		doc{"content": "  ", "lstrip": true})},
	{"bpe", "bytebpe", func(doc) {}},
	{"bpe-prefix-space", "bytebpe", func(d doc) {
		d["pre_tokenizer"].(doc)["add_prefix_space"] = true
		for _, a := range d["added_tokens"].([]any) {
			a.(doc)["normalized"] = false
		}
		delete(d["model"].(doc), "type")
	}},
}

// setNormalizer sets fields of the normaliser, given as names and values.
func setNormalizer(fields ...any) func(doc) {
	return func(d doc) {
		for i := 0; i < len(fields); i += 2 {
			d["normalizer"].(doc)[fields[i].(string)] = fields[i+1]
		}
	}
}

// addTokens adds tokens with the ids that Hugging Face gives them.
func addTokens(tokens ...doc) func(doc) {
	return func(d doc) {
		ids := map[string]int{}
		switch vocab := d["model"].(doc)["vocab"].(type) {
		case doc:
			for token, id := range vocab {
				ids[token] = int(id.(float64))
			}
		case []any:
			for id, pair := range vocab {
				ids[pair.([]any)[0].(string)] = id
			}
		}
		next := len(ids)
		for _, t := range tokens {
			full := doc{"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false}
			maps.Copy(full, t)
			id, known := ids[t["content"].(string)]
			if !known {
				id = next
				next++
			}
			full["id"] = id
			d["added_tokens"] = append(d["added_tokens"].([]any), full)
		}
	}
}

// TestVariants checks the variants against cases made by Hugging Face's code.
func TestVariants(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			data := variant(t, v.from, v.edit)
			if *dump != "" {
				if err := os.WriteFile(filepath.Join(*dump, v.name+".json"), data, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			checkCases(t, fromBytes(t, data), "testdata/variants/cases-"+v.name+".jsonl.gz", 1000)
		})
	}
}

// variant returns an edited copy of a tokenizer in testdata.
func variant(tb testing.TB, from string, edit func(doc)) []byte {
	tb.Helper()
	path := "testdata/public/tokenizers/" + from + ".json"
	if from == "bytebpe" || from == "charbpe" {
		path = "testdata/" + from + "/tokenizer.json"
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var d doc
	if err := json.Unmarshal(data, &d); err != nil {
		tb.Fatal(err)
	}
	edit(d)
	out, err := json.Marshal(d)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
