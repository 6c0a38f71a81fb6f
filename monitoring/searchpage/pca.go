package searchpage

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"

	"github.com/embedfleet/embedfleet/vector"
)

const (
	// fitAtMost is how many vectors the axes are fitted to; the others are only projected. Two axes of some
	// thousand vectors are as good as those of all, and a matrix of 1,024 dimensions stays at 33 MB.
	fitAtMost = 4000
	// sketchWidth and sketchRounds are those of randomised principal components (Halko, Martinsson, Tropp 2011,
	// algorithm 4.4): some dimensions more than wanted, and a few products with the data to sharpen them.
	sketchWidth  = 12
	sketchRounds = 4
)

// A plane is the two directions in which vectors differ most.
type plane struct {
	mean      []float64
	axes      [2][]float64 // of unit length, orthogonal
	explained [2]float64   // part of the vectors' variance along each, 0 to 1
}

// fitPlane returns the plane of vectors, which are of one dimension. The exact way, an eigenproblem of the
// dimension's size, takes 10 s at 1,024 dimensions; projecting into a few dimensions that hold the largest
// variances first, and solving there, takes a fraction of a second and agrees with it to several digits. The same
// vectors give the same plane.
func fitPlane(vectors []vector.Vector) (plane, error) {
	if len(vectors) == 0 || len(vectors[0]) == 0 {
		return plane{}, errors.New("fitting a plane: no vectors")
	}
	data, mean := centred(spread(vectors, fitAtMost))
	n, dim := data.Dims()
	p := plane{mean: mean, axes: [2][]float64{make([]float64, dim), make([]float64, dim)}}
	if n < 2 || dim < 2 || mat.Max(data) == 0 && mat.Min(data) == 0 {
		return p, nil // nothing differs: everything lies in the middle
	}
	basis, err := sketch(data)
	if err != nil {
		return p, err
	}
	var low mat.Dense
	low.Mul(data, basis)
	var pc stat.PC
	if !pc.PrincipalComponents(&low, nil) {
		return p, errors.New("fitting a plane: no principal components")
	}
	var inLow, axes mat.Dense
	pc.VectorsTo(&inLow)
	axes.Mul(basis, &inLow)
	variances := pc.VarsTo(nil)
	total := mat.Norm(data, 2)
	total = total * total / float64(n-1)
	for i := range min(2, len(variances)) {
		mat.Col(p.axes[i], i, &axes)
		signed(p.axes[i])
		p.explained[i] = min(1, variances[i]/total)
	}
	return p, nil
}

// spread returns at most n of the vectors, evenly over their order.
func spread(vectors []vector.Vector, n int) []vector.Vector {
	if len(vectors) <= n {
		return vectors
	}
	out := make([]vector.Vector, n)
	for i := range out {
		out[i] = vectors[i*len(vectors)/n]
	}
	return out
}

// centred returns the vectors as rows without their mean, and the mean.
func centred(vectors []vector.Vector) (*mat.Dense, []float64) {
	n, dim := len(vectors), len(vectors[0])
	mean := make([]float64, dim)
	for _, v := range vectors {
		for j, x := range v {
			mean[j] += float64(x) / float64(n)
		}
	}
	data := mat.NewDense(n, dim, nil)
	for i, v := range vectors {
		row := data.RawRowView(i)
		for j, x := range v {
			row[j] = float64(x) - mean[j]
		}
	}
	return data, mean
}

// sketch returns orthonormal columns that span the directions of largest variance of data's rows, and a few more.
func sketch(data *mat.Dense) (*mat.Dense, error) {
	_, dim := data.Dims()
	width := min(sketchWidth, dim)
	chance := rand.New(rand.NewPCG(1, 2)) // always the same, so that equal vectors give equal maps
	basis := mat.NewDense(dim, width, nil)
	for i := range dim {
		for j := range width {
			basis.Set(i, j, chance.NormFloat64())
		}
	}
	for range sketchRounds {
		var rows, columns mat.Dense
		rows.Mul(data, basis)
		columns.Mul(data.T(), &rows)
		var svd mat.SVD
		if !svd.Factorize(&columns, mat.SVDThinU) {
			return nil, fmt.Errorf("sketching %d dimensions: the decomposition did not converge", dim)
		}
		basis = new(mat.Dense)
		svd.UTo(basis)
	}
	return basis, nil
}

// signed turns an axis so that its largest value is positive: of an axis and its opposite, which are equally right,
// always the same one is taken.
func signed(axis []float64) {
	largest := 0.0
	for _, x := range axis {
		if math.Abs(x) > math.Abs(largest)+1e-9 {
			largest = x
		}
	}
	if largest < 0 {
		for i := range axis {
			axis[i] = -axis[i]
		}
	}
}

// A point is a document on the map.
type point struct{ x, y float64 }

// project returns where v lies on the plane.
func (p *plane) project(v vector.Vector) point {
	var at point
	for i, x := range v {
		d := float64(x) - p.mean[i]
		at.x += d * p.axes[0][i]
		at.y += d * p.axes[1][i]
	}
	return at
}

// minShared is how many documents two maps must have in common for the newer to be turned to the older.
const minShared = 3

// turnTo turns points, in place, so that those that were on the map before come as near as a turn and a mirror can
// bring them to where they were (orthogonal Procrustes, Schönemann 1966): a reader finds again what he saw, though
// the axes of a changed set of documents have no order or sign of their own. ids are the points' documents.
func turnTo(points []point, ids []string, before map[string]point) {
	var cross [4]float64 // sum over shared documents of now x before
	shared := 0
	for i, id := range ids {
		was, ok := before[id]
		if !ok {
			continue
		}
		shared++
		now := points[i]
		cross[0] += now.x * was.x
		cross[1] += now.x * was.y
		cross[2] += now.y * was.x
		cross[3] += now.y * was.y
	}
	var svd mat.SVD
	if shared < minShared || !svd.Factorize(mat.NewDense(2, 2, cross[:]), mat.SVDFull) {
		return
	}
	if values := svd.Values(nil); values[1] < 1e-12*max(values[0], 1e-300) || values[0] == 0 {
		return // they lie on one line: there is no telling how to turn
	}
	var u, v, turn mat.Dense
	svd.UTo(&u)
	svd.VTo(&v)
	turn.Mul(&u, v.T())
	for i, p := range points {
		points[i] = point{
			x: p.x*turn.At(0, 0) + p.y*turn.At(1, 0),
			y: p.x*turn.At(0, 1) + p.y*turn.At(1, 1),
		}
	}
}
