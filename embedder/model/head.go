package model

import (
	"math"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

// A head is what happens to the token vectors: pooling, if any is left to do, and normalisation.
type head struct {
	pooling   Pooling // empty behind a graph that pools by itself
	normalize bool
	dim       int // of the vector that comes out
}

// emit adds the nodes from x, [batch, sequence, hidden], or [batch, dim] without pooling, to the output.
func (h head) emit(b *builder, x string) {
	if len(h.pooling) > 0 {
		x = newPooler(b, x).all(h.pooling)
	}
	if h.normalize {
		x = normalize(b, x)
	}
	b.graph.Nodes = append(b.graph.Nodes, onnxpb.Node{
		Op: "Identity", Name: outputName, In: []string{x}, Out: []string{outputName},
	})
	b.graph.Outputs = []onnxpb.Value{matrix(outputName, onnxpb.Float32, onnxpb.Dim{Value: int64(h.dim)})}
}

// normalize divides each row by its Euclidean length, which counts as at least 1e-12, as
// torch.nn.functional.normalize does.
func normalize(b *builder, x string) string {
	square := b.node("norm/square", "Mul", []string{x, x})
	length := b.node("norm/length", "Sqrt", []string{b.reduceSum("norm/sum", square, kept)})
	return b.node("norm", "Div", []string{x, b.node("norm/floor", "Max", []string{length, b.float(1e-12)})})
}

// A pooler emits poolings of the token vectors x, [batch, sequence, hidden]. It follows
// sentence-transformers' modules/pooling.py, for rows that are padded on the right.
type pooler struct {
	b    *builder
	x    string
	mask string // [batch, sequence], 1.0 for tokens, 0.0 for padding
}

func newPooler(b *builder, x string) *pooler {
	return &pooler{b: b, x: x, mask: b.cast("pool/mask", inputMask, onnxpb.Float32)}
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
	real := p.b.cast(name+"/real", p.b.unsqueeze(name+"/column", inputMask, 2), onnxpb.Bool)
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
