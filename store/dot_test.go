package store

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/embedfleet/embedfleet/vector"
)

func TestDot(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 70 { // the unrolled part, its remainder, and nothing
		a, b := make(vector.Vector, n), make(vector.Vector, n)
		for i := range n {
			a[i], b[i] = rng.Float32()-0.5, rng.Float32()-0.5
		}
		if got, want := float64(dot(a, b)), a.Dot(b); math.Abs(got-want) > 1e-6 {
			t.Errorf("dot of %d values = %v, want %v", n, got, want)
		}
	}
	if got := dot([]float32{1, 2}, []float32{3, 4, 5}); got != 11 {
		t.Errorf("dot with a longer slice = %v, want 11: the rest is another chunk's", got)
	}
}

func BenchmarkDot(b *testing.B) {
	x, y := make([]float32, 384), make([]float32, 384)
	var sum float32
	for b.Loop() {
		sum += dot(x, y)
	}
	if sum != 0 {
		b.Error(sum)
	}
}
