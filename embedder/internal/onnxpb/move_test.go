package onnxpb

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// outside is a graph with constants outside of it at every depth that there is, one with prepacked forms.
func outside(prepacked string) []byte {
	at := func(name string, offset int64) Tensor {
		return Tensor{Name: name, Type: Float32, Dims: []int64{2}, External: &External{Location: "d", Offset: offset, Length: 8}}
	}
	inner := Graph{Name: "inner", Initializers: []Tensor{at("b", 8)}}
	m := Model{IRVersion: 8, Graph: Graph{Name: "g", Initializers: []Tensor{at("a", 0), {Name: "in", Type: Float32, Raw: []byte("12345678")}}}}
	graph := m.Graph.marshal()
	// An If with a branch, as Attr can't make it: type 5 is a graph, in field 6.
	branch := appendInt(appendMessage(appendString(nil, 1, "then_branch"), 6, inner.marshal()), 20, 5)
	graph = appendMessage(graph, graphNode, appendMessage(appendString(nil, 4, "If"), 5, branch))
	w := at("c", 16)
	graph = appendMessage(graph, graphInitializer, appendEntry(w.marshal(), "prepacked_0", prepacked))
	return appendMessage(appendInt(nil, modelIR, 8), modelGraph, graph)
}

func TestMove(t *testing.T) {
	t.Parallel()
	var seen []Span
	moved, err := Move(outside("+MatMul+77|24;8;0;32;16;0"), func(s Span) (Span, error) {
		seen = append(seen, s)
		return Span{Offset: s.Offset * 100, Length: s.Length}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var again []Span
	if _, err := Move(moved, func(s Span) (Span, error) { again = append(again, s); return s, nil }); err != nil {
		t.Fatal(err)
	}
	for i, want := range []Span{{0, 8}, {8, 8}, {24, 8}, {32, 16}, {16, 8}} {
		if i >= len(seen) || i >= len(again) || seen[i] != want || again[i] != (Span{want.Offset * 100, want.Length}) {
			t.Fatalf("place %d: %v, then %v, want %v and its offset a hundredfold", i, seen, again, want)
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d places, want 5: %v", len(seen), seen)
	}
	f, err := Scan(bytes.NewReader(moved), int64(len(moved)))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Externals) != 3 || f.Externals[2].Offset != 1600 {
		t.Errorf("constants %+v, want three, the last at 1600", f.Externals)
	}
	if !bytes.Contains(moved, []byte("12345678")) || !bytes.Contains(moved, []byte("+MatMul+77|2400;8;0;3200;16;0")) {
		t.Error("what lies inside, or the kernel's name, was not kept")
	}
}

func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	same := func(s Span) (Span, error) { return s, nil }
	for _, prepacked := range []string{"", "MatMul", "MatMul|", "MatMul|1;2", "MatMul|x;2;3", "MatMul|1;y;3", "|1;2;3;4"} {
		if _, err := Move(outside(prepacked), same); err == nil || !strings.Contains(err.Error(), "prepacked form") {
			t.Errorf("%q: %v, want it refused as a prepacked form", prepacked, err)
		}
	}
	b := outside("k|0;1;0")
	if _, err := Move(b[:len(b)-3], same); err == nil {
		t.Error("a graph that was cut short was read")
	}
	full := errors.New("full")
	if _, err := Move(b, func(s Span) (Span, error) { return s, full }); !errors.Is(err, full) {
		t.Errorf("err = %v, want move's own", err)
	}
}

// FuzzMove: whatever the bytes, an error or a graph with the same places.
func FuzzMove(f *testing.F) {
	f.Add(outside("k|24;8;0"))
	f.Add([]byte{0x3a, 0x02, 0x2a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second []Span
		out, err := Move(b, func(s Span) (Span, error) { first = append(first, s); return s, nil })
		if err != nil {
			return
		}
		if _, err := Move(out, func(s Span) (Span, error) { second = append(second, s); return s, nil }); err != nil || len(first) != len(second) {
			t.Errorf("%d places, then %d, %v", len(first), len(second), err)
		}
	})
}
