package tokenizer_test

import (
	"strings"
	"testing"
)

// BenchmarkEncode prints MB/s of text on the sentences among the public cases: KLUE-like (cased), uncased,
// and Unigram in both layouts.
func BenchmarkEncode(b *testing.B) {
	for _, name := range publicNames {
		b.Run(name, func(b *testing.B) {
			tk := open(b, "testdata/public/tokenizers/"+name+".json")
			texts, size := sentences(b)
			ids := make([]int32, 0, 1<<16)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				for _, s := range texts {
					ids, _ = tk.Encode(ids[:0], s, 512)
				}
			}
		})
	}
}

// BenchmarkFamilies is BenchmarkEncode for composed pipelines.
func BenchmarkFamilies(b *testing.B) {
	for name, tk := range everyKind(b) {
		b.Run(name, func(b *testing.B) {
			texts, size := sentences(b)
			ids := make([]int32, 0, 1<<16)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				for _, s := range texts {
					ids, _ = tk.Encode(ids[:0], s, 512)
				}
			}
		})
	}
}

// BenchmarkCut encodes 100 kB cut at 512 ids: it must not cost what all of the text would.
func BenchmarkCut(b *testing.B) {
	for _, name := range publicNames {
		b.Run(name, func(b *testing.B) {
			tk := open(b, "testdata/public/tokenizers/"+name+".json")
			texts, _ := sentences(b)
			long := strings.ToValidUTF8(strings.Join(texts, " ")[:100_000], "")
			ids := make([]int32, 0, 1<<16)
			b.ReportAllocs()
			for b.Loop() {
				ids, _ = tk.Encode(ids[:0], long, 512)
			}
		})
	}
}

// sentences are the everyday texts among the cases, in four languages, and their size in bytes.
func sentences(tb testing.TB) (texts []string, size int64) {
	tb.Helper()
	for _, c := range readCases(tb, "testdata/public/cases-wordpiece-cased.jsonl.gz") {
		switch c.Cat {
		case "ko", "ko_headline", "en", "zh", "ja", "mixed":
			texts = append(texts, c.Text)
			size += int64(len(c.Text))
		}
	}
	return texts, size
}
