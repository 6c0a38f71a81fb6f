package model

import (
	"context"
	"fmt"
	"io"
	"math"
	"reflect"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

// KernelDomain is the domain of the operators that [AVX512] stands for. Whoever runs such a graph provides them;
// package onnx does, and describes them.
const KernelDomain = "embedfleet"

// panel is how many columns of a weight lie together for those operators.
const panel = 32

// panels reports whether the network's layers can be made of those operators: widths of whole panels, an
// activation that they know, and the traits of a BERT.
func (n network) panels() bool {
	plain := n
	plain.Type, plain.Layers, plain.Hidden, plain.Heads, plain.Intermediate, plain.Vocab, plain.Positions = "", 0, 0, 0, 0, 0, 0
	plain.TypeVocab, plain.PadID, plain.Epsilon, plain.Activation, plain.Embedding, plain.Shared = 0, 0, 0, "", 0, 0
	plain.KeyHeads, plain.HeadDim = 0, 0
	f := familyOf(n.Type).names
	return n.Hidden%panel == 0 && n.Intermediate%panel == 0 && (n.Activation == geluErf || n.Activation == relu) &&
		reflect.ValueOf(plain).IsZero() && n.KeyHeads == n.Heads && n.HeadDim*n.Heads == n.Hidden &&
		f.attentionSum != "" && f.gate+f.upGate == ""
}

// attends reports whether the network's attention can be made of our operator, and its rows be packed: any but one that
// adds a bias to the scores.
func (n network) attends() bool { return n.Buckets.Kind == "" }

// packs reports whether a graph of the kernels has packed rows.
func (n network) packs() bool { return n.panels() || n.attends() }

// ownOpset names the domain if nodes of it were emitted.
func (e *encoder) ownOpset() []onnxpb.Opset {
	if e.kernels != AVX512 {
		return nil
	}
	return []onnxpb.Opset{{Domain: KernelDomain, Version: 1}}
}

// packedLayers emits the encoder's layers as two operators each, on rows without padding. What these do is what
// [encoder.layer] emits.
func (e *encoder) packedLayers(list []layer, x, lengths string) string {
	epsilon := onnxpb.Float("epsilon", float32(e.net.Epsilon))
	activation := onnxpb.Int("relu", 0)
	if e.net.Activation == relu {
		activation = onnxpb.Int("relu", 1)
	}
	for i, l := range list {
		name := fmt.Sprintf("layer%d", i)
		in := append([]string{x, lengths}, e.packed(l.name+"/attention/in", l.query, l.key, l.value)...)
		in = append(in, e.packed(l.name+"/attention/out", l.attention)...)
		in = append(in, e.normParams(l.name+"/attention/norm", l.attentionSum)...)
		x = e.contribNode(name+"/attention", KernelDomain, "SelfAttention", in, onnxpb.Int("heads", int64(e.net.Heads)), epsilon)
		in = append([]string{x}, e.packed(l.name+"/up", l.up)...)
		in = append(in, e.packed(l.name+"/down", l.down)...)
		in = append(in, e.normParams(l.name+"/norm", l.feedSum)...)
		x = e.contribNode(name+"/feedforward", KernelDomain, "FeedForward", in, activation, epsilon)
	}
	return x
}

// packedRows emits the layers on rows without padding: as two operators each where these know the layer, else of
// ordinary operators around our attention, which keeps no scores but those of some queries.
func (e *encoder) packedRows(list []layer, x string) string {
	lengths := "pack/lengths"
	e.graph.Nodes = append(e.graph.Nodes, onnxpb.Node{
		Op: "Pack", Domain: KernelDomain, Name: "pack", In: []string{x, inputMask}, Out: []string{"pack", lengths},
	})
	if e.net.panels() {
		x = e.packedLayers(list, "pack", lengths)
	} else {
		x = e.layers(list, "pack", e.prepareAttention(lengths))
	}
	return e.contribNode("unpack", KernelDomain, "Unpack", []string{x, lengths, inputMask})
}

// attend emits the attention of packed rows.
func (e *encoder) attend(name string, l layer, x string, a attention, kind reach) string {
	r, window := a.rope[kind], int64(-1)
	if kind == near {
		window = int64(e.net.Window)
	}
	if r.cos == "" {
		none := e.constant("no rotation", onnxpb.Tensor{Type: onnxpb.Float32, Dims: []int64{0, 0}})
		r = rotation{none, none}
	}
	scale := e.net.ScoreScale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(e.net.HeadDim))
	}
	in := []string{
		e.projected(name+"/query", l.name+"/attention/query", x, l.query, l.queryNorm, e.net.Heads, 0),
		e.projected(name+"/key", l.name+"/attention/key", x, l.key, l.keyNorm, e.net.KeyHeads, 0),
		e.linear(name+"/value", l.name+"/attention/value", x, l.value),
		a.lengths, r.cos, r.sin,
	}
	causal := int64(0)
	if e.net.Causal {
		causal = 1
	}
	heads := e.contribNode(name+"/heads", KernelDomain, "Attend", in, onnxpb.Int("heads", int64(e.net.Heads)),
		onnxpb.Int("key_heads", int64(e.net.KeyHeads)), onnxpb.Int("window", window), onnxpb.Int("causal", causal), onnxpb.Float("scale", float32(scale)))
	return e.linear(name+"/out", l.name+"/attention/out", heads, l.attention)
}

// packed adds the weights of dense layers, side by side, and their biases.
func (e *encoder) packed(name string, list ...linear) []string {
	var weights panels
	var biases joined
	out, in := 0, list[0].weight.Shape[1]
	for _, l := range list {
		weights, biases = append(weights, l.weight), append(biases, l.bias)
		out += l.weight.Shape[0]
	}
	return []string{e.param(name+"/weight", weights, out/panel, in, panel), e.param(name+"/bias", biases, out)}
}

// panels is linear layers' weights, [out, in] each with out a multiple of 32, side by side as
// [sum of out/32, in, 32]: what a product reads at a time lies together.
type panels []checkpoint.Tensor

func (d panels) write(ctx context.Context, w io.Writer, r *checkpoint.Reader) error {
	for _, t := range d {
		in := t.Shape[1]
		from, to := make([]float32, panel*in), make([]float32, panel*in)
		for at := 0; at < t.Len(); at += len(from) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.Read(from, t, at); err != nil {
				return err
			}
			transpose(to, from, panel, in)
			if err := writeFloats(w, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// KernelKind says what a [Model] of packed rows has of our kernels: whole layers, or attention between the runtime's
// products.
func (m *Model) KernelKind() string {
	switch {
	case !m.Packed:
		return "none"
	case m.net.panels():
		return "layers"
	}
	return "attention"
}
