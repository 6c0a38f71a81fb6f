package searchpage

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"

	"github.com/embedfleet/embedfleet/vector"
)

// clusters returns n unit vectors around a few centres, as texts of a few subjects are.
func clusters(n, dim int, seed uint64) []vector.Vector {
	chance := rand.New(rand.NewPCG(seed, 0))
	random := func() vector.Vector {
		v := make(vector.Vector, dim)
		for i := range v {
			v[i] = float32(chance.NormFloat64())
		}
		return v
	}
	centres := make([]vector.Vector, 5)
	for i := range centres {
		centres[i] = random()
	}
	out := make([]vector.Vector, n)
	for i := range out {
		v, centre := random(), centres[i%len(centres)]
		for j := range v {
			v[j] = 0.5*v[j] + float32(1+i%len(centres))*0.3*centre[j]
		}
		length := float32(v.Norm())
		for j := range v {
			v[j] /= length
		}
		out[i] = v
	}
	return out
}

// TestPlaneIsThatOfPrincipalComponents compares with the library's exact way.
func TestPlaneIsThatOfPrincipalComponents(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{400, 64}, {50, 96}, {300, 3}, {3, 2}} {
		vectors := clusters(size[0], size[1], 7)
		p, err := fitPlane(vectors)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := centred(vectors)
		var (
			exact mat.Dense
			pc    stat.PC
		)
		if !pc.PrincipalComponents(data, nil) {
			t.Fatal("the exact way failed")
		}
		pc.VectorsTo(&exact)
		variances := pc.VarsTo(nil)
		var total float64
		for _, v := range variances {
			total += v
		}
		for axis := range 2 {
			var cos float64
			for j := range size[1] {
				cos += p.axes[axis][j] * exact.At(j, axis)
			}
			if math.Abs(cos) < 0.999 {
				t.Errorf("%v: axis %d has cosine %f to the exact one", size, axis, cos)
			}
			if want := variances[axis] / total; math.Abs(p.explained[axis]-want) > 1e-3 {
				t.Errorf("%v: axis %d explains %f, want %f", size, axis, p.explained[axis], want)
			}
		}
	}
}

func TestPlaneOfLittle(t *testing.T) {
	t.Parallel()
	if _, err := fitPlane(nil); err == nil {
		t.Error("of nothing: no error")
	}
	same := vector.Vector{0.6, 0.8, 0}
	for name, vectors := range map[string][]vector.Vector{
		"one": {same}, "equals": {same, same, same}, "two": {same, {1, 0, 0}}, "one dimension": {{1}, {-1}, {1}},
	} {
		p, err := fitPlane(vectors)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, v := range vectors {
			at := p.project(v)
			if math.IsNaN(at.x) || math.IsNaN(at.y) || math.Abs(at.x) > 2 || math.Abs(at.y) > 1e-6 {
				t.Errorf("%s: %v", name, at)
			}
		}
	}
}

// TestTurnTo turns and mirrors a map and has it turned back, with documents added and others gone.
func TestTurnTo(t *testing.T) {
	t.Parallel()
	chance := rand.New(rand.NewPCG(1, 1))
	var (
		before = map[string]point{}
		ids    []string
		points []point
		want   []point
	)
	const angle = 2.5
	for i := range 100 {
		id, p := fmt.Sprint(i), point{3 * chance.NormFloat64(), chance.NormFloat64()}
		if i < 80 {
			before[id] = p
		}
		if i < 10 {
			continue // gone since
		}
		ids, want = append(ids, id), append(want, p)
		points = append(points, point{ // mirrored, then turned
			x: -p.x*math.Cos(angle) - p.y*math.Sin(angle),
			y: -p.x*math.Sin(angle) + p.y*math.Cos(angle),
		})
	}
	turnTo(points, ids, before)
	for i := range points {
		if math.Hypot(points[i].x-want[i].x, points[i].y-want[i].y) > 1e-9 {
			t.Fatalf("%s is at %v, want %v", ids[i], points[i], want[i])
		}
	}
	line := []point{{1, 0}, {2, 0}, {3, 0}}
	turnTo(line, []string{"a", "b", "c"}, map[string]point{"a": {1, 1}, "b": {2, 2}, "c": {3, 3}})
	if line[0] != (point{1, 0}) {
		t.Errorf("a line was turned: %v", line)
	}
}

func BenchmarkPlane(b *testing.B) {
	for _, dim := range []int{384, 1024} {
		vectors := clusters(10_000, dim, 3)
		b.Run(fmt.Sprintf("10000x%d", dim), func(b *testing.B) {
			for b.Loop() {
				p, err := fitPlane(vectors)
				if err != nil {
					b.Fatal(err)
				}
				for _, v := range vectors {
					p.project(v)
				}
			}
		})
	}
}
