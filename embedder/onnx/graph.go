package onnx

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Names of inputs that are filled here. Any other input of a graph is refused at open.
const (
	inputIDs   = "input_ids"
	inputMask  = "attention_mask"
	inputTypes = "token_type_ids" // always zero: one segment
)

// Field numbers and element types of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
const (
	fieldModelGraph  = 7
	fieldGraphInput  = 11
	fieldGraphOutput = 12
	fieldInfoName    = 1
	fieldInfoType    = 2
	fieldTypeTensor  = 1
	fieldTensorElem  = 1
	fieldTensorShape = 2
	fieldShapeDim    = 1
	fieldDimValue    = 1

	elemFloat = 1
	elemInt64 = 7

	// maxInfo bounds the description of one input or output; real ones take some dozen bytes.
	maxInfo = 1 << 20
)

// A port is one input or output as the graph declares it.
type port struct {
	name string
	elem int     // element type
	dims []int64 // -1 where the graph leaves the size open
}

// ports are the names and the dimension that a session works with.
type ports struct {
	inputs []string
	output string
	dim    int // 0 if the graph leaves it open
}

// readPorts reads what a graph declares from its file, passing over its weights. The binding could only
// tell after loading the whole graph into a session of its own.
func readPorts(path, output string) (ports, error) {
	f, err := os.Open(path)
	if err != nil {
		return ports{}, fmt.Errorf("reading the graph: %w", err)
	}
	defer f.Close()
	ins, outs, err := readGraph(f)
	if err != nil {
		return ports{}, fmt.Errorf("reading the graph %s: %w", path, err)
	}
	p, err := choosePorts(ins, outs, output)
	if err != nil {
		return ports{}, fmt.Errorf("graph %s: %w", path, err)
	}
	return p, nil
}

// choosePorts checks that a graph's inputs and output are those this room can feed and read.
func choosePorts(ins, outs []port, output string) (ports, error) {
	p := ports{output: output}
	for _, in := range ins {
		if !slices.Contains([]string{inputIDs, inputMask, inputTypes}, in.name) {
			return ports{}, fmt.Errorf("input %q is none of %s, %s, %s", in.name, inputIDs, inputMask, inputTypes)
		}
		if in.elem != elemInt64 || len(in.dims) != 2 {
			return ports{}, fmt.Errorf("input %q has element type %d and %d axes, want int64 (7) and 2", in.name, in.elem, len(in.dims))
		}
		p.inputs = append(p.inputs, in.name)
	}
	for _, need := range []string{inputIDs, inputMask} {
		if !slices.Contains(p.inputs, need) {
			return ports{}, fmt.Errorf("input %q is missing, the graph has %q", need, p.inputs)
		}
	}
	i := slices.IndexFunc(outs, func(o port) bool { return o.name == output })
	if i < 0 {
		return ports{}, fmt.Errorf("output %q is missing among %d outputs", output, len(outs))
	}
	out := outs[i]
	if out.elem != elemFloat || len(out.dims) != 2 {
		return ports{}, fmt.Errorf("output %q has element type %d and %d axes, want float (1) and [batch, dimension]", output, out.elem, len(out.dims))
	}
	p.dim = int(max(0, out.dims[1]))
	return p, nil
}

// readGraph walks over the fields of a ModelProto and of the GraphProto in it, decoding only the inputs
// and outputs.
func readGraph(f *os.File) (ins, outs []port, err error) {
	w := &walker{file: f, r: bufio.NewReader(f)}
	found := false
	err = w.fields(-1, func(num protowire.Number, size int64) error {
		if num != fieldModelGraph {
			return w.skip(size)
		}
		found = true
		return w.fields(size, func(num protowire.Number, size int64) error {
			if num != fieldGraphInput && num != fieldGraphOutput {
				return w.skip(size)
			}
			p, err := w.port(size)
			if num == fieldGraphInput {
				ins = append(ins, p)
			} else {
				outs = append(outs, p)
			}
			return err
		})
	})
	if err == nil && !found {
		err = errors.New("no graph in it: not an ONNX model")
	}
	return ins, outs, err
}

// A walker steps over the length-delimited fields of a protobuf message in a file.
type walker struct {
	file *os.File
	r    *bufio.Reader
	pos  int64
}

// fields calls visit for each length-delimited field of a message of the given size, -1 meaning up to the
// end of the file; visit must consume the field. Fields of other kinds are passed over.
func (w *walker) fields(size int64, visit func(num protowire.Number, size int64) error) error {
	end := w.pos + size
	for size < 0 || w.pos < end {
		tag, err := binary.ReadUvarint(w)
		if errors.Is(err, io.EOF) && size < 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("field at byte %d: %w", w.pos, err)
		}
		num, kind := protowire.DecodeTag(tag)
		if num < 1 {
			return fmt.Errorf("field at byte %d has no valid number: not an ONNX model", w.pos)
		}
		if err := w.field(num, kind, visit); err != nil {
			return err
		}
	}
	return nil
}

// field handles the value after a tag.
func (w *walker) field(num protowire.Number, kind protowire.Type, visit func(protowire.Number, int64) error) error {
	switch kind {
	case protowire.VarintType:
		_, err := binary.ReadUvarint(w)
		return err
	case protowire.Fixed32Type:
		return w.skip(4)
	case protowire.Fixed64Type:
		return w.skip(8)
	case protowire.BytesType:
		n, err := binary.ReadUvarint(w)
		if err != nil {
			return err
		}
		if n > 1<<40 {
			return fmt.Errorf("field %d at byte %d claims %d bytes", num, w.pos, n)
		}
		return visit(num, int64(n))
	}
	return fmt.Errorf("field %d at byte %d has wire type %d: not an ONNX model", num, w.pos, kind)
}

// ReadByte counts as it reads; it makes a walker an io.ByteReader.
func (w *walker) ReadByte() (byte, error) {
	b, err := w.r.ReadByte()
	if err == nil {
		w.pos++
	}
	return b, err
}

// skip passes over n bytes, by a seek if they are many.
func (w *walker) skip(n int64) error {
	w.pos += n
	if n <= int64(w.r.Buffered()) {
		_, err := w.r.Discard(int(n))
		return err
	}
	if _, err := w.file.Seek(w.pos, io.SeekStart); err != nil {
		return err
	}
	w.r.Reset(w.file)
	return nil
}

// port decodes a ValueInfoProto of size bytes.
func (w *walker) port(size int64) (port, error) {
	if size > maxInfo {
		return port{}, fmt.Errorf("description of an input or output at byte %d claims %d bytes", w.pos, size)
	}
	buf := make([]byte, size)
	if _, err := io.ReadFull(w.r, buf); err != nil {
		return port{}, fmt.Errorf("description of an input or output at byte %d: %w", w.pos, err)
	}
	w.pos += size
	return parsePort(buf)
}

// parsePort decodes name, element type and shape: ValueInfoProto > TypeProto > Tensor > TensorShapeProto.
func parsePort(info []byte) (p port, err error) {
	name, err := lastBytes(info, fieldInfoName)
	if err != nil {
		return port{}, err
	}
	p.name = string(name)
	tensor, err := lastBytes(info, fieldInfoType, fieldTypeTensor)
	if err != nil {
		return port{}, fmt.Errorf("type of %q: %w", p.name, err)
	}
	err = each(tensor, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case fieldTensorElem:
			p.elem = int(v)
		case fieldTensorShape:
			p.dims, err = parseShape(b)
		}
		return err
	})
	return p, err
}

// parseShape returns the sizes of the axes, -1 for one without a fixed size.
func parseShape(shape []byte) (dims []int64, err error) {
	err = each(shape, func(num protowire.Number, _ uint64, b []byte) error {
		if num != fieldShapeDim {
			return nil
		}
		size := int64(-1)
		err := each(b, func(num protowire.Number, v uint64, _ []byte) error {
			if num == fieldDimValue && int64(v) > 0 {
				size = int64(v)
			}
			return nil
		})
		dims = append(dims, size)
		return err
	})
	return dims, err
}

// lastBytes follows a path of nested fields, taking the last occurrence of each, as protobuf readers do.
func lastBytes(msg []byte, path ...protowire.Number) ([]byte, error) {
	for _, want := range path {
		var next []byte
		err := each(msg, func(num protowire.Number, _ uint64, b []byte) error {
			if num == want {
				next = b
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		msg = next
	}
	return msg, nil
}

// each calls visit for every field of a message in memory, with its number or its bytes.
func each(msg []byte, visit func(num protowire.Number, v uint64, b []byte) error) error {
	for len(msg) > 0 {
		num, kind, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		var v uint64
		var b []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, kind, msg)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		if err := visit(num, v, b); err != nil {
			return err
		}
	}
	return nil
}
