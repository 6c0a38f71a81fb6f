package onnxpb

import (
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// A DataType is an element type, by its number in TensorProto.DataType.
type DataType int32

// The element types that embedding graphs take and give.
const (
	Float32 DataType = 1
	Int32   DataType = 6
	Int64   DataType = 7
	Bool    DataType = 9
)

// An Attr is an attribute of a node: a name and exactly one value, made by [Int], [Ints], [Float].
type Attr struct {
	name string
	kind int32 // AttributeProto.AttributeType
	i    []int64
	f    float32
}

// Int returns an integer attribute.
func Int(name string, v int64) Attr { return Attr{name: name, kind: 2, i: []int64{v}} }

// Ints returns an attribute that is a list of integers.
func Ints(name string, v ...int64) Attr { return Attr{name: name, kind: 7, i: v} }

// Float returns a float attribute.
func Float(name string, v float32) Attr { return Attr{name: name, kind: 1, f: v} }

// A Node is one operator: In and Out name values, an empty name leaves an optional input out.
type Node struct {
	Op, Domain, Name string
	In, Out          []string
	Attrs            []Attr
}

// External says where a tensor's bytes lie: in a file beside the graph.
type External struct {
	Location       string
	Offset, Length int64
}

// A Tensor is a constant: Raw holds its elements in little-endian order, unless External says where they are.
type Tensor struct {
	Name     string
	Type     DataType
	Dims     []int64
	Raw      []byte
	External *External
}

// A Dim is one dimension of a value: a fixed number, or a name for one that differs from run to run.
// Neither means that nothing is known of it.
type Dim struct {
	Name  string
	Value int64
}

// A Value is an input or output of a graph. Dims is nil if the file doesn't say.
type Value struct {
	Name string
	Type DataType
	Dims []Dim
}

// An Opset is a set of operators and its version. The empty domain is ONNX's own.
type Opset struct {
	Domain  string
	Version int64
}

// A Graph is nodes in the order of their computing, the constants they use, and what goes in and out.
type Graph struct {
	Name            string
	Nodes           []Node
	Initializers    []Tensor
	Inputs, Outputs []Value
}

// A Model is a whole file.
type Model struct {
	IRVersion int64
	Producer  string
	Opsets    []Opset
	Graph     Graph
}

// Field numbers of ModelProto and GraphProto.
const (
	modelIR, modelProducer, modelGraph, modelOpset protowire.Number = 1, 2, 7, 8

	graphNode, graphName, graphInitializer, graphSparse protowire.Number = 1, 2, 5, 15
	graphInput, graphOutput                             protowire.Number = 11, 12
)

// Marshal returns m's protobuf form.
func (m *Model) Marshal() []byte {
	var b []byte
	b = appendInt(b, modelIR, m.IRVersion)
	b = appendString(b, modelProducer, m.Producer)
	b = appendMessage(b, modelGraph, m.Graph.marshal())
	for _, o := range m.Opsets {
		b = appendMessage(b, modelOpset, appendInt(appendString(nil, 1, o.Domain), 2, o.Version))
	}
	return b
}

// marshal leaves the name out if there is none: what is put behind a foreign graph mustn't rename it.
func (g *Graph) marshal() []byte {
	var b []byte
	for _, n := range g.Nodes {
		b = appendMessage(b, graphNode, n.marshal())
	}
	if g.Name != "" {
		b = appendString(b, graphName, g.Name)
	}
	for _, t := range g.Initializers {
		b = appendMessage(b, graphInitializer, t.marshal())
	}
	for _, v := range g.Inputs {
		b = appendMessage(b, graphInput, v.marshal())
	}
	for _, v := range g.Outputs {
		b = appendMessage(b, graphOutput, v.marshal())
	}
	return b
}

// The numbers below are NodeProto's: input 1, output 2, name 3, op_type 4, attribute 5, domain 7.
func (n Node) marshal() []byte {
	var b []byte
	for _, s := range n.In {
		b = appendString(b, 1, s)
	}
	for _, s := range n.Out {
		b = appendString(b, 2, s)
	}
	b = appendString(b, 3, n.Name)
	b = appendString(b, 4, n.Op)
	for _, a := range n.Attrs {
		b = appendMessage(b, 5, a.marshal())
	}
	return appendString(b, 7, n.Domain)
}

// AttributeProto has name 1, f 2, i 3, ints 8 and type 20, which says which of the others to read. Lists
// are written number by number: the schema is proto2, whose lists are not packed.
func (a Attr) marshal() []byte {
	b := appendString(nil, 1, a.name)
	switch a.kind {
	case 1:
		b = protowire.AppendTag(b, 2, protowire.Fixed32Type)
		b = protowire.AppendFixed32(b, math.Float32bits(a.f))
	case 2:
		b = appendInt(b, 3, a.i[0])
	case 7:
		for _, v := range a.i {
			b = appendInt(b, 8, v)
		}
	}
	return appendInt(b, 20, int64(a.kind))
}

// TensorProto has dims 1, data_type 2, name 8, raw_data 9, external_data 13 (key 1, value 2) and
// data_location 14.
func (t Tensor) marshal() []byte {
	var b []byte
	for _, d := range t.Dims {
		b = appendInt(b, 1, d)
	}
	b = appendInt(b, 2, int64(t.Type))
	b = appendString(b, 8, t.Name)
	if t.External == nil {
		return appendMessage(b, 9, t.Raw)
	}
	b = appendEntry(b, "location", t.External.Location)
	b = appendEntry(b, "offset", strconv.FormatInt(t.External.Offset, 10))
	b = appendEntry(b, "length", strconv.FormatInt(t.External.Length, 10))
	return appendInt(b, 14, 1) // data_location: EXTERNAL
}

// ValueInfoProto has name 1 and type 2; TypeProto has tensor_type 1; that has elem_type 1 and shape 2;
// a dimension is dim_value 1 or dim_param 2.
func (v Value) marshal() []byte {
	var shape []byte
	for _, d := range v.Dims {
		dim := appendInt(nil, 1, d.Value)
		if d.Name != "" {
			dim = appendString(nil, 2, d.Name)
		}
		shape = appendMessage(shape, 1, dim)
	}
	tensor := appendInt(nil, 1, int64(v.Type))
	tensor = appendMessage(tensor, 2, shape)
	return appendMessage(appendString(nil, 1, v.Name), 2, appendMessage(nil, 1, tensor))
}

func appendInt(b []byte, num protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendMessage(b []byte, num protowire.Number, msg []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), msg)
}
