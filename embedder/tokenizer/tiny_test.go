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

// TestTinyModels counts the tokens of each case of the small models in the folder "shared" beside the
// repository, cut at the model's limit, texts under prompts and pairs among them.
func TestTinyModels(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob(filepath.Join(shared(t, "data/models-tiny2"), "*", "reference.json"))
	if err != nil || len(dirs) < 30 {
		t.Fatalf("%d references, %v", len(dirs), err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			var ref struct {
				Most    int               `json:"max_tokens"`
				Prompts map[string]string `json:"prompts"`
				Cases   []struct {
					Text   string
					Prompt string `json:"prompt_name"`
					Pair   []string
					Tokens int
				}
			}
			data, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(data, &ref)
			}
			if err != nil || len(ref.Cases) == 0 {
				t.Fatal(err)
			}
			tk := open(t, dir)
			if err := tk.CheckPairs(); err != nil {
				t.Error(err)
			}
			for _, c := range ref.Cases {
				ids, _ := tk.Encode(nil, ref.Prompts[c.Prompt]+c.Text, ref.Most)
				if c.Pair != nil {
					ids, _, _ = tk.EncodePair(nil, nil, c.Pair[0], c.Pair[1], ref.Most)
				}
				if len(ids) != c.Tokens {
					t.Errorf("%q %q: %d tokens, want %d", c.Text, c.Pair, len(ids), c.Tokens)
				}
			}
		})
	}
}

// TestLowerCase expects sentence-transformers' do_lower_case to leave special tokens what they are.
func TestLowerCase(t *testing.T) {
	t.Parallel()
	for file, lower := range map[string]bool{"sentence_bert_config.json": true, "sentence_roberta_config.json": true, "other.json": false} {
		for name, tokens := range map[string]map[string]string{
			"vocab.txt":      {"vocab.txt": tinyVocab, "tokenizer_config.json": `{"do_lower_case":false}`},
			"tokenizer.json": {"tokenizer.json": strings.Replace(besideJSON, `"added_tokens":[]`, `"added_tokens":[{"id":4,"content":"[MASK]","normalized":false},{"id":1,"content":"[UNK]","normalized":false}]`, 1)},
		} {
			tokens[file] = `{"do_lower_case":true}`
			tk := open(t, folder(t, tokens))
			got, _ := tk.Encode(nil, "[MASK] A [UNK]", 0)
			want := []int32{4, 5, 1}
			if name == "vocab.txt" {
				if !lower {
					want[1] = 1
				}
				want = []int32{2, want[0], want[1], want[2], 3}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s: got %v, want %v", file, name, got, want)
			}
		}
	}
}

// TestMPNetVocabTxt has what transformers 5.24 makes of such a folder.
func TestMPNetVocabTxt(t *testing.T) {
	t.Parallel()
	tk := open(t, folder(t, map[string]string{"vocab.txt": "<s>\n<pad>\n</s>\n[UNK]\n<mask>\na\n##b\n", "config.json": `{"model_type":"mpnet"}`}))
	if ids, _ := tk.Encode(nil, "AB <mask> c", 0); !slices.Equal(ids, []int32{0, 5, 6, 4, 3, 2}) {
		t.Errorf("got %v", ids)
	}
	ids, types, _ := tk.EncodePair(nil, nil, "a", "ab", 0)
	if !slices.Equal(ids, []int32{0, 5, 2, 2, 5, 6, 2}) || slices.Max(types) != 0 {
		t.Errorf("pair: got %v, %v", ids, types)
	}
	if got := tk.PadID(); got != 1 {
		t.Errorf("PadID is %d, want 1", got)
	}
}

func TestPairsWithoutPlace(t *testing.T) {
	t.Parallel()
	for name, post := range map[string]any{
		"none": nil,
		"no second text": doc{"type": "TemplateProcessing", "single": []any{special("[CLS]", 0), textA}, "pair": []any{special("[CLS]", 0), textA},
			"special_tokens": doc{"[CLS]": doc{"id": "[CLS]", "ids": []any{0}, "tokens": []any{"[CLS]"}}}},
	} {
		tk := fromBytes(t, variant(t, "wordpiece-cased", setPart("post_processor", post)))
		if err := tk.CheckPairs(); err == nil || !strings.Contains(err.Error(), "no place for two texts") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// TestPairLimits checks what EncodePair promises for hard texts and small limits.
func TestPairLimits(t *testing.T) {
	t.Parallel()
	texts := append(slices.DeleteFunc(slices.Clone(hard), func(s string) bool { return len(s) > 4000 }), "a b c d e f g", "한국은행 금리 인상")
	for name, tk := range everyKind(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkPairLimits(t, tk, texts)
		})
	}
}

func checkPairLimits(t *testing.T, tk *tokenizer.Tokenizer, texts []string) {
	t.Helper()
	for i, first := range texts {
		second := texts[(i*7+3)%len(texts)]
		all, _, truncated := tk.EncodePair(nil, nil, first, second, 0)
		if truncated {
			t.Errorf("%.20q: truncated without a limit", first)
		}
		for _, max := range []int{1, 2, 3, 4, 5, 8, 13, 64, len(all), len(all) + 1} {
			ids, types, truncated := tk.EncodePair([]int32{-7}, []int32{-8}, first, second, max)
			if ids[0] != -7 || types[0] != -8 || len(ids) != len(types) {
				t.Fatalf("%.20q with %d: %v, %v", first, max, ids, types)
			}
			if want := min(len(all), max); len(ids)-1 != want || truncated != (len(all) > max) {
				t.Errorf("%.20q and %.20q with %d: %d ids, truncated %t; without a limit %d", first, second, max, len(ids)-1, truncated, len(all))
			}
		}
	}
}
