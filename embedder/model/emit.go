package model

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

// The files that [Model.WriteGraph] writes. A foreign graph's external data keeps its own names.
const (
	GraphFile = "graph.onnx"
	dataFile  = "graph.onnx_data"
)

// compiledGraph is a graph of our own.
type compiledGraph struct {
	dir     string // of the weights, relative to the folder
	net     network
	weights weights
	set     *checkpoint.Set
	kernels Kernels
}

// tokenTypes is false: type 0 is part of the position table.
func (c *compiledGraph) tokenTypes() bool { return false }

// files names the weights.
func (c *compiledGraph) files() []string {
	var names []string
	for _, name := range c.set.Files {
		names = append(names, path.Join(c.dir, filepath.ToSlash(name)))
	}
	return names
}

// write emits the graph and moves the weights: large ones into the data file, where a runtime can map
// them, small ones into the graph.
func (c *compiledGraph) write(ctx context.Context, dir string, h head) (err error) {
	// The nodes come first: they say which constants there are and in what order.
	e, err := emitEncoder(ctx, c.net, c.weights, h, c.kernels)
	if err != nil {
		return err
	}
	reader := c.set.NewReader()
	defer finish(&err, reader.Close)
	out, err := newDataWriter(filepath.Join(dir, dataFile))
	if err != nil {
		return err
	}
	defer finish(&err, out.close)
	m := e.model()
	for _, p := range e.params {
		t := onnxpb.Tensor{Name: p.name, Type: onnxpb.Float32}
		for _, d := range p.dims {
			t.Dims = append(t.Dims, int64(d))
		}
		if p.size() < inlineBelow {
			t.Raw, err = p.bytesOf(ctx, reader)
		} else {
			t.External, err = out.add(ctx, p, reader)
		}
		if err != nil {
			return err
		}
		m.Graph.Initializers = append(m.Graph.Initializers, t)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// The graph goes last. Until it is there nobody takes the folder for a model.
	return writeSynced(filepath.Join(dir, GraphFile), m.Marshal())
}

// A dataWriter writes the data file from front to back, so that a full disk shows as an error of a write
// and never as a hole.
type dataWriter struct {
	f  *os.File
	w  *bufio.Writer
	at int64
}

func newDataWriter(path string) (*dataWriter, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("writing weights: %w", err)
	}
	return &dataWriter{f: f, w: bufio.NewWriterSize(f, 1<<20)}, nil
}

// Write counts what is written.
func (d *dataWriter) Write(b []byte) (int, error) {
	n, err := d.w.Write(b)
	d.at += int64(n)
	return n, err
}

// add writes p at the next aligned place and returns where that is.
func (d *dataWriter) add(ctx context.Context, p param, r *checkpoint.Reader) (*onnxpb.External, error) {
	if gap := -d.at & (alignment - 1); gap > 0 {
		if _, err := d.Write(make([]byte, gap)); err != nil {
			return nil, fmt.Errorf("writing weights: %w", err)
		}
	}
	start := d.at
	if err := p.data.write(ctx, d, r); err != nil {
		return nil, fmt.Errorf("writing weights: %w", err)
	}
	// A constant of another size than the graph says would shift nothing here, but a runtime would read
	// into the next one.
	if d.at-start != p.size() {
		return nil, fmt.Errorf("constant %s has %d bytes, %v wants %d", p.name, d.at-start, p.dims, p.size())
	}
	return &onnxpb.External{Location: dataFile, Offset: start, Length: p.size()}, nil
}

// close makes what was written durable.
func (d *dataWriter) close() error {
	err := d.w.Flush()
	if err == nil {
		err = d.f.Sync()
	}
	finish(&err, d.f.Close)
	if err != nil {
		return fmt.Errorf("writing weights: %w", err)
	}
	return nil
}

// finish calls the last step of something and keeps its error if there is none yet: one cause, one line.
func finish(err *error, last func() error) {
	if e := last(); *err == nil {
		*err = e
	}
}

// writeSynced writes a file and makes it durable.
func writeSynced(path string, content []byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer finish(&err, f.Close)
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}
