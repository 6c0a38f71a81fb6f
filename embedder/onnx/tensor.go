package onnx

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/vector"
	ort "github.com/yalue/onnxruntime_go"
)

// A padded batch is the rows of a batch as one [rows, width] block each of ids and mask.
type padded struct {
	rows, width int
	ids, mask   []int64
}

// pad lays rows out to the longest of them: padID where a row has ended, and a mask of 1 over tokens and 0
// over padding.
func pad(rows [][]int32, padID int32) padded {
	p := padded{rows: len(rows)}
	for _, row := range rows {
		p.width = max(p.width, len(row))
	}
	block := make([]int64, 2*p.rows*p.width)
	p.ids, p.mask = block[:p.rows*p.width], block[p.rows*p.width:]
	for r, row := range rows {
		ids, mask := p.ids[r*p.width:(r+1)*p.width], p.mask[r*p.width:]
		for i, id := range row {
			ids[i], mask[i] = int64(id), 1
		}
		for i := len(row); i < p.width; i++ {
			ids[i] = int64(padID)
		}
	}
	return p
}

// check refuses a batch that the graph's tables can't serve, naming the row.
func (o Options) check(b embedder.Batch) error {
	if len(b.Rows) == 0 {
		return errors.New("batch has no rows")
	}
	if b.Prompts != nil && len(b.Prompts) != len(b.Rows) {
		return fmt.Errorf("batch has prompts for %d of %d rows", len(b.Prompts), len(b.Rows))
	}
	for r, row := range b.Rows {
		if len(row) < 1 || len(row) > o.MaxTokens {
			return fmt.Errorf("row %d has %d tokens, want 1 to %d", r, len(row), o.MaxTokens)
		}
		for i, id := range row {
			if id < 0 || int(id) >= o.VocabSize {
				return fmt.Errorf("row %d: token %d has id %d, want 0 to %d", r, i, id, o.VocabSize-1)
			}
		}
	}
	return nil
}

// tensors are the inputs and the output of one call. Native code reads and writes the Go memory under them,
// so that memory is pinned until free.
type tensors struct {
	pins    runtime.Pinner
	inputs  []ort.Value
	outputs []ort.Value
	out     []float32
}

// newTensors wraps a padded batch and room for its vectors. The caller frees the result after the native
// call has returned, and not before.
func newTensors(p padded, prompts []int, names []string, dim int) (*tensors, error) {
	t := &tensors{out: make([]float32, p.rows*dim)}
	shape := ort.NewShape(int64(p.rows), int64(p.width))
	for _, name := range names {
		data, shape := p.ids, shape
		switch name {
		case inputMask:
			data = p.mask
		case inputTypes:
			data = make([]int64, len(p.ids))
		case inputPrompt:
			data, shape = make([]int64, p.rows), ort.NewShape(int64(p.rows), 1)
			for i, n := range prompts {
				data[i] = int64(n)
			}
		}
		if err := addTensor(t, &t.inputs, shape, data); err != nil {
			t.free()
			return nil, fmt.Errorf("making the tensor of %s: %w", name, err)
		}
	}
	if err := addTensor(t, &t.outputs, ort.NewShape(int64(p.rows), int64(dim)), t.out); err != nil {
		t.free()
		return nil, fmt.Errorf("making the output tensor: %w", err)
	}
	return t, nil
}

func addTensor[T int64 | float32](t *tensors, to *[]ort.Value, shape ort.Shape, data []T) error {
	t.pins.Pin(&data[0])
	v, err := ort.NewTensor(shape, data)
	if err != nil {
		return err
	}
	*to = append(*to, v)
	return nil
}

func (t *tensors) free() {
	for _, v := range t.inputs {
		v.Destroy() // its error is always nil: releasing a value has no way to fail
	}
	for _, v := range t.outputs {
		v.Destroy()
	}
	t.pins.Unpin()
}

// vectors cuts the output block into one vector per row. They share the block; each is closed at its end,
// so that appending to one can't reach the next.
func (t *tensors) vectors(rows, dim int) []vector.Vector {
	vs := make([]vector.Vector, rows)
	for i := range vs {
		vs[i] = t.out[i*dim : (i+1)*dim : (i+1)*dim]
	}
	return vs
}
