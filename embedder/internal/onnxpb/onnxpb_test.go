package onnxpb

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// small is a model with one of everything that we write.
func small() *Model {
	return &Model{
		IRVersion: 8, Producer: "test",
		Opsets: []Opset{{Version: 17}, {Domain: "com.microsoft", Version: 1}},
		Graph: Graph{
			Name: "g",
			Nodes: []Node{
				{Op: "Gather", Name: "n1", In: []string{"table", "ids"}, Out: []string{"x"}, Attrs: []Attr{Int("axis", -1)}},
				{Op: "Gelu", Domain: "com.microsoft", Name: "n2", In: []string{"x", ""}, Out: []string{"y"}, Attrs: []Attr{Float("eps", 0.5), Ints("axes", 1, -2)}},
			},
			Initializers: []Tensor{
				{Name: "table", Type: Float32, Dims: []int64{3, 2}, External: &External{Location: "w.bin", Offset: 65536, Length: 24}},
				{Name: "one", Type: Int64, Raw: []byte{1, 0, 0, 0, 0, 0, 0, 0}},
			},
			Inputs:  []Value{{Name: "ids", Type: Int64, Dims: []Dim{{Name: "batch"}, {Name: "sequence"}}}},
			Outputs: []Value{{Name: "y", Type: Float32, Dims: []Dim{{Name: "batch"}, {Value: 2}}}},
		},
	}
}

func scan(b []byte) (*File, error) { return Scan(bytes.NewReader(b), int64(len(b))) }

func TestScanReadsWhatMarshalWrote(t *testing.T) {
	t.Parallel()
	m := small()
	f, err := scan(m.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, got, want any }{
		{"opsets", f.Opsets, m.Opsets},
		{"inputs", f.Inputs, m.Graph.Inputs},
		{"outputs", f.Outputs, m.Graph.Outputs},
		{"externals", f.Externals, []ExternalTensor{{"table", *m.Graph.Initializers[0].External}}},
		{"opset", f.Opset(), int64(17)},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.what, c.got, c.want)
		}
	}
}

// TestNodesReadBack decodes nodes and constants by the schema's field numbers, without the writer's help.
func TestNodesReadBack(t *testing.T) {
	t.Parallel()
	var nodes, tensors []string
	walk(t, small().Marshal(), func(num protowire.Number, _ uint64, graph []byte) {
		if num != 7 {
			return
		}
		walk(t, graph, func(num protowire.Number, _ uint64, msg []byte) {
			switch num {
			case 1:
				nodes = append(nodes, fields(t, msg))
			case 5:
				tensors = append(tensors, fields(t, msg))
			}
		})
	})
	wantNodes := []string{
		`1:"table" 1:"ids" 2:"x" 3:"n1" 4:"Gather" 5:(1:"axis" 3:18446744073709551615 20:2) 7:"" `,
		`1:"x" 1:"" 2:"y" 3:"n2" 4:"Gelu" 5:(1:"eps" 2:0x3f000000 20:1) 5:(1:"axes" 8:1 8:18446744073709551614 20:7) 7:"com.microsoft" `,
	}
	if !slices.Equal(nodes, wantNodes) {
		t.Errorf("nodes\n%q\nwant\n%q", nodes, wantNodes)
	}
	wantTensors := []string{
		`1:3 1:2 2:1 8:"table" 13:(1:"location" 2:"w.bin") 13:(1:"offset" 2:"65536") 13:(1:"length" 2:"24") 14:1 `,
		`2:7 8:"one" 9:"\x01\x00\x00\x00\x00\x00\x00\x00" `,
	}
	if !slices.Equal(tensors, wantTensors) {
		t.Errorf("constants\n%q\nwant\n%q", tensors, wantTensors)
	}
}

// walk visits the fields of a message with protowire alone.
func walk(t *testing.T, b []byte, visit func(num protowire.Number, v uint64, msg []byte)) {
	t.Helper()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		var v uint64
		var msg []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var v32 uint32
			v32, n = protowire.ConsumeFixed32(b)
			v, msg = uint64(v32), []byte{}
		case protowire.BytesType:
			msg, n = protowire.ConsumeBytes(b)
		default:
			t.Fatalf("field %d has wire type %d", num, typ)
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		visit(num, v, msg)
		b = b[n:]
	}
}

// fields prints a message; an attribute or an entry (fields 5 and 13) is printed as a message within.
func fields(t *testing.T, b []byte) string {
	t.Helper()
	var s strings.Builder
	walk(t, b, func(num protowire.Number, v uint64, msg []byte) {
		switch {
		case num == 5 || num == 13:
			fmt.Fprintf(&s, "%d:(%s) ", num, strings.TrimSpace(fields(t, msg)))
		case msg != nil && v != 0:
			fmt.Fprintf(&s, "%d:%#x ", num, v)
		case msg != nil:
			fmt.Fprintf(&s, "%d:%q ", num, msg)
		default:
			fmt.Fprintf(&s, "%d:%d ", num, v)
		}
	})
	return s.String()
}

func TestWriteWith(t *testing.T) {
	t.Parallel()
	f, err := scan(small().Marshal())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = f.WriteWith(&out, Graph{
		Nodes:        []Node{{Op: "Identity", Name: "last", In: []string{"y"}, Out: []string{"z"}}},
		Initializers: []Tensor{{Name: "more", Type: Float32, External: &External{Location: "m.bin"}}},
		Outputs:      []Value{{Name: "z", Type: Float32}},
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := scan(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Outputs) != 1 || g.Outputs[0].Name != "z" {
		t.Errorf("outputs %+v, want only z", g.Outputs)
	}
	if !reflect.DeepEqual(g.Inputs, f.Inputs) || !reflect.DeepEqual(g.Opsets, f.Opsets) {
		t.Errorf("inputs %+v and opsets %+v, want those of before", g.Inputs, g.Opsets)
	}
	if n := len(g.Externals); n != 2 {
		t.Errorf("%d external tensors, want 2", n)
	}
	if !bytes.Contains(out.Bytes(), []byte("Identity")) || bytes.Count(out.Bytes(), []byte("Gelu")) != 1 {
		t.Error("the nodes are not those of before and the new one")
	}
}

// TestScanFindsHiddenTensors looks for external data where a careless reader doesn't: in a node's attribute
// and in a graph within a node.
func TestScanFindsHiddenTensors(t *testing.T) {
	t.Parallel()
	tensor := func(name string) []byte {
		return Tensor{Name: name, Type: Float32, External: &External{Location: "../" + name}}.marshal()
	}
	inner := appendMessage(nil, graphInitializer, tensor("inner"))
	inner = appendMessage(inner, graphInput, Value{Name: "not ours"}.marshal())
	node := appendMessage(nil, 5, appendMessage(nil, 6, inner))          // an If's branch
	node = appendMessage(node, 5, appendMessage(nil, 5, tensor("attr"))) // a Constant's value
	sparse := appendMessage(appendMessage(nil, 1, tensor("values")), 2, tensor("indices"))
	graph := appendMessage(appendMessage(nil, graphNode, node), graphSparse, sparse)
	f, err := scan(appendMessage(nil, modelGraph, graph))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range f.Externals {
		got = append(got, e.Tensor+" "+e.Location)
	}
	if want := []string{"inner ../inner", "attr ../attr", "values ../values", "indices ../indices"}; !slices.Equal(got, want) {
		t.Errorf("external tensors %q, want %q", got, want)
	}
	if len(f.Inputs) != 0 {
		t.Errorf("inputs %+v, want none: they belong to a graph within", f.Inputs)
	}
}

func TestScanLeavesOutConstantInputs(t *testing.T) {
	t.Parallel()
	m := small()
	m.Graph.Inputs = append(m.Graph.Inputs, Value{Name: "table", Type: Float32}) // usual before IR version 4
	f, err := scan(m.Marshal())
	if err != nil || len(f.Inputs) != 1 || f.Inputs[0].Name != "ids" {
		t.Errorf("inputs %+v, %v, want only ids", f.Inputs, err)
	}
}

func TestScanRefuses(t *testing.T) {
	t.Parallel()
	whole := small().Marshal()
	deep := []byte{}
	for range maxDepth + 2 {
		deep = appendMessage(nil, graphNode, appendMessage(nil, 5, appendMessage(nil, 6, deep)))
	}
	for name, tc := range map[string]struct {
		file []byte
		want string
	}{
		"empty":       {nil, "no graph"},
		"text":        {[]byte("hello, this is not a graph"), "byte"},
		"cut":         {whole[:len(whole)-40], "cut short"},
		"two graphs":  {slices.Concat(whole, whole), "more than one graph"},
		"no message":  {appendInt(nil, modelGraph, 3), "no graph"},
		"deep":        {appendMessage(nil, modelGraph, deep), "nested deeper"},
		"bad offset":  {appendMessage(nil, modelGraph, appendMessage(nil, graphInitializer, Tensor{External: &External{Offset: -1}}.marshal())), `impossible offset "-1"`},
		"big message": {appendMessage(nil, modelGraph, appendMessage(nil, graphInput, make([]byte, maxSmall+1))), "at most"},
	} {
		if _, err := scan(tc.file); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
}

// FuzzScan demands that what was accepted can be written again and read with the same outcome.
func FuzzScan(f *testing.F) {
	f.Add(small().Marshal())
	f.Add(appendMessage(nil, modelGraph, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := scan(b)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := file.WriteWith(&out, Graph{Outputs: []Value{{Name: "new", Type: Float32}}}); err != nil {
			t.Fatal(err)
		}
		again, err := scan(out.Bytes())
		if err != nil {
			t.Fatalf("reading what was written: %v", err)
		}
		if !reflect.DeepEqual(again.Inputs, file.Inputs) || !reflect.DeepEqual(again.Externals, file.Externals) {
			t.Errorf("%+v became %+v", file, again)
		}
		if len(again.Outputs) != 1 || again.Outputs[0].Name != "new" {
			t.Errorf("outputs %+v, want only the new one", again.Outputs)
		}
	})
}
