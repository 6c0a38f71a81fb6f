package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/embedfleet/embedfleet/cmd/internal/term"
)

// limitModel is the model whose products and graph the peers know.
const limitModel = "all-MiniLM-L6-v2"

// linearFlop is what all-MiniLM-L6-v2 computes in the linear layers for one token: 6 layers of four 384x384
// and two 384x1536 matrices, a multiplication and an addition each. Attention comes on top and is not
// counted, so the engine's share of the limit is a little understated.
const linearFlop = 2 * 6 * (4*384*384 + 2*384*1536)

func (m measure) String() string {
	if m.Flop > 0 {
		return fmt.Sprintf("%6.1f GFLOP/s", m.gflops())
	}
	return fmt.Sprintf("%6.0f tokens/s  %5.0f texts/s  padding %s  peak %4d MB", m.tokensPerSecond(), float64(m.Texts)/m.Seconds, m.padding(), m.PeakKB>>10)
}

// gflops is the rate in the linear layers.
func (m measure) gflops() float64 {
	if m.Flop > 0 {
		return m.Flop / m.Seconds / 1e9
	}
	return m.tokensPerSecond() * linearFlop / 1e9
}

func (m measure) padding() string {
	if m.Padded == 0 {
		return "   -"
	}
	return fmt.Sprintf("%.2f", m.paddingRatio())
}

func (m measure) textsPerSecond() float64 { return float64(m.Texts) / m.Seconds }

func (m measure) peakMB() float64 { return float64(m.PeakKB) / 1024 }

// paddingRatio is tokens computed over tokens given, 0 if unknown.
func (m measure) paddingRatio() float64 { return float64(m.Padded) / float64(max(m.Tokens, 1)) }

// A figure is one line of latest.json.
type figure struct {
	Median  float64 `json:"median"`
	Unit    string  `json:"unit"`
	RatioTo string  `json:"ratio_to,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
}

// A promise is a ratio that the design asks for.
type promise struct {
	name, of, to string
	atLeast      float64
}

// promises are measured round by round, so that a machine whose speed drifts drifts under both sides.
var promises = []promise{
	{"engine_vs_fp32_limit", "engine", "fp32_limit", 0.90},
	{"engine_vs_plain_ort", "engine", "plain_ort", 1.30},
	{"fleet_vs_engine", "fleet", "engine", 0.93},
	{"fleet_vs_naive_asynq", "fleet", "naive_asynq", 1.5},
}

// report prints the medians and the ratios and writes them down.
func (b *bench) report(results map[string][]measure) error {
	figures := map[string]figure{}
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(results)) {
		list := results[name]
		rate, unit := median(list, measure.tokensPerSecond), "tokens/s"
		if list[0].Flop > 0 {
			rate, unit = median(list, measure.gflops), "GFLOP/s"
		}
		figures[name] = figure{Median: rate, Unit: unit}
		if list[0].Flop == 0 {
			figures[name+"_texts"] = figure{Median: median(list, measure.textsPerSecond), Unit: "texts/s"}
			figures[name+"_padding"] = figure{Median: median(list, measure.paddingRatio), Unit: "tokens computed per token"}
		}
		figures[name+"_peak_memory"] = figure{Median: median(list, measure.peakMB), Unit: "MB"}
		rows = append(rows, []string{
			name, fmt.Sprintf("%.0f %s", rate, unit), fmt.Sprintf("%.0f", median(list, measure.textsPerSecond)),
			fmt.Sprintf("%.1f", median(list, measure.gflops)), list[0].padding(), fmt.Sprintf("%.0f", median(list, measure.peakMB)),
		})
	}
	fmt.Printf("\n%d texts, medians of %d rounds\n", b.texts, b.rounds)
	if err := term.Table(os.Stdout, []string{"CONTESTANT", "RATE", "TEXTS/S", "GFLOP/S", "PADDING", "PEAK MB"}, make([]int, 6), rows); err != nil {
		return err
	}
	fmt.Println()
	rows = nil
	for _, p := range promises {
		of, to := results[p.of], results[p.to]
		if len(to) == 0 {
			continue
		}
		ratios := make([]measure, 0, len(of))
		for i := range of {
			ratios = append(ratios, measure{Seconds: of[i].gflops() / to[i].gflops()})
		}
		ratio := median(ratios, func(m measure) float64 { return m.Seconds })
		figures[p.name] = figure{Median: figures[p.of].Median, Unit: figures[p.of].Unit, RatioTo: p.to, Ratio: ratio}
		verdict := "reached"
		if ratio < p.atLeast {
			verdict = "MISSED"
		}
		rows = append(rows, []string{p.of, p.to, fmt.Sprintf("%.2f", ratio), fmt.Sprintf("%.2f", p.atLeast), verdict})
	}
	if err := term.Table(os.Stdout, []string{"FIGURE", "AGAINST", "RATIO", "AT LEAST", ""}, make([]int, 5), rows); err != nil {
		return err
	}
	return write(b.out, figures)
}

// median returns the median of f over the measures.
func median(list []measure, f func(measure) float64) float64 {
	values := make([]float64, len(list))
	for i, m := range list {
		values[i] = f(m)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func write(path string, figures map[string]figure) error {
	out, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	if err := os.WriteFile(path, append(out, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}
