package model

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

// foreignGraph is a graph that somebody exported. Nothing of it is changed but the outputs: nodes are put
// behind it, and its weights, inside or beside the file, are never read.
type foreignGraph struct {
	folder folder
	name   string // of the graph's file
	types  bool   // it asks for token_type_ids

	output  string // that we take
	pooled  bool   // output is one vector per row
	width   int    // of output's last dimension
	opset   int64
	outside []string // external data files, relative to the graph's own folder
}

// foreignNames are the places where a graph is looked for, in the order of text-embeddings-inference.
var foreignNames = [...]string{"model.onnx", "onnx/model.onnx"}

// findForeign returns the name of the folder's exported graph, or "".
func findForeign(d folder, dir string) string {
	for _, name := range foreignNames {
		if name = path.Join(dir, name); d.has(name) {
			return name
		}
	}
	return ""
}

// openForeign reads a graph's outline and checks that it can be fed and that its output is understood.
// width is the hidden size that config.json names, or 0. Errors name the file.
func openForeign(d folder, name string, width int) (*foreignGraph, error) {
	g := &foreignGraph{folder: d, name: name, width: width}
	err := g.scan(func(f *onnxpb.File) error {
		g.opset = f.Opset()
		if g.opset < oldestOpset {
			return fmt.Errorf("operator set %d is older than %d", g.opset, oldestOpset)
		}
		for _, check := range []func(*onnxpb.File) error{g.checkInputs, g.chooseOutput, g.checkExternals} {
			if err := check(f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// scan calls use with the graph's outline while the file is open.
func (g *foreignGraph) scan(use func(*onnxpb.File) error) error {
	f, err := os.Open(g.folder.path(g.name))
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, plain(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, plain(err))
	}
	outline, err := onnxpb.Scan(f, info.Size())
	if err == nil {
		err = use(outline)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	return nil
}

// checkInputs demands token ids and a mask, int64 and of any length, and nothing else but token types.
func (g *foreignGraph) checkInputs(f *onnxpb.File) error {
	missing := []string{inputIDs, inputMask}
	for _, in := range f.Inputs {
		if !slices.Contains([]string{inputIDs, inputMask, inputTypes}, in.Name) {
			return fmt.Errorf("the graph asks for an input %q, which we don't have", in.Name)
		}
		if in.Type != onnxpb.Int64 {
			return fmt.Errorf("input %s has element type %d, only int64 (7) is fed", in.Name, in.Type)
		}
		if in.Dims != nil && (len(in.Dims) != 2 || in.Dims[0].Value != 0 || in.Dims[1].Value != 0) {
			return fmt.Errorf("input %s has the shape %v, [batch, sequence] of any size is needed", in.Name, shape(in))
		}
		missing = slices.DeleteFunc(missing, func(name string) bool { return name == in.Name })
		g.types = g.types || in.Name == inputTypes
	}
	if len(missing) > 0 {
		return fmt.Errorf("the graph has no input %s", missing[0])
	}
	return nil
}

// chooseOutput takes sentence vectors if the graph makes them, else token vectors.
//
// The names are those of optimum's exports: sentence_embedding and token_embeddings with
// --library sentence_transformers, last_hidden_state with --library transformers. Others are refused even
// where there is only one, since the second output of an old export is BERT's pooler, which makes no
// sentence vectors although its shape would fit.
func (g *foreignGraph) chooseOutput(f *onnxpb.File) error {
	for _, name := range []string{"sentence_embedding", "last_hidden_state", "token_embeddings"} {
		i := slices.IndexFunc(f.Outputs, func(v onnxpb.Value) bool { return v.Name == name })
		if i < 0 {
			continue
		}
		out, rank := f.Outputs[i], 3
		g.output, g.pooled = name, name == "sentence_embedding"
		if g.pooled {
			rank = 2
		}
		if out.Type != onnxpb.Float32 {
			return fmt.Errorf("output %s has element type %d, only float32 (1) is taken", name, out.Type)
		}
		if out.Dims != nil && len(out.Dims) != rank {
			return fmt.Errorf("output %s has the shape %v, %d dimensions are expected", name, shape(out), rank)
		}
		return g.setWidth(out)
	}
	var names []string
	for _, v := range f.Outputs {
		names = append(names, v.Name)
	}
	return fmt.Errorf("the outputs %q are none of sentence_embedding, last_hidden_state, token_embeddings", names)
}

// setWidth takes the vectors' dimension from the output's shape, or from config.json where that is open.
func (g *foreignGraph) setWidth(out onnxpb.Value) error {
	if n := len(out.Dims); n > 0 && out.Dims[n-1].Value > 0 {
		if !g.pooled && g.width > 0 && int(out.Dims[n-1].Value) != g.width {
			return fmt.Errorf("output %s is %d wide, config.json says %d", out.Name, out.Dims[n-1].Value, g.width)
		}
		g.width = int(out.Dims[n-1].Value)
	}
	if g.width == 0 {
		return fmt.Errorf("neither output %s nor config.json says how wide a vector is", out.Name)
	}
	return nil
}

// checkExternals demands that every weight outside the graph's file is there in full and inside the folder.
//
// A runtime would find the same faults, but only after it has loaded for seconds, or by mapping what is
// not there.
func (g *foreignGraph) checkExternals(f *onnxpb.File) error {
	sizes := make(map[string]int64)
	for _, t := range f.Externals {
		if !filepath.IsLocal(filepath.FromSlash(t.Location)) {
			return fmt.Errorf("tensor %q lies in %q, outside the folder", t.Tensor, t.Location)
		}
		if t.Location == GraphFile || t.Location == manifestFile {
			return fmt.Errorf("tensor %q lies in %q, a name we need ourselves", t.Tensor, t.Location)
		}
		size, seen := sizes[t.Location]
		if !seen {
			info, err := os.Stat(g.folder.path(path.Join(path.Dir(g.name), t.Location)))
			if err != nil {
				return fmt.Errorf("tensor %q lies in %s: %w", t.Tensor, t.Location, plain(err))
			}
			size = info.Size()
			sizes[t.Location] = size
			g.outside = append(g.outside, t.Location)
		}
		if t.Offset > size || t.Length > size-t.Offset {
			return fmt.Errorf("tensor %q wants bytes %d to %d of %s, which has %d: cut short",
				t.Tensor, t.Offset, t.Offset+t.Length, t.Location, size)
		}
	}
	return nil
}

// shape returns a value's shape for an error.
func shape(v onnxpb.Value) []string {
	var s []string
	for _, d := range v.Dims {
		if d.Value > 0 {
			s = append(s, fmt.Sprint(d.Value))
		} else {
			s = append(s, d.Name)
		}
	}
	return s
}

// tokenTypes reports whether token_type_ids must be fed.
func (g *foreignGraph) tokenTypes() bool { return g.types }

// files names the graph and its external data.
func (g *foreignGraph) files() []string {
	names := []string{g.name}
	for _, location := range g.outside {
		names = append(names, path.Join(path.Dir(g.name), location))
	}
	return names
}

// write copies the graph with h's nodes behind it and puts its external data beside it.
func (g *foreignGraph) write(ctx context.Context, dir string, h head) error {
	// Our nodes speak the graph's own version of the operators, since a file has only one.
	b := newBuilder(g.opset, "embedfleet/")
	if err := h.emit(ctx, b, g.output); err != nil {
		return err
	}
	for _, location := range g.outside {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := g.folder.path(path.Join(path.Dir(g.name), location))
		if err := place(ctx, from, filepath.Join(dir, filepath.FromSlash(location))); err != nil {
			return fmt.Errorf("placing %s: %w", location, err)
		}
	}
	// Scanned again rather than kept from Open: the outline is small next to an open file held for days.
	return g.scan(func(f *onnxpb.File) (err error) {
		out, err := os.Create(filepath.Join(dir, GraphFile))
		if err != nil {
			return err
		}
		defer finish(&err, out.Close)
		if err := f.WriteWith(cancellable(ctx, out), b.graph); err != nil {
			return err
		}
		return out.Sync()
	})
}

// place makes the file from appear as to: the same file where the file system can do that, else a copy.
// A symbolic link, as the Hugging Face cache has them, is resolved first: a link to a link would break
// when the folder is cleaned up.
func place(ctx context.Context, from, to string) (err error) {
	if from, err = filepath.EvalSymlinks(from); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// The two names then share gigabytes. A later download replaces files by renaming, which leaves ours as
	// it was.
	if os.Link(from, to) == nil {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	defer finish(&err, dst.Close)
	if _, err := io.Copy(cancellable(ctx, dst), src); err != nil {
		return err
	}
	return dst.Sync()
}

// cancellable is w until ctx ends, and fails from then on.
func cancellable(ctx context.Context, w io.Writer) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return w.Write(b)
	})
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
