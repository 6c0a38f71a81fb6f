package model

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

const (
	// opset is the version of ONNX's operators in our own graphs, the first with LayerNormalization.
	opset = 17
	// oldestOpset is the least that a foreign graph may have for our nodes behind it.
	oldestOpset = 11
	// contrib is the domain of ONNX Runtime's own operators.
	contrib = "com.microsoft"
)

// The names of a graph's inputs and of the output.
const (
	inputIDs   = "input_ids"
	inputMask  = "attention_mask"
	inputTypes = "token_type_ids"
	// inputPrompt is how many tokens at the start of each row belong to a prompt that is not pooled, [batch, 1].
	inputPrompt = "prompt_tokens"
	outputName  = "embedding"
)

// A builder collects the nodes of a graph. Its methods take names of values and return the name of the
// value they add; a node has the name of its output. Every name begins with scope, so that nodes put
// behind a foreign graph can't meet its names.
type builder struct {
	opset     int64
	scope     string
	graph     onnxpb.Graph
	constants map[string]string // constants by content, so that each is written once
	length    string            // the value that sequence returns, once it was emitted
}

func newBuilder(opset int64, scope string) *builder {
	return &builder{opset: opset, scope: scope, constants: make(map[string]string)}
}

// node adds a node with one output called name.
func (b *builder) node(name, op string, in []string, attrs ...onnxpb.Attr) string {
	return b.contribNode(name, "", op, in, attrs...)
}

// contribNode is node for an operator of another domain.
func (b *builder) contribNode(name, domain, op string, in []string, attrs ...onnxpb.Attr) string {
	name = b.scope + name
	b.graph.Nodes = append(b.graph.Nodes, onnxpb.Node{
		Op: op, Domain: domain, Name: name, In: in, Out: []string{name}, Attrs: attrs,
	})
	return name
}

// ints returns a constant list of integers.
func (b *builder) ints(v ...int64) string { return b.integers(v, []int64{int64(len(v))}) }

// int returns a constant integer.
func (b *builder) int(v int64) string { return b.integers([]int64{v}, nil) }

func (b *builder) integers(v, dims []int64) string {
	var raw []byte
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(x))
	}
	return b.constant(fmt.Sprintf("int%v%v", v, dims), onnxpb.Tensor{Type: onnxpb.Int64, Dims: dims, Raw: raw})
}

// float returns a constant number.
func (b *builder) float(v float32) string {
	raw := binary.LittleEndian.AppendUint32(nil, math.Float32bits(v))
	return b.constant(fmt.Sprintf("float%v", v), onnxpb.Tensor{Type: onnxpb.Float32, Raw: raw})
}

func (b *builder) constant(key string, t onnxpb.Tensor) string {
	if name, ok := b.constants[key]; ok {
		return name
	}
	t.Name = fmt.Sprintf("%sconst/%d", b.scope, len(b.constants))
	b.constants[key] = t.Name
	b.graph.Initializers = append(b.graph.Initializers, t)
	return t.Name
}

// cast converts a value's element type.
func (b *builder) cast(name, x string, to onnxpb.DataType) string {
	return b.node(name, "Cast", []string{x}, onnxpb.Int("to", int64(to)))
}

// The following operators took their axes as an attribute before the version given, and take them as an
// input since (onnx, docs/Changelog.md).

func (b *builder) unsqueeze(name, x string, axes ...int64) string {
	return b.withAxes(13, name, "Unsqueeze", x, axes)
}

// A reduced dimension stays with length 1, for the result to be broadcast, or it goes.
const (
	dropped int64 = iota
	kept
)

// reduceSum adds up along the second dimension, that of a text's tokens or of a vector's values, which is
// then dropped or kept.
func (b *builder) reduceSum(name, x string, then int64) string {
	return b.withAxes(13, name, "ReduceSum", x, []int64{1}, onnxpb.Int("keepdims", then))
}

// reduceMax is reduceSum for the largest value.
func (b *builder) reduceMax(name, x string, then int64) string {
	return b.withAxes(18, name, "ReduceMax", x, []int64{1}, onnxpb.Int("keepdims", then))
}

func (b *builder) withAxes(since int64, name, op, x string, axes []int64, attrs ...onnxpb.Attr) string {
	// The two forms are not accepted in each other's versions.
	if b.opset < since {
		return b.node(name, op, []string{x}, slices.Concat(attrs, []onnxpb.Attr{onnxpb.Ints("axes", axes...)})...)
	}
	return b.node(name, op, []string{x, b.ints(axes...)}, attrs...)
}

// sequence returns the lengths of a batch's rows, padding included, as a scalar.
func (b *builder) sequence() string {
	if b.length == "" {
		b.length = b.node("sequence", "Gather", []string{b.node("shape", "Shape", []string{inputIDs}), b.int(1)}, onnxpb.Int("axis", 0))
	}
	return b.length
}

// matrix is an input or output of the shape [batch, width] with a name for what isn't fixed.
func matrix(name string, t onnxpb.DataType, width onnxpb.Dim) onnxpb.Value {
	return onnxpb.Value{Name: name, Type: t, Dims: []onnxpb.Dim{{Name: "batch"}, width}}
}
