package model_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
	"github.com/embedfleet/embedfleet/embedder/model"
	"github.com/embedfleet/embedfleet/embedder/onnx"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

var (
	shapes     = flag.Int("shapes", 7, "random shapes of TestShapes")
	shapesSeed = flag.Uint64("shapes-seed", 1, "first seed of TestShapes")
	shapeChild = flag.Bool("shape-child", false, "be the child of TestShapes")
)

// A networkShape is a network's sizes; of a BERT, or of the architecture whose config.json more completes.
type networkShape struct {
	hidden, heads, inner, layers, vocab, positions int
	more                                           string
}

// known are shapes that crashed in the runtime when tensors lay where the one before ended, and those around them.
var known = []networkShape{
	{264, 4, 264, 1, 128, 64, ""}, // cases/models/segv-hidden-264
	{312, 12, 600, 3, 83, 40, ""}, // rubert-tiny2
	{312, 12, 1200, 1, 211, 40, ""},
	{256, 4, 1000, 1, 61, 16, ""},
	{8, 1, 8, 1, 5, 2, ""}, // no tensor of a kilobyte
	{10, 2, 17, 2, 997, 16, ""},
	{1100, 11, 1099, 1, 67, 16, ""},
}

// architectures complete the config.json of a random shape; in them, H stands for the width of a head.
var architectures = []string{
	`"model_type":"bert"`,
	`"model_type":"roberta","pad_token_id":0`,
	`"model_type":"distilbert"`,
	`"model_type":"electra","embedding_size":21,"hidden_act":"relu"`,
	`"model_type":"albert","embedding_size":19,"hidden_act":"gelu_new"`,
	`"model_type":"mpnet","pad_token_id":0`,
	`"model_type":"deberta-v2","relative_attention":true,"share_att_key":true,"norm_rel_ebd":"layer_norm","position_buckets":6,
		"pos_att_type":["c2p","p2c"],"position_biased_input":false`,
	`"model_type":"modernbert","local_attention":9,"global_attn_every_n_layers":2`,
	`"model_type":"gte"`,
	`"model_type":"nomic_bert","hidden_act":"silu"`,
	`"model_type":"jina_embeddings_v3"`,
	`"model_type":"eurobert","hidden_act":"silu","num_key_value_heads":1`,
	`"model_type":"qwen3","hidden_act":"silu","num_key_value_heads":1,"head_dim":26`,
	`"model_type":"gemma3_text","hidden_activation":"gelu_pytorch_tanh","num_key_value_heads":1,"head_dim":14,"sliding_window":7,
		"sliding_window_pattern":2,"query_pre_attn_scalar":11,"use_bidirectional_attention":true`,
}

// TestShapes runs models of odd and random shapes in a child process: a crash of native code must end the child,
// not the test, and be told with the shape. -shapes and -shapes-seed look further.
func TestShapes(t *testing.T) {
	testkit.ONNXRuntime(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestShapeChild$", "-test.v", "-shape-child",
		fmt.Sprint("-shapes=", *shapes), fmt.Sprint("-shapes-seed=", *shapesSeed))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		at := strings.LastIndex(out.String(), "shape ")
		t.Fatalf("%v in\n%.2000s", err, out.String()[max(0, at):])
	}
	if n := strings.Count(out.String(), "shape "); n < len(known)+*shapes {
		t.Errorf("%d shapes were run, want %d:\n%s", n, len(known)+*shapes, out.String())
	}
}

// TestShapeChild is what TestShapes runs.
func TestShapeChild(t *testing.T) {
	if !*shapeChild {
		t.Skip("only below TestShapes")
	}
	rt, err := onnx.Init(testkit.ONNXRuntime(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, n := range known {
		fmt.Printf("shape %+v\n", n)
		t.Run(fmt.Sprintf("%+v", n), func(t *testing.T) { n.run(t, rt, rand.New(rand.NewPCG(uint64(i), 0))) })
	}
	for seed := *shapesSeed; seed < *shapesSeed+uint64(*shapes); seed++ {
		r := rand.New(rand.NewPCG(seed, 1))
		n := networkShape{heads: 1 + r.IntN(12), inner: 8 + r.IntN(1200), layers: 1 + r.IntN(3), vocab: 5 + r.IntN(900), positions: 3 + r.IntN(60)}
		n.hidden = n.heads * 2 * max(1, (8+r.IntN(1093))/n.heads/2) // rotations want heads of even width
		n.more = architectures[seed%uint64(len(architectures))]
		fmt.Printf("shape %+v of seed %d\n", n, seed)
		t.Run(fmt.Sprintf("%+v", n), func(t *testing.T) { n.run(t, rt, r) })
	}
}

// run compares both kinds of our graph and a foreign one, each prepacked and plain.
func (n networkShape) run(t *testing.T, rt *onnx.Runtime, r *rand.Rand) {
	dir := n.write(t, r)
	var rows [][]int32
	for range 3 {
		row := make([]int32, 1+r.IntN(n.positions-1)) // of some the first position is for padding
		for i := range row {
			row[i] = 1 + r.Int32N(int32(n.vocab-1))
		}
		rows = append(rows, row)
	}
	var want []vector.Vector
	compare := func(what string, dir string, kernels model.Kernels) {
		m, err := model.Open(t.Context(), dir, &model.Options{Kernels: kernels})
		if err != nil {
			t.Fatal(what, err)
		}
		p, err := m.Prepare(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(what, err)
		}
		opts := onnx.Options{VocabSize: n.vocab, MaxTokens: m.MaxTokens, Dim: m.Dim}
		prepared := opts
		prepared.Prepared = onnx.Prepared{Dir: filepath.Join(t.TempDir(), "prepared"), Source: what}
		if err := rt.Prepack(t.Context(), onnx.File(p.Graph), "", prepared.Prepared); err != nil {
			t.Fatal(what, err)
		}
		for _, o := range []onnx.Options{opts, prepared} {
			s, err := rt.Open(t.Context(), p.Graph, o)
			if err != nil {
				t.Fatal(what, err)
			}
			if s.Prepared() != (o.Prepared.Dir != "") {
				t.Errorf("%s: prepared %t", what, s.Prepared())
			}
			got := run(t, s, rows...)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if want == nil {
				want = got
			}
			for i := range got {
				near(t, what, i, got[i], want[i])
			}
		}
	}
	compare("standard", dir, model.Standard)
	if onnx.HasOperators() {
		compare("avx512", dir, model.AVX512)
	}
	compare("foreign", foreignOf(t, dir), model.Standard)
}

// foreignOf makes a folder with an exported graph of a folder's model, whose weights lie wherever the one before
// ended, as exporters place them.
func foreignOf(t *testing.T, dir string) string {
	t.Helper()
	m, err := model.Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, written := t.TempDir(), t.TempDir()
	if err := m.WriteGraph(t.Context(), written); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(written, model.GraphFile))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(written, "graph.onnx_data"))
	if err != nil {
		t.Fatal(err)
	}
	packed := []byte{1, 2, 3, 4} // a header, as some formats have: nothing is aligned to more than 4 bytes
	b, err = onnxpb.Move(b, func(s onnxpb.Span) (onnxpb.Span, error) {
		from := s.Offset
		s.Offset = int64(len(packed))
		packed = append(packed, data[from:from+s.Length]...)
		return s, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.ReplaceAll(b, []byte("embedding"), []byte("its_first")) // the name is ours for what comes behind
	f, err := onnxpb.Scan(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var graph bytes.Buffer
	err = f.WriteWith(&graph, onnxpb.Graph{
		Nodes:   []onnxpb.Node{{Op: "Identity", Name: "out", In: []string{"its_first"}, Out: []string{"sentence_embedding"}}},
		Outputs: []onnxpb.Value{{Name: "sentence_embedding", Type: onnxpb.Float32, Dims: []onnxpb.Dim{{Name: "batch"}, {Value: int64(m.Dim)}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, out, "model.onnx", bytes.ReplaceAll(graph.Bytes(), []byte("graph.onnx_data"), []byte("exporter_data_x")))
	put(t, out, "exporter_data_x", packed)
	if err := os.Remove(filepath.Join(out, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	return out
}

// write makes a folder of this shape with random weights.
func (n networkShape) write(t *testing.T, r *rand.Rand) string {
	t.Helper()
	dir := t.TempDir()
	more := n.more
	if more == "" {
		more = `"model_type":"bert"`
	}
	config := fmt.Appendf(nil, `{"hidden_size":%d,"num_attention_heads":%d,"intermediate_size":%d,"num_hidden_layers":%d,"vocab_size":%d,
		"max_position_embeddings":%d,%s}`, n.hidden, n.heads, n.inner, n.layers, n.vocab, n.positions, more)
	put(t, dir, "config.json", config)
	put(t, dir, "vocab.txt", []byte("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"))
	wishes, err := model.Wishes(config)
	if err != nil {
		t.Fatal(err)
	}
	w := tensors{r: r}
	for _, wish := range wishes {
		w.add(wish.Name, wish.Shape...)
	}
	put(t, dir, "model.safetensors", w.file(t))
	return dir
}

func put(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tensors collects random tensors for a safetensors file.
type tensors struct {
	r      *rand.Rand
	header []string
	data   []byte
}

func (w *tensors) add(name string, shape ...int) {
	n, scale := 1, 1.0
	for _, d := range shape {
		n *= d
	}
	if len(shape) == 2 {
		scale = 1 / math.Sqrt(float64(shape[1]))
	} else {
		scale = 0.3
	}
	from := len(w.data)
	for range n {
		w.data = binary.LittleEndian.AppendUint32(w.data, math.Float32bits(float32(scale*w.r.NormFloat64())))
	}
	dims := strings.Join(strings.Fields(fmt.Sprint(shape)), ",")
	w.header = append(w.header, fmt.Sprintf(`%q:{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}`, name, dims, from, len(w.data)))
}

func (w *tensors) file(t *testing.T) []byte {
	t.Helper()
	header := "{" + strings.Join(w.header, ",") + "}"
	return slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), []byte(header), w.data)
}
