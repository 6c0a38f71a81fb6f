package onnx

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

const (
	packedWidth = 32 // of the test's network
	packedVocab = 50
)

// A packedGraph is one layer of our operators between a table and a mean, with places to damage it. All constants are
// small numbers that tell rows and columns apart.
type packedGraph struct {
	heads     int64
	biasWidth int64 // of the attention's input
	mask      string
	rows      string // what goes into the feed-forward layer
	opset     []onnxpb.Opset
}

func newPackedGraph() packedGraph {
	return packedGraph{
		heads: 2, biasWidth: 3 * packedWidth, mask: inputMask, rows: "attended",
		opset: []onnxpb.Opset{{Version: 17}, {Domain: OperatorDomain, Version: 1}},
	}
}

func constant(name string, dims ...int64) onnxpb.Tensor {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	t := onnxpb.Tensor{Name: name, Type: onnxpb.Float32, Dims: dims}
	for i := range n {
		t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(float32(math.Sin(float64(i)))/8))
	}
	return t
}

// write writes the graph and returns its path.
func (g packedGraph) write(t *testing.T) string {
	t.Helper()
	const w = packedWidth
	node := func(op, domain string, out []string, attrs []onnxpb.Attr, in ...string) onnxpb.Node {
		return onnxpb.Node{Op: op, Domain: domain, Name: out[0], In: in, Out: out, Attrs: attrs}
	}
	own := func(op string, out []string, attrs []onnxpb.Attr, in ...string) onnxpb.Node {
		return node(op, OperatorDomain, out, attrs, in...)
	}
	epsilon := onnxpb.Float("epsilon", 1e-12)
	input := func(name string) onnxpb.Value {
		return onnxpb.Value{Name: name, Type: onnxpb.Int64, Dims: []onnxpb.Dim{{Name: "b"}, {Name: "s"}}}
	}
	m := onnxpb.Model{IRVersion: 8, Opsets: g.opset, Graph: onnxpb.Graph{
		Name: "packed",
		Nodes: []onnxpb.Node{
			node("Gather", "", []string{"words"}, nil, "table", inputIDs),
			node("Sub", "", []string{"turned"}, nil, "one", inputMask), // 0 for tokens
			own("Pack", []string{"packed", "lengths"}, nil, "words", g.mask),
			own("SelfAttention", []string{"attended"}, []onnxpb.Attr{onnxpb.Int("heads", g.heads), epsilon},
				"packed", "lengths", "in", "in bias", "out", "out bias", "scale", "shift"),
			own("FeedForward", []string{"fed"}, []onnxpb.Attr{onnxpb.Int("relu", 0), epsilon},
				g.rows, "up", "up bias", "down", "down bias", "scale", "shift"),
			own("Unpack", []string{"unpacked"}, nil, "fed", "lengths", inputMask),
			node("ReduceSum", "", []string{"embedding"}, []onnxpb.Attr{onnxpb.Int("keepdims", 0)}, "unpacked", "axes"),
		},
		Initializers: []onnxpb.Tensor{
			constant("table", packedVocab, w), constant("in", 3, w, 32), constant("in bias", g.biasWidth), constant("out", 1, w, 32), constant("out bias", w),
			constant("up", 2, w, 32), constant("up bias", 2*w), constant("down", 1, 2*w, 32), constant("down bias", w),
			constant("scale", w), constant("shift", w), constant("wide", 4, 64),
			{Name: "one", Type: onnxpb.Int64, Raw: binary.LittleEndian.AppendUint64(nil, 1)},
			{Name: "axes", Type: onnxpb.Int64, Dims: []int64{1}, Raw: binary.LittleEndian.AppendUint64(nil, 1)},
		},
		Inputs: []onnxpb.Value{input(inputIDs), input(inputMask)},
		Outputs: []onnxpb.Value{{
			Name: "embedding", Type: onnxpb.Float32, Dims: []onnxpb.Dim{{Name: "b"}, {Value: packedWidth}},
		}},
	}}
	path := filepath.Join(t.TempDir(), "packed.onnx")
	if err := os.WriteFile(path, m.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var packedOptions = Options{VocabSize: packedVocab, MaxTokens: 600}

func withOperators(t *testing.T) *Runtime {
	t.Helper()
	if !HasOperators() {
		t.Skip("no operators of our own for this processor")
	}
	return start(t)
}

func packedRow(tokens, seed int) []int32 {
	row := make([]int32, tokens)
	for i := range row {
		row[i] = int32((i*7 + seed) % packedVocab)
	}
	return row
}

// TestOperators runs texts together on several of the runtime's threads and prepacked, with always the same bits, and
// alone and at once.
func TestOperators(t *testing.T) {
	rt := withOperators(t)
	path := newPackedGraph().write(t)
	prepared := Prepared{Dir: filepath.Join(t.TempDir(), "prepared"), Source: "test"}
	if err := rt.Prepack(t.Context(), File(path), "", prepared); err != nil {
		t.Fatal(err)
	}
	lengths := []int{500, 169, 90, 40, 17, 16, 15, 3, 2, 1}
	var rows [][]int32
	for i, n := range lengths {
		rows = append(rows, packedRow(n, i))
	}
	var want [][]float32
	for name, change := range map[string]func(*Options){
		"1 plain":     func(*Options) {},
		"2 threads":   func(o *Options) { o.Threads = 2 },
		"3 prepacked": func(o *Options) { o.Prepared = prepared },
	} {
		opts := packedOptions
		change(&opts)
		s, err := rt.Open(t.Context(), path, opts)
		if err != nil {
			t.Fatal(err)
		}
		if s.Prepared() != (opts.Prepared.Dir != "") {
			t.Errorf("%s: prepared is %v", name, s.Prepared())
		}
		got, err := s.Run(t.Context(), embedder.Batch{Rows: rows})
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			for _, v := range got {
				want = append(want, v)
			}
		}
		var alone sync.WaitGroup
		for i := range rows {
			if !slices.Equal(got[i], want[i]) {
				t.Errorf("%s: row %d of %d tokens differs from another session's", name, i, lengths[i])
			}
			alone.Go(func() {
				v, err := s.Run(t.Context(), embedder.Batch{Rows: rows[i : i+1]})
				// The sum over tokens is the runtime's, which adds in another order when there is padding.
				if err != nil || apart(v[0], want[i]) > 1e-5+1e-6*float64(lengths[i]) {
					t.Errorf("%s: row %d alone: %v, off by %v", name, i, err, apart(v[0], want[i]))
				}
			})
		}
		alone.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func apart(a, b []float32) (worst float64) {
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i]-b[i])))
	}
	return worst
}

// TestOperatorsRefuse damages the graph. Each fault is an error of that run or that load: nothing is read outside of a
// tensor.
func TestOperatorsRefuse(t *testing.T) {
	rt := withOperators(t)
	for name, tt := range map[string]struct {
		damage func(*packedGraph)
		want   string
	}{
		"a bias too short":         {func(g *packedGraph) { g.biasWidth = 3*packedWidth - 1 }, "SelfAttention: the inputs' shapes do not fit"},
		"heads that don't divide":  {func(g *packedGraph) { g.heads = 3 }, "SelfAttention: the inputs' shapes do not fit"},
		"no heads":                 {func(g *packedGraph) { g.heads = 0 }, "SelfAttention: the inputs' shapes do not fit"},
		"a mask turned round":      {func(g *packedGraph) { g.mask = "turned" }, "Pack: the mask has tokens behind padding"},
		"rows of another width":    {func(g *packedGraph) { g.rows = "wide" }, "FeedForward: the inputs' shapes do not fit"},
		"more rows than lengths":   {func(g *packedGraph) { g.rows = "out bias as rows" }, "out bias as rows"},
		"an unknown version of it": {func(g *packedGraph) { g.opset[1].Version = 0 }, "Pack"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newPackedGraph()
			tt.damage(&g)
			s, err := rt.Open(t.Context(), g.write(t), packedOptions)
			if err == nil {
				_, err = s.Run(t.Context(), embedder.Batch{Rows: [][]int32{packedRow(9, 1), packedRow(4, 2)}})
				err = errors.Join(err, s.Close())
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
