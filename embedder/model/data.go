package model

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

const (
	// alignment of a constant in the data file: a page on every system there is, and what Windows maps at
	// (soniqo/speech-core#138 has the measurements).
	alignment = 64 << 10
	// inlineBelow is the size in bytes from which on a constant goes into the data file. Smaller ones
	// would be mostly gaps there, and nothing is won by sharing them between processes.
	inlineBelow = 64 << 10
	// block is how many rows of a table are held at a time: the largest table has a gigabyte.
	block = 1024
)

// A data writes the elements of a constant, made from the folder's tensors, in little-endian order.
type data interface {
	write(ctx context.Context, w io.Writer, r *checkpoint.Reader) error
}

// rows is a table from its row first on, with the first row of plus added to each if plus has any.
type rows struct {
	t, plus checkpoint.Tensor
	width   int
	first   int
}

func (d rows) write(ctx context.Context, w io.Writer, r *checkpoint.Reader) error {
	var plus []float32
	if d.plus.Name != "" {
		plus = make([]float32, d.width)
		if err := r.Read(plus, d.plus, 0); err != nil {
			return err
		}
	}
	// A block is a whole number of rows, so that a number's column is its index modulo the width.
	buf := make([]float32, min(d.t.Len(), block*d.width))
	for at := d.first * d.width; at < d.t.Len(); at += len(buf) {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf = buf[:min(len(buf), d.t.Len()-at)]
		if err := r.Read(buf, d.t, at); err != nil {
			return err
		}
		if plus != nil {
			for i := range buf {
				buf[i] += plus[i%d.width]
			}
		}
		if err := writeFloats(w, buf); err != nil {
			return err
		}
	}
	return nil
}

// transposed is linear layers' weights, [out, in] each, side by side as one [in, sum of out].
//
// MatMul wants the inputs as rows while torch.nn.Linear keeps the outputs as rows.
// A runtime could transpose when it loads, but then holds both forms.
type transposed []checkpoint.Tensor

func (d transposed) write(ctx context.Context, w io.Writer, r *checkpoint.Reader) error {
	in, width := d[0].Shape[1], 0
	for _, t := range d {
		width += t.Shape[0]
	}
	// Both forms of a matrix are in memory for a moment: 32 MB for the largest of a 24-layer model. Writing
	// columns into a file instead would cost a seek for each number.
	to := make([]float32, in*width)
	column := 0
	for _, t := range d {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := make([]float32, t.Len())
		if err := r.Read(from, t, 0); err != nil {
			return err
		}
		transpose(to[column:], from, width, in)
		column += t.Shape[0]
	}
	return writeFloats(w, to)
}

// transpose copies the rows of from, each in long, into the columns of to, whose rows are width long. It
// goes by squares that fit a core's first cache, since one of the two is always walked against the grain.
func transpose(to, from []float32, width, in int) {
	const square = 32
	out := len(from) / in
	for i0 := 0; i0 < out; i0 += square {
		for j0 := 0; j0 < in; j0 += square {
			for i := i0; i < min(i0+square, out); i++ {
				for j := j0; j < min(j0+square, in); j++ {
					to[j*width+i] = from[i*in+j]
				}
			}
		}
	}
}

// joined is vectors, one behind the other.
type joined []checkpoint.Tensor

func (d joined) write(ctx context.Context, w io.Writer, r *checkpoint.Reader) error {
	for _, t := range d {
		if err := ctx.Err(); err != nil {
			return err
		}
		v := make([]float32, t.Len())
		if err := r.Read(v, t, 0); err != nil {
			return err
		}
		if err := writeFloats(w, v); err != nil {
			return err
		}
	}
	return nil
}

// onePlus is a vector with 1 added to each number.
type onePlus struct{ t checkpoint.Tensor }

func (d onePlus) write(_ context.Context, w io.Writer, r *checkpoint.Reader) error {
	v := make([]float32, d.t.Len())
	if err := r.Read(v, d.t, 0); err != nil {
		return err
	}
	for i := range v {
		v[i]++
	}
	return writeFloats(w, v)
}

// writeFloats writes v in little-endian order, a block at a time.
func writeFloats(w io.Writer, v []float32) error {
	buf := make([]byte, 0, 4*min(len(v), 1<<14))
	for len(v) > 0 {
		n := min(len(v), 1<<14)
		buf = buf[:0]
		for _, x := range v[:n] {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(x))
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}

// bytesOf returns a small constant's content.
func (p param) bytesOf(ctx context.Context, r *checkpoint.Reader) ([]byte, error) {
	var b bytes.Buffer
	if err := p.data.write(ctx, &b, r); err != nil {
		return nil, err
	}
	if int64(b.Len()) != p.size() {
		return nil, fmt.Errorf("constant %s has %d bytes, %v wants %d", p.name, b.Len(), p.dims, p.size())
	}
	return b.Bytes(), nil
}

// size returns how many bytes p has.
func (p param) size() int64 {
	n := int64(4)
	for _, d := range p.dims {
		n *= int64(d)
	}
	return n
}
