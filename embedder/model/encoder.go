package model

import (
	"context"
	"fmt"
	"slices"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

// An encoder is the graph of a network as it is being emitted: nodes, and beside them
// which tensors become which constants. The constants' data is moved later, when there are files to move
// it into.
//
// It follows transformers' modeling files in evaluation mode, in the fused form
// that ONNX Runtime 1.30 runs fastest: query, key and value as three products whose biases the attention
// operator adds (one wide product would have to be split again), and the residual sums left as they are
// (its fused SkipLayerNormalization took an eighth of the whole time, Add and LayerNormalization a twentieth).
type encoder struct {
	*builder
	net     network
	weights weights
	kernels Kernels
	params  []param
	known   map[string]bool // names of params
}

// A param is a constant of the graph that is made from the folder's tensors.
type param struct {
	name string
	dims []int
	data data
}

// emitEncoder emits the whole graph from the token ids to h's output.
func emitEncoder(ctx context.Context, n network, w weights, h head, k Kernels) (*encoder, error) {
	e := &encoder{builder: newBuilder(opset, ""), net: n, weights: w, kernels: k, known: make(map[string]bool)}
	e.graph.Name = n.Type
	e.graph.Inputs = []onnxpb.Value{
		matrix(inputIDs, onnxpb.Int64, onnxpb.Dim{Name: "sequence"}),
		matrix(inputMask, onnxpb.Int64, onnxpb.Dim{Name: "sequence"}),
	}
	x := e.embed(w)
	if k == AVX512 {
		x = e.packedRows(w.layers, x)
	} else {
		x = e.layers(w.layers, x, e.prepareAttention(""))
	}
	if w.final.there() {
		x = e.norm("final", w.final, x)
	}
	return e, h.emit(ctx, e.builder, x)
}

// layers emits the encoder's layers of ordinary operators.
func (e *encoder) layers(list []layer, x string, a attention) string {
	for i, l := range list {
		x = e.layer(fmt.Sprintf("layer%d", i), l, x, a, e.net.reach(i))
	}
	return x
}

// param adds a constant, unless layers that share weights have added it, and returns its name.
func (e *encoder) param(name string, d data, dims ...int) string {
	if !e.known[name] {
		e.known[name] = true
		e.params = append(e.params, param{name: name, dims: dims, data: d})
	}
	return name
}

// embed emits the sum of word, position and token type vectors, normalised, as far as there are any of them. Every
// token of a single text has type 0, whose vector is therefore added to each position's, or word's, beforehand.
func (e *encoder) embed(w weights) string {
	words := rows{t: w.words, width: e.net.Embedding}
	if w.positions.Name == "" {
		words.plus = w.types
	}
	x := e.node("embed/words", "Gather", []string{e.param("embed/words/table", words, e.net.Vocab, e.net.Embedding), inputIDs})
	if e.net.Scale != 0 {
		x = e.node("embed/scaled", "Mul", []string{x, e.float(float32(e.net.Scale))})
	}
	if w.positions.Name != "" {
		first := max(e.net.PadID, 0)
		table := e.param("embed/positions/table",
			rows{t: w.positions, width: e.net.Embedding, first: first, plus: w.types}, e.net.Positions-first, e.net.Embedding)
		x = e.node("embed/sum", "Add", []string{x, e.positions(table)})
	}
	project := func() {
		if w.project.there() {
			x = e.linear("embed/project", "embed/project", x, w.project)
		}
	}
	before := familyOf(e.net.Type).names.projectFirst
	if before {
		project()
	}
	if w.norm.there() {
		x = e.norm("embed/norm", w.norm, x)
	}
	if !before {
		project()
	}
	return x
}

// positions emits the vectors of the tokens' positions.
//
// BERT's are 0, 1, 2, ... for every row. RoBERTa's are counted over the tokens that are not padding, from
// behind the padding id, and a padding token, also one that somebody typed into a text, has the padding
// id's own position: row 0 of the table that begins there.
func (e *encoder) positions(table string) string {
	if e.net.PadID < 0 {
		end := e.unsqueeze("embed/end", e.sequence(), 0)
		return e.node("embed/positions", "Slice", []string{table, e.ints(0), end, e.ints(0)})
	}
	pad := e.node("embed/pad", "Equal", []string{inputIDs, e.int(int64(e.net.PadID))})
	token := e.cast("embed/token", e.node("embed/notpad", "Not", []string{pad}), onnxpb.Int64)
	count := e.node("embed/count", "CumSum", []string{token, e.int(1)})
	position := e.node("embed/position", "Mul", []string{count, token})
	return e.node("embed/positions", "Gather", []string{table, position})
}

// layer emits one encoder layer: attention and feed-forward, each added to its input, with the norms that there are.
func (e *encoder) layer(name string, l layer, x string, a attention, kind reach) string {
	sub := func(part, x string, in, end, sum norm, branch func(x string) string) string {
		inner := x
		if in.there() {
			inner = e.normOf(name+part+"/in", l.name+part+"/in", in, x)
		}
		inner = branch(inner)
		if end.there() {
			inner = e.normOf(name+part+"/end", l.name+part+"/end", end, inner)
		}
		x = e.node(name+part+"/sum", "Add", []string{inner, x})
		if sum.there() {
			x = e.normOf(name+part+"/norm", l.name+part+"/norm", sum, x)
		}
		return x
	}
	x = sub("/attention", x, l.attentionIn, l.attentionEnd, l.attentionSum, func(x string) string {
		return e.attention(name+"/attention", l, x, a, kind)
	})
	return sub("", x, l.feedIn, l.feedEnd, l.feedSum, func(x string) string { return e.feed(name, l, x) })
}

// feed emits the feed-forward layers: down(act(up x)), or down(act(gate x) · up x).
func (e *encoder) feed(name string, l layer, x string) string {
	up := e.linear(name+"/up", l.name+"/up", x, l.up)
	if l.gate.there() {
		gate := e.activate(name+"/activation", e.linear(name+"/gate", l.name+"/gate", x, l.gate))
		up = e.node(name+"/gated", "Mul", []string{gate, up})
	} else {
		up = e.activate(name+"/activation", up)
	}
	return e.linear(name+"/down", l.name+"/down", up, l.down)
}

// linear emits x Wᵀ + b. Its nodes are called name, its constants as the layer is that has the weights.
func (e *encoder) linear(name, constants, x string, l linear) string {
	y := e.product(name, constants, x, l)
	if l.bias.Name == "" {
		return y
	}
	return e.node(name, "Add", []string{y, e.param(constants+"/bias", joined{l.bias}, l.weight.Shape[0])})
}

// product emits x Wᵀ.
func (e *encoder) product(name, constants, x string, l linear) string {
	out, in := l.weight.Shape[0], l.weight.Shape[1]
	return e.node(name+"/product", "MatMul", []string{x, e.param(constants+"/weight", transposed{l.weight}, in, out)})
}

func (e *encoder) norm(name string, n norm, x string) string { return e.normOf(name, name, n, x) }

// normOf emits a normalisation over the last dimension.
func (e *encoder) normOf(name, constants string, n norm, x string) string {
	op := "LayerNormalization"
	if e.net.RMS {
		op = "SimplifiedLayerNormalization" // ONNX Runtime's, in ONNX's domain
	}
	return e.node(name, op, append([]string{x}, e.normParams(constants, n)...),
		onnxpb.Int("axis", -1), onnxpb.Float("epsilon", float32(e.net.Epsilon)))
}

// normParams adds a norm's scale and shift.
func (e *encoder) normParams(name string, n norm) []string {
	width := n.scale.Shape[0]
	var scale data = joined{n.scale}
	if e.net.OnePlus {
		scale = onePlus{n.scale}
	}
	in := []string{e.param(name+"/scale", scale, width)}
	if n.shift.Name != "" {
		in = append(in, e.param(name+"/shift", joined{n.shift}, width))
	}
	return in
}

func (e *encoder) activate(name, x string) string {
	switch e.net.Activation {
	case relu:
		return e.node(name, "Relu", []string{x})
	case silu:
		return e.node(name, "Mul", []string{x, e.node(name+"/sigmoid", "Sigmoid", []string{x})})
	case geluTanh:
		return e.contribNode(name, contrib, "FastGelu", []string{x})
	}
	return e.contribNode(name, contrib, "Gelu", []string{x})
}

// biases returns the biases of layers as one constant, or "" if they have none.
func (e *encoder) biases(name string, list ...linear) string {
	if slices.ContainsFunc(list, func(l linear) bool { return l.bias.Name == "" }) {
		return ""
	}
	var all joined
	width := 0
	for _, l := range list {
		all, width = append(all, l.bias), width+l.bias.Shape[0]
	}
	return e.param(name, all, width)
}

// model returns the emitted file's content, all but the params.
func (e *encoder) model() *onnxpb.Model {
	return &onnxpb.Model{
		IRVersion: 8, Producer: "embedfleet",
		Opsets: append([]onnxpb.Opset{{Version: opset}, {Domain: contrib, Version: 1}}, e.ownOpset()...),
		Graph:  e.graph,
	}
}
