package tokenizer_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
)

// everyKind opens one tokenizer of each kind and layout.
func everyKind(tb testing.TB) map[string]*tokenizer.Tokenizer {
	tb.Helper()
	m := map[string]*tokenizer.Tokenizer{}
	for _, name := range publicNames {
		m[name] = open(tb, "testdata/public/tokenizers/"+name+".json")
	}
	for _, v := range variants {
		switch v.name {
		case "bert-added", "bge-added", "bge-strip", "bpe", "bpe-prefix-space":
			m[v.name] = fromBytes(tb, variant(tb, v.from, v.edit))
		}
	}
	for _, f := range families {
		switch f.name {
		case "modernbert", "gpt4o", "gemma", "albert", "spm-settings", "wordpiece-parts":
			m[f.name] = fromBytes(tb, variant(tb, f.from, f.edit))
		}
	}
	return m
}

// hard are texts at the borders of what a tokenizer expects.
var hard = []string{
	"", " ", "\x00", "\n\n", "\xff", "\xed\xa0\x80", "가\xff나", "\u0301", "▁", "\u200b",
	"e\u0301\u0301\u0301", "\u1100\u1161\u11a8", "\r\n", "[CLS][SEP]", "<mask> <s>", "👨‍👩‍👧‍👦🇰🇷🇰🇷🇰",
	"삼성전자 Samsung ＳＡＭＳＵＮＧ", "naïve ﬁnance ≠ ½", strings.Repeat("a", 101), strings.Repeat("한", 5000),
	strings.Repeat(" ", 10_000), strings.Repeat("\u0301", 5000), strings.Repeat("株式会社", 3000),
	strings.Repeat("ab ", 3000), strings.Repeat("x", 100_000), strings.Repeat("\u200d", 5000) + "a",
}

// TestLimits checks, for hard texts and every small limit, what Encode and Count promise.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, tk := range everyKind(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, text := range hard {
				all, truncated := tk.Encode(nil, text, 0)
				if truncated {
					t.Errorf("%.20q: truncated without a limit", text)
				}
				for _, max := range []int{1, 2, 3, 4, 7, 64, 511, len(all) - 1, len(all), len(all) + 1} {
					if max > 0 {
						checkLimit(t, tk.Encode, tk.Count, text, all, max)
					}
				}
			}
		})
	}
}

// checkLimit compares the encoding of text with a limit to all of its ids.
func checkLimit(tb testing.TB, encode func([]int32, string, int) ([]int32, bool), count func(string, int) int, text string, all []int32, max int) {
	tb.Helper()
	ids, truncated := encode([]int32{-7}, text, max)
	if len(ids) == 0 || ids[0] != -7 {
		tb.Fatalf("%.20q: what was in dst is gone", text)
	}
	ids = ids[1:]
	if want := len(all) > max; truncated != want || len(ids) != min(len(all), max) {
		tb.Errorf("%.20q with %d: %d ids, truncated %t; it has %d in all", text, max, len(ids), truncated, len(all))
	}
	// One special token stands before a text and one behind in every tokenizer here.
	body := len(ids) - 1
	if !slices.Equal(ids[:body], all[:body]) || body > 0 && ids[body] != all[len(all)-1] {
		tb.Errorf("%.20q with %d: %v is not the start of %v, closed by the special token", text, max, ids, all)
	}
	if got, want := count(text, max), min(len(all), max+1); got != want && max >= 2 {
		tb.Errorf("%.20q: Count with %d is %d, want %d", text, max, got, want)
	}
}

// TestFit checks that windows cut by Fit fit, make progress, lie on character borders, and lose nothing.
func TestFit(t *testing.T) {
	t.Parallel()
	texts, _ := sentences(t)
	long := append(slices.Clone(hard), strings.Join(texts[:200], " "), strings.Join(texts[:300], ""), strings.Repeat("\x80", 900))
	for name, tk := range everyKind(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, text := range long {
				for _, max := range []int{3, 16, 512} {
					rest := text
					for windows := 0; rest != "" && windows < 25; windows++ {
						n := tk.Fit(rest, max)
						if n == 0 && max > 16 {
							t.Fatalf("%.20q with %d: no progress", rest, max)
						}
						if n == 0 {
							break // one character may have more pieces than a tiny limit
						}
						if _, truncated := tk.Encode(nil, rest[:n], max); truncated {
							t.Fatalf("%.20q with %d: the first %d bytes don't fit", rest, max, n)
						}
						if utf8.ValidString(rest) && !utf8.ValidString(rest[:n]) {
							t.Fatalf("%.20q with %d: %d is inside a character", rest, max, n)
						}
						rest = rest[n:]
					}
				}
			}
		})
	}
}

// TestFitPrefersSpaces checks where the cut lies when there is a choice.
func TestFitPrefersSpaces(t *testing.T) {
	t.Parallel()
	for name, tk := range everyKind(t) {
		text := strings.Repeat("금리 인상 Samsung ", 100)
		n := tk.Fit(text, 64)
		if n == 0 || n == len(text) || text[n-1] != ' ' {
			t.Errorf("%s: cut at %d, not behind a space", name, n)
		}
		if more := tk.Count(text[:n]+strings.Fields(text[n:])[0], 0); more <= 64 {
			t.Errorf("%s: another word would have fitted: %d ids with it", name, more)
		}
		if got := tk.Fit(text, 0); got != len(text) {
			t.Errorf("%s: Fit without a limit is %d, want %d", name, got, len(text))
		}
	}
}

// TestNoAllocations holds Encode and Count to their promise.
func TestNoAllocations(t *testing.T) {
	if testing.CoverMode() != "" || raceEnabled {
		t.Skip("skipped: instrumented code allocates")
	}
	texts, _ := sentences(t)
	long := strings.Join(texts[:100], " ")
	for name, tk := range everyKind(t) {
		ids := make([]int32, 0, 512)
		encode := func() {
			for _, s := range texts[:50] {
				ids, _ = tk.Encode(ids[:0], s, 512)
			}
			ids, _ = tk.Encode(ids[:0], long, 512)
			tk.Count(long, 512)
		}
		encode() // fills the pool
		if got := testing.AllocsPerRun(20, encode); got >= 1 {
			t.Errorf("%s: %g allocations, want none", name, got)
		}
	}
}

// TestConcurrent encodes with one tokenizer from many goroutines and expects what one alone gets.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	texts, _ := sentences(t)
	texts = append(slices.DeleteFunc(slices.Clone(hard), func(s string) bool { return len(s) > 20_000 }), texts[:100]...)
	for name, tk := range everyKind(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := make([][]int32, len(texts))
			for i, s := range texts {
				want[i], _ = tk.Encode(nil, s, 512)
			}
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					var ids []int32
					for k := range texts {
						i := (k + 13*g) % len(texts) // each goroutine in another order
						if ids, _ = tk.Encode(ids[:0], texts[i], 512); !slices.Equal(ids, want[i]) {
							t.Errorf("goroutine %d, %.20q: got %v, want %v", g, texts[i], ids, want[i])
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestCutIsCheap checks that a long text cut at 512 ids isn't read to its end, also where it has no spaces.
// The best of some runs is compared with the best of encoding all of it, which takes about thirty times as
// long; a third is asked for, so a busy machine doesn't matter.
func TestCutIsCheap(t *testing.T) {
	texts, _ := sentences(t)
	for name, tk := range everyKind(t) {
		if strings.HasSuffix(name, "-added") || name == "spm-settings" {
			continue // tokens sought in the normalised text, and anchors, need all of it normalised
		}
		for _, text := range []string{
			strings.Repeat(strings.Join(texts, " "), 3),
			strings.Repeat("株式会社は四半期決算を発表した。", 9000),
		} {
			ids := make([]int32, 0, len(text))
			best := func(max int) time.Duration {
				least := time.Hour
				for range 5 {
					start := time.Now()
					tk.Encode(ids, text, max)
					least = min(least, time.Since(start))
				}
				return least
			}
			if cut, all := best(512), best(0); 3*cut > all {
				t.Errorf("%s: 512 ids of %d bytes take %v, all of them %v", name, len(text), cut, all)
			}
		}
	}
}

// FuzzEncode looks for texts that break a promise in any tokenizer.
func FuzzEncode(f *testing.F) {
	for i, s := range hard {
		f.Add(s, i%9+1)
	}
	kinds := everyKind(f)
	f.Fuzz(func(t *testing.T, text string, max int) {
		max = 1 + int(uint(max)%600)
		for name, tk := range kinds {
			all, _ := tk.Encode(nil, text, 0)
			for _, id := range all {
				if id < 0 || int(id) >= tk.VocabSize() {
					t.Fatalf("%s: id %d, there are %d", name, id, tk.VocabSize())
				}
			}
			checkLimit(t, tk.Encode, tk.Count, text, all, max)
			if clean := strings.ToValidUTF8(text, "\uFFFD"); clean != text {
				if same, _ := tk.Encode(nil, clean, 0); !slices.Equal(same, all) {
					t.Fatalf("%s: %q is not read as %q", name, text, clean)
				}
			}
			if n := tk.Fit(text, max); n < 0 || n > len(text) || n > 0 && tk.Count(text[:n], max) > max {
				t.Fatalf("%s: Fit(%q, %d) is %d", name, text, max, n)
			}
		}
	})
}

// FuzzNew looks for files that make loading panic, or that load and make encoding panic.
func FuzzNew(f *testing.F) {
	const added = `"added_tokens":[{"id":0,"content":"<u>","normalized":true}],`
	f.Add([]byte(`{` + added + `"normalizer":{"type":"BertNormalizer"},"pre_tokenizer":{"type":"BertPreTokenizer"},
		"model":{"type":"WordPiece","unk_token":"<u>","vocab":{"<u>":0,"a":1,"##\u00e9":2}}}`))
	f.Add([]byte(`{` + added + `"pre_tokenizer":{"type":"Metaspace","replacement":"▁"},"post_processor":null,
		"model":{"type":"Unigram","unk_id":0,"vocab":[["<u>",0],["▁",-1.5],["a",-2e0]]}}`))
	f.Add([]byte(`{"normalizer":{"type":"Precompiled","precompiled_charsmap":"CAAAAAAAAAAAAAAAYQA="},
		"pre_tokenizer":{"type":"Metaspace","replacement":"▁"},"model":{"unk_id":0,"vocab":[["<u>",0]]}}`))
	f.Add(variant(f, "bytebpe", func(d doc) { set([]any{}, "model", "merges")(d) }))
	f.Add([]byte(`{"added_tokens":[{"id":0,"content":"a","normalized":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},
		{"type":"Replace","pattern":{"Regex":"\\s{2,}|(?i:x+?y)$"},"content":"_"},{"type":"Prepend","prepend":"_"},{"type":"StripAccents"}]},
		"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"[^\\p{L}]?\\p{L}+|\\s+(?!\\S)"},"behavior":"MergedWithNext","invert":false},
		{"type":"Metaspace","replacement":"_","prepend_scheme":"first"},{"type":"Digits","individual_digits":true}]},
		"model":{"type":"BPE","unk_token":"a","fuse_unk":true,"byte_fallback":true,"vocab":{"a":0,"b":1,"ab":2,"<0x20>":3,"_":4},"merges":[["a","b"]]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tk, err := tokenizer.New(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		for _, s := range hard[:20] {
			if ids, _ := tk.Encode(nil, s, 16); len(ids) > 16 {
				t.Errorf("%d ids for %q", len(ids), s)
			}
		}
	})
}
