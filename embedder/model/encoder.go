package model

import (
	"fmt"
	"math"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

// An encoder is the graph of a BERT, RoBERTa or XLM-RoBERTa as it is being emitted: nodes, and beside them
// which tensors become which constants. The constants' data is moved later, when there are files to move
// it into.
//
// It follows transformers' modeling_bert.py and modeling_roberta.py in evaluation mode, in the fused form
// that ONNX Runtime 1.30 runs fastest: query, key and value as three products whose biases the attention
// operator adds (one wide product would have to be split again), and the residual sums left as they are
// (its fused SkipLayerNormalization took an eighth of the whole time, Add and LayerNormalization a twentieth).
type encoder struct {
	*builder
	net     network
	kernels Kernels
	params  []param
}

// A param is a constant of the graph that is made from the folder's tensors.
type param struct {
	name string
	dims []int
	data data
}

// emitEncoder emits the whole graph from the token ids to h's output.
func emitEncoder(n network, w weights, h head, k Kernels) *encoder {
	e := &encoder{builder: newBuilder(opset, ""), net: n, kernels: k}
	e.graph.Name = n.Type
	e.graph.Inputs = []onnxpb.Value{
		matrix(inputIDs, onnxpb.Int64, onnxpb.Dim{Name: "sequence"}),
		matrix(inputMask, onnxpb.Int64, onnxpb.Dim{Name: "sequence"}),
	}
	x := e.embed(w)
	if k == AVX512 {
		x = e.packedLayers(w.layers, x)
	} else {
		x = e.layers(w.layers, x)
	}
	h.emit(e.builder, x)
	return e
}

// layers emits the encoder's layers of ordinary operators.
func (e *encoder) layers(list []layer, x string) string {
	mask := e.cast("mask", inputMask, onnxpb.Int32)
	for i, l := range list {
		x = e.layer(fmt.Sprintf("layer%d", i), l, x, mask)
	}
	return x
}

// param adds a constant and returns its name.
func (e *encoder) param(name string, d data, dims ...int) string {
	e.params = append(e.params, param{name: name, dims: dims, data: d})
	return name
}

// embed emits the sum of word, position and token type vectors, normalised. Every token of a single text
// has type 0, whose vector is therefore added to each position's beforehand.
func (e *encoder) embed(w weights) string {
	words := e.node("embed/words", "Gather", []string{
		e.param("embed/words/table", rows{t: w.words, width: e.net.Hidden}, e.net.Vocab, e.net.Hidden), inputIDs,
	})
	first := max(e.net.PadID, 0)
	table := e.param("embed/positions/table",
		rows{t: w.positions, width: e.net.Hidden, first: first, plus: w.types}, e.net.Positions-first, e.net.Hidden)
	sum := e.node("embed/sum", "Add", []string{words, e.positions(table)})
	return e.norm("embed/norm", w.norm, sum)
}

// positions emits the vectors of the tokens' positions.
//
// BERT's are 0, 1, 2, ... for every row. RoBERTa's are counted over the tokens that are not padding, from
// behind the padding id, and a padding token, also one that somebody typed into a text, has the padding
// id's own position: row 0 of the table that begins there.
func (e *encoder) positions(table string) string {
	if e.net.PadID < 0 {
		end := e.unsqueeze("embed/end", e.sequence(inputIDs), 0)
		return e.node("embed/positions", "Slice", []string{table, e.ints(0), end, e.ints(0)})
	}
	pad := e.node("embed/pad", "Equal", []string{inputIDs, e.int(int64(e.net.PadID))})
	token := e.cast("embed/token", e.node("embed/notpad", "Not", []string{pad}), onnxpb.Int64)
	count := e.node("embed/count", "CumSum", []string{token, e.int(1)})
	position := e.node("embed/position", "Mul", []string{count, token})
	return e.node("embed/positions", "Gather", []string{table, position})
}

// layer emits one encoder layer: attention and feed-forward, each added to its input and normalised.
func (e *encoder) layer(name string, l layer, x, mask string) string {
	a := e.attention(name+"/attention", l, x, mask)
	x = e.norm(name+"/attention/norm", l.attentionNorm, e.node(name+"/attention/sum", "Add", []string{a, x}))
	up := e.activate(name+"/activation", e.linear(name+"/up", x, l.up))
	down := e.linear(name+"/down", up, l.down)
	return e.norm(name+"/norm", l.outputNorm, e.node(name+"/sum", "Add", []string{down, x}))
}

// attention emits the attention of all heads. Padding as a key weighs the lowest float32, which is what
// transformers adds to its scores; as a query it makes rows that nobody reads.
func (e *encoder) attention(name string, l layer, x, mask string) string {
	in := []string{e.product(name+"/query", x, l.query), e.product(name+"/key", x, l.key), e.product(name+"/value", x, l.value)}
	bias := e.param(name+"/bias", joined{l.query.bias, l.key.bias, l.value.bias}, 3*e.net.Hidden)
	heads := e.contribNode(name+"/heads", contrib, "MultiHeadAttention", append(in, bias, mask),
		onnxpb.Int("num_heads", int64(e.net.Heads)), onnxpb.Float("mask_filter_value", -math.MaxFloat32))
	return e.linear(name+"/out", heads, l.attention)
}

// linear emits x Wᵀ + b.
func (e *encoder) linear(name, x string, l linear) string {
	return e.node(name, "Add", []string{e.product(name, x, l), e.param(name+"/bias", joined{l.bias}, l.weight.Shape[0])})
}

// product emits x Wᵀ.
func (e *encoder) product(name, x string, l linear) string {
	out, in := l.weight.Shape[0], l.weight.Shape[1]
	return e.node(name+"/product", "MatMul", []string{x, e.param(name+"/weight", transposed{l.weight}, in, out)})
}

func (e *encoder) norm(name string, n norm, x string) string {
	return e.node(name, "LayerNormalization", append([]string{x}, e.normParams(name, n)...),
		onnxpb.Int("axis", -1), onnxpb.Float("epsilon", float32(e.net.Epsilon)))
}

// normParams adds a norm's scale and shift.
func (e *encoder) normParams(name string, n norm) []string {
	return []string{
		e.param(name+"/scale", joined{n.scale}, e.net.Hidden),
		e.param(name+"/shift", joined{n.shift}, e.net.Hidden),
	}
}

func (e *encoder) activate(name, x string) string {
	switch e.net.Activation {
	case relu:
		return e.node(name, "Relu", []string{x})
	case geluTanh:
		return e.contribNode(name, contrib, "FastGelu", []string{x})
	}
	return e.contribNode(name, contrib, "Gelu", []string{x})
}

// model returns the emitted file's content, all but the params.
func (e *encoder) model() *onnxpb.Model {
	return &onnxpb.Model{
		IRVersion: 8, Producer: "embedfleet",
		Opsets: append([]onnxpb.Opset{{Version: opset}, {Domain: contrib, Version: 1}}, e.ownOpset()...),
		Graph:  e.graph,
	}
}
