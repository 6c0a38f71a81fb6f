package model

import (
	"context"
	"fmt"
	"io"
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

// ownOpset names the domain if nodes of it were emitted.
func (e *encoder) ownOpset() []onnxpb.Opset {
	if e.kernels != AVX512 {
		return nil
	}
	return []onnxpb.Opset{{Domain: KernelDomain, Version: 1}}
}

// packedLayers emits the encoder's layers as two operators each, on rows without padding. What these do is what
// [encoder.layer] emits.
func (e *encoder) packedLayers(list []layer, x string) string {
	lengths := "pack/lengths"
	e.graph.Nodes = append(e.graph.Nodes, onnxpb.Node{
		Op: "Pack", Domain: KernelDomain, Name: "pack", In: []string{x, inputMask}, Out: []string{"pack", lengths},
	})
	x = "pack"
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
	return e.contribNode("unpack", KernelDomain, "Unpack", []string{x, lengths, inputMask})
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
