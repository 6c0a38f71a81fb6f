package tasks_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/samples"
	"github.com/embedfleet/embedfleet/tasks"
)

// sentences have the count of XLM-RoBERTa's vocabulary of 250,002 pieces, its two special tokens included.
// TestEstimateOfAMultilingualModel counts again where the vocabulary is.
var sentences = []struct {
	text string
	want int
}{
	{"삼성전자는 3분기 영업이익이 9조 1천억 원을 기록했다고 7일 공시했다.", 25},
	{"한국은행이 기준금리를 두 달 만에 다시 동결했다.", 16},
	{"오늘 아침 서울에는 짙은 안개가 끼어 출근길 교통이 혼잡했다.", 26},
	{"이 회사는 내년 상반기까지 공장을 새로 짓고 직원 200명을 뽑을 계획이다.", 21},
	{"아이들이 운동장에서 공을 차며 놀고 있다.", 14},
	{"정부는 반도체 산업을 지원하기 위한 법안을 국회에 제출했다.", 18},
	{"그는 어제 산 책을 아직 한 쪽도 읽지 못했다고 말했다.", 17},
	{"주식시장은 외국인의 매도로 이틀 연속 하락해 2,500선 아래로 내려갔다.", 23},
	{"The company said its third-quarter profit rose 12% from a year earlier.", 18},
	{"A man is playing a guitar in front of a small crowd.", 15},
	{"Researchers have found a way to store energy in bricks made of clay.", 19},
	{"Heavy rain closed two roads in the north of the country on Monday.", 17},
	{"The board approved a dividend of $1.25 per share, payable on 15 March 2024.", 21},
	{"She has never forgotten the first time she saw the sea.", 14},
	{"Please send the signed contract back before the end of the week.", 15},
	{"Prices of copper and nickel fell as demand from factories weakened.", 21},
	{"会社は来年の春までに新しい工場を建てる計画だ。", 17},
	{"公司计划在明年春天之前建造一座新工厂。", 13},
}

// TestEstimateTokens checks that a sentence is within a third of its count.
func TestEstimateTokens(t *testing.T) {
	t.Parallel()
	got, want := 0, 0
	for _, s := range sentences {
		n := tasks.EstimateTokens(s.text)
		if 3*n > 4*s.want || 4*n < 3*s.want {
			t.Errorf("%q: %d tokens, want about %d", s.text, n, s.want)
		}
		got, want = got+n, want+s.want
	}
	within(t, "the sentences", got, want, 0.85, 1.15)
}

func TestEstimateTokensOfOddTexts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]int{
		"":                          {2, 2},
		"a":                         {2, 3},
		"\xff\xfe":                  {2, 4},
		"한":                         {2, 4},
		"끝\xed":                     {2, 4}, // a lead byte that nothing follows
		"\xed\x95":                  {2, 4},
		strings.Repeat("0", 3000):   {1500, 2002},
		strings.Repeat("가", 1000):   {500, 1002},
		strings.Repeat("a ", 50000): {20000, 50002},
	} {
		if n := tasks.EstimateTokens(text); n < want[0] || n > want[1] {
			t.Errorf("%.20q: %d tokens, want %d to %d", text, n, want[0], want[1])
		}
	}
}

func TestEstimateAllocatesNothing(t *testing.T) { //nolint:paralleltest // others' allocations would count
	text := strings.Repeat("삼성전자 3분기 profit 工場 ", 100)
	sum := 0
	if n := testing.AllocsPerRun(10, func() { sum += tasks.EstimateTokens(text) }); n != 0 || sum == 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzEstimateTokens checks that a longer text is never estimated to be the shorter one by more than rounding, whatever
// bytes it is of.
func FuzzEstimateTokens(f *testing.F) {
	for _, s := range sentences {
		f.Add(s.text, s.text)
	}
	f.Add("\xed", "\x95\x9c")
	f.Fuzz(func(t *testing.T, a, b string) {
		na, both := tasks.EstimateTokens(a), tasks.EstimateTokens(a+" "+b)
		if na < 2 || na > 2+len(a) || both < na-2 {
			t.Errorf("%q: %d, with %q behind it: %d", a, na, b, both)
		}
	})
}

// TestEstimateOfTheDefaultModel checks what the constants' comment says of an English vocabulary.
func TestEstimateOfTheDefaultModel(t *testing.T) {
	t.Parallel()
	tok, err := tokenizer.Open(testkit.DefaultModel(t))
	if err != nil {
		t.Fatal(err)
	}
	korean, english := sampleTexts(t)
	check(t, tok, "English", english, 1.05, 1.25)
	check(t, tok, "Korean", korean, 0.4, 0.6)
}

// TestEstimateOfAMultilingualModel checks what it says of the vocabulary that it was fitted to, and the counts above.
func TestEstimateOfAMultilingualModel(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the vocabulary takes a while to load")
	}
	path := testkit.Shared(t, "data", "tokenizers", "xlm-roberta-unigram-250k", "tokenizer.json.gz")
	tok, err := tokenizer.New(unzipped(t, path))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sentences {
		if n := tok.Count(s.text, 0); n != s.want {
			t.Errorf("%q has %d tokens, want %d", s.text, n, s.want)
		}
	}
	korean, english := sampleTexts(t)
	check(t, tok, "filings", korean[:502], 0.8, 1.2)
	check(t, tok, "news", korean[502:], 0.8, 1.2)
	check(t, tok, "English", english, 0.8, 1.2)
	korsts := some(column(t, testkit.Shared(t, "data", "korsts", "sts-test.tsv"), 5))
	check(t, tok, "KorSTS", korsts, 0.8, 1.2)
	check(t, tok, "KLUE-NLI", some(premises(t, testkit.Shared(t, "data", "klue", "klue-nli-v1.1_dev.json"))), 0.8, 1.2)
	japanese := some(quoted(t, testkit.Shared(t, "data", "stsb", "stsb-ja-test.csv")))
	check(t, tok, "STS-B in Japanese", japanese, 0.8, 1.2)
	stsb := some(quoted(t, testkit.Shared(t, "data", "stsb", "stsb-en-test.csv")))
	check(t, tok, "STS-B in English", stsb, 0.8, 1.2)
	for what, list := range map[string][]string{"KorSTS": korsts, "English": english, "filings": korean[:502], "STS-B in English": stsb} {
		mostly(t, tok, what, list, 0.9)
	}
	mostly(t, tok, "Japanese", japanese, 0.75)
	klue, err := tokenizer.New(read(t, testkit.Shared(t, "data", "tokenizers", "klue-roberta-ko-sroberta", "tokenizer.json")))
	if err != nil {
		t.Fatal(err)
	}
	check(t, klue, "English, by a Korean model", english, 0.6, 0.7)
	check(t, klue, "KorSTS, by a Korean model", korsts, 0.8, 1.2)
}

// some returns each tenth text.
func some(texts []string) (list []string) {
	for i := 0; i < len(texts); i += 10 {
		list = append(list, texts[i])
	}
	return list
}

// check compares the estimate of texts with a tokenizer's count.
func check(t *testing.T, tok *tokenizer.Tokenizer, what string, texts []string, low, high float64) {
	t.Helper()
	got, want := 0, 0
	for _, text := range texts {
		got += tasks.EstimateTokens(text)
		want += tok.Count(text, 0)
	}
	within(t, what, got, want, low, high)
}

func within(t *testing.T, what string, got, want int, low, high float64) {
	t.Helper()
	ratio := float64(got) / float64(want)
	t.Logf("%s: estimated %d tokens of %d, %.2f", what, got, want, ratio)
	if ratio < low || ratio > high {
		t.Errorf("%s: estimated %d tokens of %d, a ratio of %.2f, want %.2f to %.2f", what, got, want, ratio, low, high)
	}
}

// mostly checks that so great a part of texts is within a third of its count.
func mostly(t *testing.T, tok *tokenizer.Tokenizer, what string, texts []string, part float64) {
	t.Helper()
	near := 0
	for _, text := range texts {
		if n, want := tasks.EstimateTokens(text), tok.Count(text, 0); 3*n <= 4*want && 4*n >= 3*want {
			near++
		}
	}
	t.Logf("%s: %d of %d are within a third", what, near, len(texts))
	if float64(near) < part*float64(len(texts)) {
		t.Errorf("%s: %d of %d are within a third, want %.0f%%", what, near, len(texts), 100*part)
	}
}

// quoted returns the first column of a CSV file.
func quoted(t *testing.T, path string) (list []string) {
	t.Helper()
	rows, err := csv.NewReader(bytes.NewReader(read(t, path))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		list = append(list, row[0])
	}
	return list
}

func sampleTexts(t *testing.T) (korean, english []string) {
	t.Helper()
	ko, err := samples.Korean()
	if err != nil {
		t.Fatal(err)
	}
	en, err := samples.English()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ko {
		korean = append(korean, d.Text)
	}
	for _, d := range en {
		english = append(english, d.Text)
	}
	return korean, english
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unzipped(t *testing.T, path string) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// column returns a column of a table whose first line names them.
func column(t *testing.T, path string, n int) (list []string) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(read(t, path)))
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), "\t"); len(fields) > n {
			list = append(list, fields[n])
		}
	}
	return list[1:]
}

func premises(t *testing.T, path string) []string {
	t.Helper()
	var all []struct{ Premise string }
	if err := json.Unmarshal(read(t, path), &all); err != nil {
		t.Fatal(err)
	}
	list := make([]string, len(all))
	for i, one := range all {
		list[i] = one.Premise
	}
	return list
}
