package embedder

import (
	"math"
	"testing"
)

// TestCostOf is the table of what two measured rates make of a cost.
func TestCostOf(t *testing.T) {
	t.Parallel()
	// rate of rows of n tokens, of a model of which the rest is known.
	rate := func(rate, half, n float64) float64 { return rate / (1 + n/half) }
	for name, tt := range map[string]struct {
		fast, slow, short, long float64
		want                    Cost
	}{
		"attention is noticed":        {rate(5000, 700, 32), rate(5000, 700, 512), 32, 512, Cost{Rate: 5000, Half: 700}},
		"a long window":               {rate(900, 4000, 32), rate(900, 4000, 8192), 32, 8192, Cost{Rate: 900, Half: 4000}},
		"none is":                     {5000, 5000, 32, 512, Cost{Rate: 5000}},
		"long rows are faster":        {5000, 6000, 32, 512, Cost{Rate: 5000}},
		"one length only":             {5000, 4000, 32, 32, Cost{Rate: 5000}},
		"noise beyond all bounds":     {5000, 10, 32, 512, Cost{Rate: 5000 * (1 + 32./minHalf), Half: minHalf}},
		"noise that would be below 0": {1e6, 1, 32, 512, Cost{Rate: 1e6 * (1 + 32./minHalf), Half: minHalf}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := costOf(tt.fast, tt.slow, tt.short, tt.long)
			if math.Abs(got.Rate-tt.want.Rate) > 1e-6*tt.want.Rate || math.Abs(got.Half-tt.want.Half) > 1e-6*tt.want.Half {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}
