package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

// A step is a module behind the pooling: a normalisation or a dense layer.
type step struct {
	normalize bool
	dense     *dense
}

// A dense is a Dense module: y = f(x Wᵀ + b).
type dense struct {
	dir     string // relative to the folder
	in, out int
	tanh    bool
	layer   linear
	set     *checkpoint.Set
}

// denseConfig is N_Dense/config.json.
type denseConfig struct {
	In         int     `json:"in_features"`
	Out        int     `json:"out_features"`
	Bias       *bool   `json:"bias"`
	Activation *string `json:"activation_function"`
	Input      string  `json:"module_input_name"`
	Output     string  `json:"module_output_name"`
}

// readDense reads a Dense module and finds its weights, linear.weight and linear.bias. What its configuration leaves
// open is as in sentence-transformers: a bias, and tanh.
func readDense(d folder, dir string) (*dense, error) {
	name := path.Join(dir, "config.json")
	var c denseConfig
	found, err := d.read(name, &c)
	if err != nil {
		return nil, err
	}
	const sentence = "sentence_embedding"
	g := &dense{dir: dir, in: c.In, out: c.Out, tanh: true}
	switch {
	case !found:
		return nil, fmt.Errorf("%s is missing", name)
	case c.In < 1 || c.Out < 1 || c.In > 1<<20 || c.Out > 1<<20:
		return nil, fmt.Errorf("%s: in_features %d or out_features %d is out of range", name, c.In, c.Out)
	case c.Input != "" && c.Input != sentence, c.Output != "" && c.Output != sentence:
		return nil, fmt.Errorf("%s: from %.60q to %.60q: only %s is known", name, c.Input, c.Output, sentence)
	}
	if c.Activation != nil {
		switch class := (*c.Activation)[strings.LastIndexByte(*c.Activation, '.')+1:]; class {
		case "Tanh":
		case "Identity":
			g.tanh = false
		default:
			return nil, fmt.Errorf("%s: activation_function %.100q is neither Tanh nor Identity", name, *c.Activation)
		}
	}
	g.set, err = checkpoint.Find(d.path(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s has no weights: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	f := newFinder(g.set, network{}, names{})
	g.layer = f.linear("linear", c.Out, c.In, biasIf(c.Bias == nil || *c.Bias))
	if f.err != nil {
		return nil, fmt.Errorf("%s: %w", dir, f.err)
	}
	return g, nil
}

// files names the weights, relative to the folder.
func (g *dense) files() (names []string) {
	for _, name := range g.set.Files {
		names = append(names, path.Join(g.dir, name))
	}
	return names
}

// emit adds the layer. Its constants lie inside the graph, foreign or not: they are small beside a network.
func (g *dense) emit(ctx context.Context, b *builder, name, x string) (_ string, err error) {
	r := g.set.NewReader()
	defer finish(&err, r.Close)
	weight, err := b.tensor(ctx, r, name+"/weight", transposed{g.layer.weight}, g.in, g.out)
	if err != nil {
		return "", err
	}
	x = b.node(name+"/product", "MatMul", []string{x, weight})
	if g.layer.bias.Name != "" {
		bias, err := b.tensor(ctx, r, name+"/bias", joined{g.layer.bias}, g.out)
		if err != nil {
			return "", err
		}
		x = b.node(name+"/sum", "Add", []string{x, bias})
	}
	if g.tanh {
		x = b.node(name+"/tanh", "Tanh", []string{x})
	}
	return x, nil
}

// tensor adds a constant that lies inside the graph.
func (b *builder) tensor(ctx context.Context, r *checkpoint.Reader, name string, d data, dims ...int) (string, error) {
	var raw bytes.Buffer
	if err := d.write(ctx, &raw, r); err != nil {
		return "", err
	}
	t := onnxpb.Tensor{Name: b.scope + name, Type: onnxpb.Float32, Raw: raw.Bytes()}
	for _, d := range dims {
		t.Dims = append(t.Dims, int64(d))
	}
	b.graph.Initializers = append(b.graph.Initializers, t)
	return t.Name, nil
}

// String names what the weights alone don't say.
func (s step) String() string {
	switch {
	case s.normalize:
		return "normalize"
	case s.dense.tanh:
		return fmt.Sprintf("dense(%d,%d,tanh)", s.dense.in, s.dense.out)
	}
	return fmt.Sprintf("dense(%d,%d)", s.dense.in, s.dense.out)
}

// steps says in what a head differs from pooling and one normalisation at its end, "" if in nothing.
func (h head) String() string {
	var parts []string
	for _, s := range h.behind {
		parts = append(parts, s.String())
	}
	if h.cut > 0 {
		parts = append(parts, fmt.Sprintf("cut(%d)", h.cut))
	}
	if h.promptExcluded {
		parts = append(parts, "prompt-left-out")
	}
	return strings.Join(parts, " ")
}
