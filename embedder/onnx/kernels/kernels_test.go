//go:build amd64 && unix

package kernels_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/onnx/kernels"
)

// tolerance is how far a value may be from the same in float64. Outputs are normalised, so that they are about 1.
const tolerance = 2e-5

func available(t testing.TB) {
	t.Helper()
	if !kernels.Available() {
		t.Skip("this processor has no AVX-512")
	}
}

func random(r *rand.Rand, n int, scale float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(scale * r.NormFloat64())
	}
	return v
}

// A dense is a layer in both forms: a matrix [in][out] and panels.
type dense struct {
	in, out int
	matrix  []float32
	kernels.Linear
}

func newDense(r *rand.Rand, in, out int) dense {
	d := dense{in: in, out: out, matrix: random(r, in*out, 1/math.Sqrt(float64(in)))}
	d.Bias = random(r, out, 0.1)
	for p := 0; p < out; p += 32 {
		for k := range in {
			d.Weight = append(d.Weight, d.matrix[k*out+p:k*out+p+32]...)
		}
	}
	return d
}

func newNorm(r *rand.Rand, n int) kernels.Norm {
	return kernels.Norm{Scale: random(r, n, 1), Shift: random(r, n, 0.1), Epsilon: 1e-12}
}

// apply is the layer in float64.
func (d dense) apply(x []float64) []float64 {
	y := make([]float64, d.out)
	for j := range y {
		y[j] = float64(d.Bias[j])
		for k, v := range x {
			y[j] += v * float64(d.matrix[k*d.out+j])
		}
	}
	return y
}

func normalised(n kernels.Norm, x []float64) []float64 {
	var mean, variance float64
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = (v-mean)/math.Sqrt(variance+float64(n.Epsilon))*float64(n.Scale[i]) + float64(n.Shift[i])
	}
	return y
}

func sum(a, b []float64) []float64 {
	y := make([]float64, len(a))
	for i := range y {
		y[i] = a[i] + b[i]
	}
	return y
}

// rows cuts x into rows in float64.
func rows(x []float32, width int) [][]float64 {
	var list [][]float64
	for row := range slices.Chunk(x, width) {
		r := make([]float64, width)
		for i, v := range row {
			r[i] = float64(v)
		}
		list = append(list, r)
	}
	return list
}

// attended is attention over one text's rows.
func attended(in, out dense, n kernels.Norm, heads int, x [][]float64) [][]float64 {
	h := len(x[0])
	width := h / heads
	qkv := make([][]float64, len(x))
	for i := range x {
		qkv[i] = in.apply(x[i])
	}
	var y [][]float64
	for i := range x {
		row := make([]float64, h)
		for head := range heads {
			q, at := qkv[i][head*width:(head+1)*width], head*width
			weights, top, total := make([]float64, len(x)), math.Inf(-1), 0.0
			for j := range x {
				for d := range width {
					weights[j] += q[d] * qkv[j][h+at+d] / math.Sqrt(float64(width))
				}
				top = max(top, weights[j])
			}
			for j := range x {
				weights[j] = math.Exp(weights[j] - top)
				total += weights[j]
			}
			for j := range x {
				for d := range width {
					row[at+d] += weights[j] / total * qkv[j][2*h+at+d]
				}
			}
		}
		y = append(y, normalised(n, sum(x[i], out.apply(row))))
	}
	return y
}

func compare(t *testing.T, got []float32, want [][]float64) {
	t.Helper()
	i := 0
	for r, row := range want {
		for c, w := range row {
			if d := math.Abs(float64(got[i]) - w); !(d <= tolerance*max(1, math.Abs(w))) {
				t.Fatalf("row %d, column %d: %v, want %v", r, c, got[i], w)
			}
			i++
		}
	}
}

// TestAttention computes texts of all kinds of lengths, alone and many in a block, with heads that do and don't fill
// a register or a panel.
func TestAttention(t *testing.T) {
	t.Parallel()
	available(t)
	for _, c := range []struct {
		hidden, heads int
		lengths       []int64
		scale         float64
	}{
		{32, 4, []int64{1}, 1},
		{32, 1, []int64{2, 1, 16, 17, 31, 32, 33, 5}, 1},
		{64, 2, []int64{13, 14, 15, 28, 29, 70}, 1},
		{96, 4, []int64{40, 41}, 1},                  // heads of 24: less than a panel, more than a register
		{96, 2, []int64{3, 47}, 1},                   // of 48: a panel and a half
		{128, 2, []int64{130, 20, 30}, 1},            // of 64; a block ends in front of the third
		{64, 4, []int64{171, 1, 169, 2, 160, 9}, 1},  // texts longer than a block
		{64, 2, []int64{20, 7}, 40},                  // scores so far apart that most weights are 0
		{64, 2, []int64{9, 0, 4}, 1},                 // a text without tokens
		{384, 12, []int64{26, 64, 8, 5, 1, 100}, 1},  // all-MiniLM-L6-v2's
		{32, 4, slices.Repeat([]int64{3}, 200), 0.1}, // many short ones
	} {
		t.Run(fmt.Sprint(c.hidden, "x", c.heads, c.lengths[:min(len(c.lengths), 8)]), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(c.hidden), uint64(c.heads)))
			in, out, n := newDense(r, c.hidden, 3*c.hidden), newDense(r, c.hidden, c.hidden), newNorm(r, c.hidden)
			total := 0
			for _, l := range c.lengths {
				total += int(l)
			}
			x := random(r, total*c.hidden, c.scale)
			op := kernels.Attention{Hidden: c.hidden, Heads: c.heads, In: in.Linear, Out: out.Linear, Norm: n}
			got, err := op.Run(x, c.lengths)
			if err != nil {
				t.Fatal(err)
			}
			var want [][]float64
			left := rows(x, c.hidden)
			for _, l := range c.lengths {
				if l > 0 {
					want = append(want, attended(in, out, n, c.heads, left[:l])...)
				}
				left = left[l:]
			}
			compare(t, got, want)
		})
	}
}

// TestFeedForward computes every count of rows up to two tiles, and some around the borders of blocks.
func TestFeedForward(t *testing.T) {
	t.Parallel()
	available(t)
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		hidden, inner int
		counts        []int
	}{
		{32, 64, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 27, 28, 29, 30}},
		{64, 32, []int{167, 168, 169, 337}},
		{32, 8192, []int{55, 56, 57, 113}}, // so wide that blocks are small
	} {
		up, down, n := newDense(r, c.hidden, c.inner), newDense(r, c.inner, c.hidden), newNorm(r, c.hidden)
		for _, count := range c.counts {
			for _, relu := range []bool{false, true} {
				x := random(r, count*c.hidden, 2)
				op := kernels.FeedForward{Hidden: c.hidden, Inner: c.inner, ReLU: relu, Up: up.Linear, Down: down.Linear, Norm: n}
				got, err := op.Run(x)
				if err != nil {
					t.Fatal(err)
				}
				var want [][]float64
				for _, row := range rows(x, c.hidden) {
					wide := up.apply(row)
					for i, v := range wide {
						if relu {
							wide[i] = max(0, v)
						} else {
							wide[i] = v / 2 * math.Erfc(-v/math.Sqrt2)
						}
					}
					want = append(want, normalised(n, sum(row, down.apply(wide))))
				}
				compare(t, got, want)
			}
		}
	}
}

// TestGELU looks at the function itself, by way of a layer that hands one column through: from one end of float32 to
// the other, and where its parts meet.
func TestGELU(t *testing.T) {
	t.Parallel()
	available(t)
	const width = 32
	var worst float64
	for _, v := range gelus() {
		// up: column 0 of the input; down: to column 0. The residual sum is v + gelu(v) in column 0, 1 and -1 in two
		// others, and the norm is undone by comparing differences of columns.
		up, down := kernels.Linear{Weight: make([]float32, width*width), Bias: make([]float32, width)}, kernels.Linear{Weight: make([]float32, width*width), Bias: make([]float32, width)}
		up.Weight[0] = 1
		down.Weight[0] = 1
		x := make([]float32, width)
		x[0], x[1], x[2] = v, 1, -1
		n := kernels.Norm{Scale: slices.Repeat([]float32{1}, width), Shift: make([]float32, width)}
		y, err := kernels.FeedForward{Hidden: width, Inner: width, Up: up, Down: down, Norm: n}.Run(x)
		if err != nil {
			t.Fatal(err)
		}
		unit := float64(y[1]-y[2]) / 2
		got := float64(y[0]-y[3]) / unit
		want := float64(v) + float64(v)/2*math.Erfc(-float64(v)/math.Sqrt2)
		worst = max(worst, math.Abs(got-want)/max(1, math.Abs(want)))
	}
	if worst > 1e-5 { // what dividing by the norm leaves
		t.Errorf("the largest error is %g", worst)
	}
}

func gelus() []float32 {
	list := []float32{0, float32(math.Copysign(0, -1)), 5.9, -5.9, 5.8999996, -5.8999996, 6, -6, 30, -30, 90, -90}
	for v := float32(-8); v <= 8; v += 1.0 / 64 {
		list = append(list, v)
	}
	return list
}

// TestNaNStays checks that what is no number is not turned into one: the engine refuses vectors that have it.
func TestNaNStays(t *testing.T) {
	t.Parallel()
	available(t)
	r := rand.New(rand.NewPCG(3, 4))
	up, down, n := newDense(r, 32, 32), newDense(r, 32, 32), newNorm(r, 32)
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
		x := random(r, 3*32, 1)
		x[40] = bad
		for _, relu := range []bool{false, true} {
			y, err := kernels.FeedForward{Hidden: 32, Inner: 32, ReLU: relu, Up: up.Linear, Down: down.Linear, Norm: n}.Run(x)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range y {
				if is := v != v; is != (i/32 == 1) {
					t.Fatalf("with %v in row 1, row %d has %v", bad, i/32, v)
				}
			}
		}
	}
}

// TestNeighboursDontMatter demands the same bits of a text whatever it is computed with.
func TestNeighboursDontMatter(t *testing.T) {
	t.Parallel()
	available(t)
	r := rand.New(rand.NewPCG(5, 6))
	const h = 64
	in, out, n := newDense(r, h, 3*h), newDense(r, h, h), newNorm(r, h)
	up, down := newDense(r, h, 4*h), newDense(r, 4*h, h)
	attention := kernels.Attention{Hidden: h, Heads: 2, In: in.Linear, Out: out.Linear, Norm: n}
	feed := kernels.FeedForward{Hidden: h, Inner: 4 * h, Up: up.Linear, Down: down.Linear, Norm: n}
	run := func(x []float32, lengths ...int64) []float32 {
		y, err := attention.Run(x, lengths)
		if err == nil {
			y, err = feed.Run(y)
		}
		if err != nil {
			t.Error(err)
		}
		return y
	}
	var lengths []int64
	var all []float32
	for range 60 {
		l := 1 + r.Int64N(40)
		lengths = append(lengths, l)
		all = append(all, random(r, int(l)*h, 1)...)
	}
	together := run(all, lengths...)
	var wg sync.WaitGroup // and on several threads at once
	at := 0
	for _, l := range lengths {
		from, to := at, at+int(l)*h
		at = to
		wg.Go(func() {
			if alone := run(slices.Clone(all[from:to]), l); !slices.Equal(alone, together[from:to]) {
				t.Errorf("%d tokens alone and in a batch differ", l)
			}
		})
	}
	wg.Wait()
	kernels.Trim()
}

// BenchmarkEncoderLayer is one layer of all-MiniLM-L6-v2 over 19 texts of 26 tokens, on one thread.
func BenchmarkEncoderLayer(b *testing.B) {
	available(b)
	r := rand.New(rand.NewPCG(7, 8))
	const h, inner, texts, tokens = 384, 1536, 19, 26
	attention := kernels.Attention{Hidden: h, Heads: 12, In: newDense(r, h, 3*h).Linear, Out: newDense(r, h, h).Linear, Norm: newNorm(r, h)}
	feed := kernels.FeedForward{Hidden: h, Inner: inner, Up: newDense(r, h, inner).Linear, Down: newDense(r, inner, h).Linear, Norm: newNorm(r, h)}
	x, lengths := random(r, texts*tokens*h, 1), slices.Repeat([]int64{tokens}, texts)
	for b.Loop() {
		y, err := attention.Run(x, lengths)
		if err == nil {
			_, err = feed.Run(y)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	flop := 2.0 * texts * tokens * (4*h*h + 2*h*inner)
	b.ReportMetric(flop*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}
