package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		seconds []float64
		want    float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		var list []measure
		for _, s := range tt.seconds {
			list = append(list, measure{Seconds: s})
		}
		if got := median(list, func(m measure) float64 { return m.Seconds }); got != tt.want {
			t.Errorf("median of %v = %v, want %v", tt.seconds, got, tt.want)
		}
	}
}

// A ratio is taken round by round, so that a machine that slows down under both sides changes nothing.
func TestReport(t *testing.T) {
	t.Parallel()
	b := &bench{out: filepath.Join(t.TempDir(), "bench", "latest.json"), rounds: 3, texts: 10}
	results := map[string][]measure{}
	for _, slow := range []float64{1, 2, 10} {
		results["engine"] = append(results["engine"], measure{Seconds: slow, Texts: 10, Tokens: 1000, Padded: 1100, PeakKB: 2048})
		results["fleet"] = append(results["fleet"], measure{Seconds: 2 * slow, Texts: 10, Tokens: 1000, Padded: 1000, PeakKB: 4096})
	}
	if err := b.report(results); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(b.out)
	if err != nil {
		t.Fatal(err)
	}
	var figures map[string]figure
	if err := json.Unmarshal(content, &figures); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]figure{
		"engine":             {Median: 500, Unit: "tokens/s"},
		"engine_texts":       {Median: 5, Unit: "texts/s"},
		"engine_padding":     {Median: 1.1, Unit: "tokens computed per token"},
		"engine_peak_memory": {Median: 2, Unit: "MB"},
		"fleet_vs_engine":    {Median: 250, Unit: "tokens/s", RatioTo: "engine", Ratio: 0.5},
	} {
		got := figures[name]
		if math.Abs(got.Median-want.Median) > 1e-9 || got.Unit != want.Unit || got.RatioTo != want.RatioTo || math.Abs(got.Ratio-want.Ratio) > 1e-9 {
			t.Errorf("%s is %+v, want %+v", name, got, want)
		}
	}
	if _, there := figures["engine_vs_plain_ort"]; there {
		t.Error("a ratio to a contestant that did not run")
	}
}

func TestTextsAreMixedAndDistinct(t *testing.T) {
	t.Parallel()
	texts, err := makeTexts(3000)
	if err != nil {
		t.Fatal(err)
	}
	again, err := makeTexts(3000)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	short, long := 0, 0
	for i, text := range texts {
		if seen[text] || text != again[i] {
			t.Fatalf("text %d is there twice, or differs from run to run: %q", i, text)
		}
		seen[text] = true
		switch n := len(strings.Fields(text)); {
		case n < 8:
			short++
		case n > 60:
			long++
		}
	}
	if short < 500 || long < 50 {
		t.Errorf("%d short and %d long texts of 3,000: not a mix", short, long)
	}
}
