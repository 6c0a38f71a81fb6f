package onnx

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/embedfleet/embedfleet/embedder/internal/onnxpb"
)

const (
	// vectorBytes is the alignment of what a matrix kernel reads with aligned instructions: an AVX-512 register.
	// The runtime's kernels rely on it for memory that they allocated, and so for what they find mapped instead.
	vectorBytes = 64
	// pageBytes is the alignment of what is worth a page of its own, so that processes share it to the edges.
	pageBytes = 4096
	// maxGraph bounds the graph of a prepared folder, whose weights lie outside of it.
	maxGraph = 1 << 30
)

// align writes the prepared graph in dir anew, with every tensor at a place that kernels may read from.
//
// The runtime writes one tensor right behind the other. One whose size is no multiple of 64 bytes moves all that
// follow off the alignment that the runtime's own kernels demand of them, and the first run ends the process.
func align(dir string) (err error) {
	graph, data := filepath.Join(dir, graphName), filepath.Join(dir, dataName)
	b, err := readGraph(graph)
	if err != nil {
		return err
	}
	// Weights of less than 1,024 bytes stay inside. Where all do there is no file, but a folder always has both.
	in, err := os.OpenFile(data, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	w, err := newAligned(data+".aligned", in, info.Size())
	if err != nil {
		return err
	}
	b, err = onnxpb.Move(b, w.move)
	if closed := w.close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("aligning %s: %w", dataName, err)
	}
	if err := os.Rename(w.f.Name(), data); err != nil {
		return err
	}
	return os.WriteFile(graph, b, 0o644)
}

// readGraph reads the graph of a prepared folder.
func readGraph(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxGraph+1))
	if err == nil && len(b) > maxGraph {
		err = fmt.Errorf("%s has more than %d bytes, its weights should lie outside", path, maxGraph)
	}
	return b, err
}

// aligned copies spans of one data file to aligned places of another.
type aligned struct {
	in   io.ReaderAt
	size int64 // of in
	f    *os.File
	w    *bufio.Writer
	at   int64
	done map[onnxpb.Span]onnxpb.Span
}

func newAligned(path string, in io.ReaderAt, size int64) (*aligned, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &aligned{in: in, size: size, f: f, w: bufio.NewWriterSize(f, 1<<20), done: make(map[onnxpb.Span]onnxpb.Span)}, nil
}

// move copies one span, once, and returns where it is now.
func (a *aligned) move(s onnxpb.Span) (onnxpb.Span, error) {
	if to, ok := a.done[s]; ok {
		return to, nil
	}
	if err := inside(s, a.size); err != nil {
		return s, err
	}
	step := int64(vectorBytes)
	if s.Length >= 16*pageBytes {
		step = pageBytes
	}
	gap := -a.at & (step - 1)
	if _, err := a.w.Write(make([]byte, gap)); err != nil {
		return s, err
	}
	to := onnxpb.Span{Offset: a.at + gap, Length: s.Length}
	if _, err := io.Copy(a.w, io.NewSectionReader(a.in, s.Offset, s.Length)); err != nil {
		return s, err
	}
	a.at = to.Offset + to.Length
	a.done[s] = to
	return to, nil
}

func (a *aligned) close() error {
	err := a.w.Flush()
	if closed := a.f.Close(); err == nil {
		err = closed
	}
	return err
}

// inside demands that a span lies in a file of size bytes.
func inside(s onnxpb.Span, size int64) error {
	if s.Offset < 0 || s.Length < 0 || s.Offset > size || s.Length > size-s.Offset {
		return fmt.Errorf("a tensor lies at bytes %d to %d of %s, which has %d", s.Offset, s.Offset+s.Length, dataName, size)
	}
	return nil
}

// checkAligned demands of a prepared folder, whoever wrote it, that every tensor can be mapped where it lies.
func checkAligned(dir string) error {
	b, err := readGraph(filepath.Join(dir, graphName))
	if err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(dir, dataName))
	if err != nil {
		return err
	}
	_, err = onnxpb.Move(b, func(s onnxpb.Span) (onnxpb.Span, error) {
		if s.Offset%vectorBytes != 0 {
			return s, fmt.Errorf("a tensor begins at byte %d of %s, no multiple of %d: it can't be mapped", s.Offset, dataName, vectorBytes)
		}
		return s, inside(s, info.Size())
	})
	if err != nil {
		return fmt.Errorf("%s: %w", graphName, err)
	}
	return nil
}
