package onnx

import (
	"fmt"
	"os"
	"slices"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

// Names of inputs that are filled here. Any other input of a graph is refused at open.
const (
	inputIDs   = "input_ids"
	inputMask  = "attention_mask"
	inputTypes = "token_type_ids" // always zero: one segment

	inputPrompt = "prompt_tokens" // [batch, 1], see embedder.Batch
)

// OperatorDomain is the domain of the operators that package kernels computes, version 1. They work on rows without
// padding, one behind the other, T in all; weights lie in panels of 32 columns.
//
//	Pack(x [texts, tokens, hidden], mask [texts, tokens]) -> [T, hidden], lengths [texts]
//	SelfAttention(x [T, hidden], lengths, in, in bias, out, out bias, scale, shift; heads, epsilon) -> [T, hidden]
//	Attend(queries [T, heads * width], keys, values [T, key heads * width], lengths, cosines, sines [tokens, width/2] or empty;
//		heads, key_heads, window or -1, causal, scale) -> [T, heads * width]
//	FeedForward(x [T, hidden], up, up bias, down, down bias, scale, shift; relu, epsilon) -> [T, hidden]
//	Unpack(x [T, hidden], lengths, mask) -> [texts, tokens, hidden], 0 for padding
const OperatorDomain = "embedfleet"

// ports are the names and the dimension that a session works with.
type ports struct {
	inputs []string
	output string
	dim    int // 0 if the graph leaves it open
}

// readPorts reads what a graph declares from its file, passing over its weights. The binding could only
// tell after loading the whole graph into a session of its own.
func readPorts(path, output string) (ports, error) {
	f, err := os.Open(path)
	if err != nil {
		return ports{}, fmt.Errorf("reading the graph: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ports{}, fmt.Errorf("reading the graph: %w", err)
	}
	outline, err := onnxpb.Scan(f, info.Size())
	if err != nil {
		return ports{}, fmt.Errorf("reading the graph %s: %w", path, err)
	}
	p, err := choosePorts(outline.Inputs, outline.Outputs, output)
	if err != nil {
		return ports{}, fmt.Errorf("graph %s: %w", path, err)
	}
	return p, nil
}

// choosePorts checks that a graph's inputs and output are those this room can feed and read.
func choosePorts(ins, outs []onnxpb.Value, output string) (ports, error) {
	p := ports{output: output}
	for _, in := range ins {
		if !slices.Contains([]string{inputIDs, inputMask, inputTypes, inputPrompt}, in.Name) {
			return ports{}, fmt.Errorf("input %q is none of %s, %s, %s, %s", in.Name, inputIDs, inputMask, inputTypes, inputPrompt)
		}
		if in.Type != onnxpb.Int64 || len(in.Dims) != 2 {
			return ports{}, fmt.Errorf("input %q has element type %d and %d axes, want int64 (7) and 2", in.Name, in.Type, len(in.Dims))
		}
		p.inputs = append(p.inputs, in.Name)
	}
	for _, need := range []string{inputIDs, inputMask} {
		if !slices.Contains(p.inputs, need) {
			return ports{}, fmt.Errorf("input %q is missing, the graph has %q", need, p.inputs)
		}
	}
	i := slices.IndexFunc(outs, func(o onnxpb.Value) bool { return o.Name == output })
	if i < 0 {
		return ports{}, fmt.Errorf("output %q is missing among %d outputs", output, len(outs))
	}
	out := outs[i]
	if out.Type != onnxpb.Float32 || len(out.Dims) != 2 {
		return ports{}, fmt.Errorf("output %q has element type %d and %d axes, want float (1) and [batch, dimension]", output, out.Type, len(out.Dims))
	}
	p.dim = int(max(0, out.Dims[1].Value))
	return p, nil
}
