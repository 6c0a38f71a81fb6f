//go:build unix

package kernels

/*
#cgo CFLAGS: -O3 -Wall
#cgo LDFLAGS: -lm -lpthread
#include "kernels.h"
*/
import "C"

import (
	"errors"
	"runtime"

	"golang.org/x/sys/cpu"
)

// Available reports whether this processor has the instructions.
func Available() bool {
	return cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
}

// Trim frees the memory that is kept for the next call.
func Trim() { C.ef_trim() }

// A Linear is a dense layer: the weight in panels, see [Panels], and the bias.
type Linear struct{ Weight, Bias []float32 }

// A Norm is a layer normalisation.
type Norm struct {
	Scale, Shift []float32
	Epsilon      float32
}

// An Attention is self-attention with its residual sum and norm. In is query, key and value side by side.
type Attention struct {
	Hidden, Heads int
	In, Out       Linear
	Norm          Norm
}

// An Attend is attention alone; see the operator of that name in package onnx.
type Attend struct {
	Heads, KeyHeads, Width int
	Window                 int // negative: none
	Causal                 bool
	Scale                  float32
	Cosine, Sine           []float32 // [tokens, width/2], or nil
}

// A FeedForward is the two dense layers behind attention, with residual sum and norm.
type FeedForward struct {
	Hidden, Inner int
	ReLU          bool // instead of GELU
	Up, Down      Linear
	Norm          Norm
}

var errMemory = errors.New("no memory for what lies between two products")

func pointer(v []float32) *C.float { return (*C.float)(&v[0]) }

func (l Linear) c() C.ef_linear {
	return C.ef_linear{weight: pointer(l.Weight), bias: pointer(l.Bias)}
}

func (n Norm) c() C.ef_norm {
	return C.ef_norm{scale: pointer(n.Scale), shift: pointer(n.Shift), epsilon: C.float(n.Epsilon)}
}

// pin keeps what C reads by way of other pointers where it is.
func pin(p *runtime.Pinner, vs ...[]float32) {
	for _, v := range vs {
		p.Pin(&v[0])
	}
}

// Run computes rows of texts of the given lengths, one behind the other.
func (a Attention) Run(x []float32, lengths []int64) ([]float32, error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	pin(&pins, a.In.Weight, a.In.Bias, a.Out.Weight, a.Out.Bias, a.Norm.Scale, a.Norm.Shift)
	op := C.ef_attention{hidden: C.int64_t(a.Hidden), heads: C.int64_t(a.Heads), in: a.In.c(), out: a.Out.c(), norm: a.Norm.c()}
	y, blocks := make([]float32, len(x)), make([]C.ef_block, len(lengths)+1)
	ls := (*C.int64_t)(&lengths[0])
	n := C.ef_attention_blocks(ls, C.int64_t(len(lengths)), &blocks[0])
	for i := range n {
		if C.ef_attention_run(&op, pointer(x), pointer(y), ls, &blocks[i]) != 0 {
			return nil, errMemory
		}
	}
	return y, nil
}

// Run computes rows of texts of the given lengths: queries of Heads, keys and values of KeyHeads times Width values.
func (a Attend) Run(q, k, v []float32, lengths []int64) ([]float32, error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	op := C.ef_attend{
		heads: C.int64_t(a.Heads), key_heads: C.int64_t(a.KeyHeads), width: C.int64_t(a.Width),
		window: C.int64_t(a.Window), scale: C.float(a.Scale),
	}
	if a.Causal {
		op.causal = 1
	}
	if a.Cosine != nil {
		pin(&pins, a.Cosine, a.Sine)
		op.cosine, op.sine = pointer(a.Cosine), pointer(a.Sine)
	}
	y, blocks := make([]float32, len(q)), make([]C.ef_block, len(lengths)+1)
	ls := (*C.int64_t)(&lengths[0])
	n := C.ef_attention_blocks(ls, C.int64_t(len(lengths)), &blocks[0])
	for i := range n {
		if C.ef_attend_run(&op, pointer(q), pointer(k), pointer(v), pointer(y), ls, &blocks[i]) != 0 {
			return nil, errMemory
		}
	}
	return y, nil
}

// Run computes rows.
func (f FeedForward) Run(x []float32) ([]float32, error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	pin(&pins, f.Up.Weight, f.Up.Bias, f.Down.Weight, f.Down.Bias, f.Norm.Scale, f.Norm.Shift)
	op := C.ef_feed_forward{hidden: C.int64_t(f.Hidden), inner: C.int64_t(f.Inner), up: f.Up.c(), down: f.Down.c(), norm: f.Norm.c()}
	if f.ReLU {
		op.relu = 1
	}
	rows := len(x) / f.Hidden
	y, blocks := make([]float32, len(x)), make([]C.ef_block, rows+1)
	n := C.ef_feed_forward_blocks(&op, C.int64_t(rows), &blocks[0])
	for i := range n {
		if C.ef_feed_forward_run(&op, pointer(x), pointer(y), &blocks[i]) != 0 {
			return nil, errMemory
		}
	}
	return y, nil
}
