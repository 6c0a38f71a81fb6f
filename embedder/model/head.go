package model

import (
	"context"
	"fmt"
	"math"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

// A head is what happens to the token vectors: pooling, if any is left to do, the modules behind it, a cut to the
// first dimensions, and normalisation.
type head struct {
	pooling        Pooling // empty behind a graph that pools by itself
	promptExcluded bool    // the first tokens of a row are not pooled, as many as inputPrompt says
	behind         []step
	cut            int // dimensions that are kept; 0 is all
	normalize      bool
	dim            int // of the vector that comes out
}

// emit adds the nodes from x, [batch, sequence, hidden], or [batch, dim] without pooling, to the output.
func (h head) emit(ctx context.Context, b *builder, x string) (err error) {
	if len(h.pooling) > 0 {
		x = newPooler(b, x, h).all(h.pooling)
	}
	for i, s := range h.behind {
		name := fmt.Sprintf("behind%d", i)
		if s.normalize {
			x = normalize(b, name, x)
		} else if x, err = s.dense.emit(ctx, b, name, x); err != nil {
			return fmt.Errorf("%s: %w", s.dense.dir, err)
		}
	}
	if h.cut > 0 {
		x = b.node("cut", "Slice", []string{x, b.ints(0), b.ints(int64(h.cut)), b.ints(1)})
	}
	if h.normalize {
		x = normalize(b, "norm", x)
	}
	b.graph.Nodes = append(b.graph.Nodes, onnxpb.Node{
		Op: "Identity", Name: outputName, In: []string{x}, Out: []string{outputName},
	})
	b.graph.Outputs = []onnxpb.Value{matrix(outputName, onnxpb.Float32, onnxpb.Dim{Value: int64(h.dim)})}
	if h.promptExcluded {
		b.graph.Inputs = append(b.graph.Inputs, onnxpb.Value{Name: inputPrompt, Type: onnxpb.Int64, Dims: []onnxpb.Dim{{Name: "batch"}, {Value: 1}}})
	}
	return nil
}

// normalize divides each row by its Euclidean length, which counts as at least 1e-12, as
// torch.nn.functional.normalize does.
func normalize(b *builder, name, x string) string {
	square := b.node(name+"/square", "Mul", []string{x, x})
	length := b.node(name+"/length", "Sqrt", []string{b.reduceSum(name+"/sum", square, kept)})
	return b.node(name, "Div", []string{x, b.node(name+"/floor", "Max", []string{length, b.float(1e-12)})})
}

// A pooler emits poolings of the token vectors x, [batch, sequence, hidden]. It follows
// sentence-transformers' modules/pooling.py, for rows that are padded on the right.
type pooler struct {
	b    *builder
	x    string
	ints string // [batch, sequence], 1 for tokens that are pooled, 0 for the rest
	mask string // the same as floats
}

// newPooler returns a pooler of all tokens, or of those behind the prompt.
func newPooler(b *builder, x string, h head) *pooler {
	mask := inputMask
	if h.promptExcluded {
		p := &pooler{b: b}
		behind := b.node("pool/behind", "Less", []string{p.ranks("pool/ranks", 0), inputPrompt}) // 1 in the prompt
		text := b.cast("pool/text", b.node("pool/kept", "Not", []string{behind}), onnxpb.Int64)
		mask = b.node("pool/tokens", "Mul", []string{inputMask, text})
	}
	return &pooler{b: b, x: x, ints: mask, mask: b.cast("pool/mask", mask, onnxpb.Float32)}
}

// all emits the modes of p and puts their vectors side by side.
func (p *pooler) all(pooling Pooling) string {
	var parts []string
	for _, mode := range pooling {
		parts = append(parts, p.mode(mode))
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return p.b.node("pool/all", "Concat", parts, onnxpb.Int("axis", 1))
}

func (p *pooler) mode(m Mode) string {
	name := "pool/" + string(m)
	switch m {
	case CLS:
		return p.b.node(name, "Gather", []string{p.x, p.b.int(0)}, onnxpb.Int("axis", 1))
	case Max:
		return p.max(name)
	case LastToken:
		return p.weightedSum(name, p.last(name))
	case WeightedMean:
		ranks := p.b.cast(name+"/ranks", p.ranks(name+"/int", 1), onnxpb.Float32)
		w := p.b.node(name+"/weights", "Mul", []string{p.mask, ranks})
		return p.b.node(name, "Div", []string{p.weightedSum(name+"/sum", w), p.total(name, w)})
	case MeanSqrt:
		root := p.b.node(name+"/root", "Sqrt", []string{p.total(name, p.mask)})
		return p.b.node(name, "Div", []string{p.weightedSum(name+"/sum", p.mask), root})
	}
	return p.b.node(name, "Div", []string{p.weightedSum(name+"/sum", p.mask), p.total(name, p.mask)})
}

// weightedSum adds up the token vectors, each times its weight in w, [batch, sequence].
func (p *pooler) weightedSum(name, w string) string {
	weighted := p.b.node(name+"/weighted", "Mul", []string{p.x, p.b.unsqueeze(name+"/column", w, 2)})
	return p.b.reduceSum(name, weighted, dropped)
}

// total adds up the weights of each row; a row without tokens counts as 1e-9 instead of dividing by zero.
func (p *pooler) total(name, w string) string {
	sum := p.b.reduceSum(name+"/total", w, kept)
	return p.b.node(name+"/count", "Max", []string{sum, p.b.float(1e-9)})
}

// max takes the largest value of each dimension, with minus infinity in the place of padding.
func (p *pooler) max(name string) string {
	real := p.b.cast(name+"/real", p.b.unsqueeze(name+"/column", p.ints, 2), onnxpb.Bool)
	masked := p.b.node(name+"/masked", "Where", []string{real, p.x, p.b.float(float32(math.Inf(-1)))})
	return p.b.reduceMax(name, masked, dropped)
}

// last is 1 for the last token of each row and 0 elsewhere. Sums with such weights instead of an index
// need no operator that an old graph's version lacks.
func (p *pooler) last(name string) string {
	count := p.b.reduceSum(name+"/count", inputMask, kept)
	is := p.b.node(name+"/is", "Equal", []string{p.ranks(name+"/ranks", 1), count})
	return p.b.cast(name+"/weights", is, onnxpb.Float32)
}

// ranks counts a row's positions from first on: [sequence].
func (p *pooler) ranks(name string, first int64) string {
	length := p.b.node(name+"/shape", "Shape", []string{inputIDs})
	n := p.b.node(name+"/length", "Gather", []string{length, p.b.int(1)}, onnxpb.Int("axis", 0))
	end := p.b.node(name+"/end", "Add", []string{n, p.b.int(first)})
	return p.b.node(name, "Range", []string{p.b.int(first), end, p.b.int(1)})
}
