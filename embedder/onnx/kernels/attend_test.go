//go:build amd64 && unix

package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// TestAttend compares attention with the formula in float64: odd widths, groups of heads, windows that begin and end
// inside of tiles and panels, and what is before a token only.
func TestAttend(t *testing.T) {
	if !Available() {
		t.Skip("no AVX-512")
	}
	t.Parallel()
	for i, a := range []Attend{
		{Heads: 2, KeyHeads: 2, Width: 32, Window: -1},
		{Heads: 4, KeyHeads: 1, Width: 16, Window: 24},
		{Heads: 4, KeyHeads: 2, Width: 64, Window: -1, Causal: true},
		{Heads: 3, KeyHeads: 3, Width: 7, Window: 0},
		{Heads: 6, KeyHeads: 3, Width: 22, Window: 1, Causal: true},
		{Heads: 1, KeyHeads: 1, Width: 100, Window: 31},
		{Heads: 1, KeyHeads: 1, Width: 48, Window: 1000},
	} {
		t.Run(fmt.Sprintf("%+v", a), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			a.Scale = 1.3 / float32(math.Sqrt(float64(a.Width)))
			lengths := []int64{1, 33, 0, 28, 15, 300, 2, 64, 97}
			rows := 0
			for _, n := range lengths {
				rows += int(n)
			}
			random := func(n int) []float32 {
				v := make([]float32, n)
				for i := range v {
					v[i] = float32(r.NormFloat64() * 2)
				}
				return v
			}
			if a.Width%2 == 0 {
				a.Cosine, a.Sine = random(300*a.Width/2), random(300*a.Width/2)
			}
			q, k, v := random(rows*a.Heads*a.Width), random(rows*a.KeyHeads*a.Width), random(rows*a.KeyHeads*a.Width)
			got, err := a.Run(q, k, v, lengths)
			if err != nil {
				t.Fatal(err)
			}
			want := a.plain(q, k, v, lengths)
			for i := range want {
				if d := math.Abs(float64(got[i]) - want[i]); !(d < 1e-4) {
					t.Fatalf("value %d is %v, want %v", i, got[i], want[i])
				}
			}
		})
	}
}

// plain is the formula.
func (a Attend) plain(q, k, v []float32, lengths []int64) []float64 {
	y := make([]float64, len(q))
	at := func(x []float32, row, place, head, heads, d int) float64 {
		x = x[row*heads*a.Width+head*a.Width:]
		if a.Cosine == nil {
			return float64(x[d])
		}
		half := a.Width / 2
		pair := d % half
		c, s := float64(a.Cosine[place*half+pair]), float64(a.Sine[place*half+pair])
		if d < half {
			return float64(x[d])*c - float64(x[d+half])*s
		}
		return float64(x[d])*c + float64(x[d-half])*s
	}
	first := 0
	for _, n := range lengths {
		for h := range a.Heads {
			of := h / (a.Heads / a.KeyHeads)
			for i := range int(n) {
				weights, sum := make([]float64, n), 0.0
				for j := range weights {
					if a.Window >= 0 && max(i-j, j-i) > a.Window || a.Causal && j > i {
						continue
					}
					for d := range a.Width {
						weights[j] += at(q, first+i, i, h, a.Heads, d) * at(k, first+j, j, of, a.KeyHeads, d)
					}
					weights[j] = math.Exp(weights[j] * float64(a.Scale))
					sum += weights[j]
				}
				for j, w := range weights {
					for d := range a.Width {
						y[(first+i)*a.Heads*a.Width+h*a.Width+d] += w / sum * float64(v[(first+j)*a.KeyHeads*a.Width+of*a.Width+d])
					}
				}
			}
		}
		first += int(n)
	}
	return y
}
