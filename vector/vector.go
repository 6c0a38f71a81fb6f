// Package vector says what a vector is: its arithmetic, its byte form, the space it lives in, and the
// record that ties it to a document. It knows nothing of models, queues or stores, and imports nothing
// of the module, so that every room may speak of vectors in the same words.
package vector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// NormTolerance is how far from 1 the length of a normalised vector may lie before [Vector.CheckUnit]
// refuses it. Float32 rounding in a model of any size stays two orders of magnitude below it.
const NormTolerance = 1e-3

// ErrBytes is wrapped by [Parse] when a byte string cannot be a vector.
var ErrBytes = errors.New("not a little-endian float32 vector")

// A Vector is a point in one space. Its values are float32, its length is the model's dimension.
type Vector []float32

// Dot returns the inner product of v and w, summed in float64. Of two normalised vectors it is their
// cosine. It panics if the dimensions differ, since vectors of two spaces have no product.
func (v Vector) Dot(w Vector) float64 {
	if len(v) != len(w) {
		panic(fmt.Sprintf("vector: inner product of %d and %d dimensions", len(v), len(w)))
	}
	var sum float64
	for i, x := range v {
		sum += float64(x) * float64(w[i])
	}
	return sum
}

// Norm returns the Euclidean length of v.
func (v Vector) Norm() float64 { return math.Sqrt(v.Dot(v)) }

// Cosine returns the cosine of the angle between v and w, and 0 if one of them has no direction.
func (v Vector) Cosine(w Vector) float64 {
	n := v.Norm() * w.Norm()
	if n == 0 {
		return 0
	}
	return v.Dot(w) / n
}

// Check reports why v may not leave the engine: a dimension other than dim, or a value that is not finite.
func (v Vector) Check(dim int) error {
	if len(v) != dim {
		return fmt.Errorf("vector has %d dimensions, the model has %d", len(v), dim)
	}
	for i, x := range v {
		if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("vector value %d is %v, not a finite number", i, x)
		}
	}
	return nil
}

// CheckUnit is Check for the vector of a model that normalises; it also refuses a length outside
// 1 ± [NormTolerance].
func (v Vector) CheckUnit(dim int) error {
	if err := v.Check(dim); err != nil {
		return err
	}
	if n := v.Norm(); math.Abs(n-1) > NormTolerance {
		return fmt.Errorf("vector has length %.6f, normalised ones lie within 1 ± %g", n, NormTolerance)
	}
	return nil
}

// Bytes returns v as consecutive little-endian float32 values, 4 x dimension bytes: the FLOAT32 blob that
// Redis vector indexes, pgvector's binary form and numpy's "<f4" read.
func (v Vector) Bytes() []byte { return v.AppendBytes(make([]byte, 0, 4*len(v))) }

// AppendBytes appends the byte form of v to dst.
func (v Vector) AppendBytes(dst []byte) []byte {
	for _, x := range v {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(x))
	}
	return dst
}

// Parse reads the form that [Vector.Bytes] writes. Its errors wrap [ErrBytes].
func Parse(b []byte) (Vector, error) {
	if len(b) == 0 || len(b)%4 != 0 {
		return nil, fmt.Errorf("%w: %d bytes, want a positive multiple of 4", ErrBytes, len(b))
	}
	v := make(Vector, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v, nil
}
