package model

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

// outline writes m's graph and reads its outline.
func outline(t *testing.T, m *Model) (dir string, f *onnxpb.File) {
	t.Helper()
	dir = t.TempDir()
	if err := m.WriteGraph(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	raw := []byte(read(t, filepath.Join(dir, GraphFile)))
	f, err := onnxpb.Scan(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return dir, f
}

// TestGraphOutline checks what a runtime sees of a graph before it runs it.
func TestGraphOutline(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"bert-mean":                "input_ids[batch sequence] attention_mask[batch sequence] -> embedding[batch 64]",
		"variants/bert-all":        "input_ids[batch sequence] attention_mask[batch sequence] -> embedding[batch 80]",
		"foreign/opset11":          "input_ids[batch sequence] attention_mask[batch sequence] token_type_ids[batch sequence] -> embedding[batch 48]",
		"foreign/opset13-external": "input_ids[batch sequence] attention_mask[batch sequence] -> embedding[batch 16]",
	} {
		m := mustOpen(t, filepath.Join("testdata", name), nil)
		_, f := outline(t, m)
		var got strings.Builder
		for _, v := range f.Inputs {
			got.WriteString(v.Name + "[" + strings.Join(shape(v), " ") + "] ")
		}
		for _, v := range f.Outputs {
			got.WriteString("-> " + v.Name + "[" + strings.Join(shape(v), " ") + "]")
		}
		if got.String() != want {
			t.Errorf("%s: graph\n%s\nwant\n%s", name, got.String(), want)
		}
		if types := strings.Contains(want, "token_type_ids"); m.source.tokenTypes() != types {
			t.Errorf("%s: token types %t, want %t", name, m.source.tokenTypes(), types)
		}
	}
}

// TestExternalData looks at the data file: every large constant in it, each at a place that can be mapped,
// and in the one that has the word vectors, their numbers.
func TestExternalData(t *testing.T) {
	t.Parallel()
	m := mustOpen(t, "testdata/bert-mean", nil)
	dir, f := outline(t, m)
	if len(f.Externals) == 0 {
		t.Fatal("no constant lies outside")
	}
	data := []byte(read(t, filepath.Join(dir, dataFile)))
	for _, e := range f.Externals {
		if e.Location != dataFile || e.Offset%alignment != 0 || e.Length < inlineBelow || e.Offset+e.Length > int64(len(data)) {
			t.Errorf("%s lies at %+v of %d bytes", e.Tensor, e.External, len(data))
		}
	}
	if size := len(read(t, filepath.Join(dir, GraphFile))); size > 400<<10 {
		t.Errorf("the graph has %d bytes: large constants are in it", size)
	}
	i := slices.IndexFunc(f.Externals, func(e onnxpb.ExternalTensor) bool { return e.Tensor == "embed/words/table" })
	c := m.source.(*compiledGraph)
	words := make([]float32, c.weights.words.Len())
	r := c.set.NewReader()
	defer r.Close()
	if err := r.Read(words, c.weights.words, 0); err != nil {
		t.Fatal(err)
	}
	if got := floats(data[f.Externals[i].Offset:][:f.Externals[i].Length]); !slices.Equal(got, words) {
		t.Error("the word vectors are not those of the folder")
	}
}

func floats(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

// TestRows streams a table of more than one block, the last not whole, from its fourth row on.
func TestRows(t *testing.T) {
	t.Parallel()
	const width, height, first = 3, 2*block + 5, 4
	tensors, r := counting(t, height*width, width)
	var out bytes.Buffer
	d := rows{t: tensors[0], plus: tensors[1], width: width, first: first}
	if err := d.write(t.Context(), &out, r); err != nil {
		t.Fatal(err)
	}
	got := floats(out.Bytes())
	if len(got) != (height-first)*width {
		t.Fatalf("%d numbers, want %d", len(got), (height-first)*width)
	}
	for i, v := range got {
		if want := float32(first*width + i + i%width); v != want {
			t.Fatalf("number %d is %v, want %v", i, v, want)
		}
	}
}

// TestTransposed puts two matrices of 70 x 33 and 35 x 33 side by side, larger than a square of the copy.
func TestTransposed(t *testing.T) {
	t.Parallel()
	const in = 33
	tensors, r := counting(t, 70*in, 35*in)
	tensors[0].Shape, tensors[1].Shape = []int{70, in}, []int{35, in}
	var out bytes.Buffer
	if err := (transposed{tensors[0], tensors[1]}).write(t.Context(), &out, r); err != nil {
		t.Fatal(err)
	}
	for i, v := range floats(out.Bytes()) {
		row, column := i/105, i%105
		want := float32(column*in + row)
		if column >= 70 {
			want = float32((column-70)*in + row)
		}
		if v != want {
			t.Fatalf("row %d, column %d is %v, want %v", row, column, v, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (transposed{tensors[0]}).write(ctx, &out, r); err == nil {
		t.Error("went on after the end of its context")
	}
}

// counting returns tensors of these lengths in one file, each of the numbers 0, 1, 2, ...
func counting(t *testing.T, lengths ...int) ([]checkpoint.Tensor, *checkpoint.Reader) {
	t.Helper()
	var data []byte
	var tensors []checkpoint.Tensor
	for _, n := range lengths {
		tensors = append(tensors, checkpoint.Tensor{
			Name: "x", File: "data", DType: checkpoint.F32, Shape: []int{n}, Offset: int64(len(data)), Size: int64(4 * n),
		})
		for i := range n {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(i)))
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	r := (&checkpoint.Set{Dir: dir}).NewReader()
	t.Cleanup(func() { r.Close() })
	return tensors, r
}

// TestForeignDataIsLinked demands that weights beside a foreign graph are not doubled where the file system
// can give a file two names, also behind the links of the Hugging Face cache.
func TestForeignDataIsLinked(t *testing.T) {
	t.Parallel()
	dir := copyOf(t, "foreign/opset13-external", func(t *testing.T, dir string) {
		t.Helper()
		table, blob := filepath.Join(dir, "onnx/weights/table.bin"), filepath.Join(dir, "blob")
		if err := os.Rename(table, blob); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(blob, table); err != nil {
			t.Fatal(err)
		}
	})
	out, _ := outline(t, mustOpen(t, dir, nil))
	a, err := os.Stat(filepath.Join(dir, "blob"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Lstat(filepath.Join(out, "weights/table.bin"))
	if err != nil || !os.SameFile(a, b) {
		t.Errorf("the data is not the same file (%v)", err)
	}
}
