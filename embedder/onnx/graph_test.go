package onnx

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestReadPorts(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]ports{
		"counts.onnx": {inputs: []string{inputIDs, inputMask}, output: "embedding", dim: 8},
		"open.onnx":   {inputs: []string{inputIDs, inputMask}, output: "embedding"},
		"types.onnx":  {inputs: []string{inputIDs, inputMask, inputTypes}, output: "embedding", dim: 8},
	} {
		if got, err := readPorts(graphPath(t, name), "embedding"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
}

// TestReadGraphForeign reads graphs that other programs wrote.
func TestReadGraphForeign(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"vespa/dummy_transformer.onnx":                  "input_ids attention_mask token_type_ids > output_0",
		"vespa/dummy_transformer_without_type_ids.onnx": "input_ids attention_mask > output_0",
		"optimum-tiny-distilbert/model.onnx":            "input_ids attention_mask > logits",
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			f, err := os.Open(testkit.Shared(t, "data", "onnx", path))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			g, err := onnxpb.Scan(f, info.Size())
			if err != nil {
				t.Fatal(err)
			}
			if got := names(g.Inputs) + " > " + names(g.Outputs); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func names(ports []onnxpb.Value) string {
	var all []string
	for _, p := range ports {
		all = append(all, p.Name)
	}
	return strings.Join(all, " ")
}

// FuzzReadGraph feeds the reader with anything; it may refuse, but neither crash nor take memory for sizes
// that are only claimed.
func FuzzReadGraph(f *testing.F) {
	for _, name := range []string{"counts.onnx", "open.onnx", "types.onnx", "unpooled.onnx"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte{7<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 11<<3 | 2, 0xff, 0xff, 0x3f})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x.onnx")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := readPorts(path, "embedding"); err == nil && len(p.inputs) < 2 {
			t.Errorf("accepted a graph with inputs %q", p.inputs)
		}
	})
}
