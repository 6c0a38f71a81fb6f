package onnxpb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// An ExternalTensor is a constant whose bytes lie outside the graph's file.
// Length is 0 where the file leaves it to the tensor's shape: then it is everything from Offset on.
type ExternalTensor struct {
	Tensor string
	External
}

// A File is what is known of a graph in a file without having read its weights.
type File struct {
	Opsets    []Opset
	Inputs    []Value // those that a run must feed: constants that are also listed as inputs are left out
	Outputs   []Value
	Externals []ExternalTensor

	r            io.ReaderAt
	graph        field
	fields       []field // of the model, the graph left out
	graphFields  []field // of the graph, the outputs left out
	initializers map[string]bool
}

// Opset returns the version of ONNX's own operators that the file asks for, and 0 if it asks for none.
func (f *File) Opset() int64 {
	for _, o := range f.Opsets {
		if o.Domain == "" || o.Domain == "ai.onnx" {
			return o.Version
		}
	}
	return 0
}

// Scan reads the outline of the ModelProto that r holds in size bytes. Its errors name the byte at which
// the file stopped making sense.
func Scan(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r, initializers: make(map[string]bool)}
	s := &scanner{r: r, size: size}
	err := s.fields(0, size, func(fd field) error {
		if fd.num != modelGraph {
			f.fields = append(f.fields, fd)
		}
		switch fd.num {
		case modelGraph:
			if f.graph.end != 0 {
				return errors.New("the file has more than one graph")
			}
			f.graph = fd
		case modelOpset:
			return f.addOpset(s, fd)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if f.graph.end == 0 || f.graph.typ != protowire.BytesType {
		return nil, errors.New("the file has no graph: not an ONNX model")
	}
	if err := f.scanGraph(s); err != nil {
		return nil, err
	}
	f.Inputs = slices.DeleteFunc(f.Inputs, func(v Value) bool { return f.initializers[v.Name] })
	return f, nil
}

func (f *File) addOpset(s *scanner, fd field) error {
	b, err := s.bytes(fd)
	if err != nil {
		return err
	}
	o := Opset{}
	err = eachField(b, func(num protowire.Number, value uint64, msg []byte) error {
		switch num {
		case 1:
			o.Domain = string(msg)
		case 2:
			o.Version = int64(value)
		}
		return nil
	})
	f.Opsets = append(f.Opsets, o)
	return err
}

// scanGraph reads the outline of the main graph.
func (f *File) scanGraph(s *scanner) error {
	// Outputs are left out of graphFields because WriteWith puts others in their place; everything else,
	// fields of newer versions included, is copied byte for byte.
	return s.fields(f.graph.off, f.graph.end, func(fd field) error {
		if fd.num != graphOutput {
			f.graphFields = append(f.graphFields, fd)
		}
		if fd.num != graphInput && fd.num != graphOutput {
			return f.scanGraphField(s, fd, 0)
		}
		b, err := s.bytes(fd)
		if err != nil {
			return err
		}
		v, err := parseValue(b)
		if fd.num == graphInput {
			f.Inputs = append(f.Inputs, v)
		} else {
			f.Outputs = append(f.Outputs, v)
		}
		return err
	})
}

// scanGraphField looks for constants in a field of a graph or of a graph within it.
func (f *File) scanGraphField(s *scanner, fd field, depth int) error {
	switch {
	case fd.typ != protowire.BytesType:
		return nil
	case depth > maxDepth:
		return fmt.Errorf("graphs are nested deeper than %d at byte %d", maxDepth, fd.start)
	case fd.num == graphInitializer:
		name, err := f.scanTensor(s, fd)
		f.initializers[name] = f.initializers[name] || depth == 0
		return err
	case fd.num == graphSparse:
		return s.fields(fd.off, fd.end, func(part field) error {
			if part.num > 2 { // values and indices are tensors, the rest is numbers
				return nil
			}
			_, err := f.scanTensor(s, part)
			return err
		})
	case fd.num == graphNode:
		return s.fields(fd.off, fd.end, func(part field) error {
			if part.num != 5 {
				return nil
			}
			return f.scanAttribute(s, part, depth+1)
		})
	}
	return nil
}

// scanAttribute looks for constants in a node's attribute: a tensor, a graph, or lists of them.
//
// If and Loop have graphs as attributes, Constant has a tensor.
func (f *File) scanAttribute(s *scanner, attr field, depth int) error {
	return s.fields(attr.off, attr.end, func(fd field) error {
		switch fd.num {
		case 5, 10:
			_, err := f.scanTensor(s, fd)
			return err
		case 6, 11:
			return s.fields(fd.off, fd.end, func(part field) error { return f.scanGraphField(s, part, depth) })
		}
		return nil
	})
}

// scanTensor reads a constant's name and, if its bytes lie elsewhere, where.
func (f *File) scanTensor(s *scanner, tensor field) (name string, err error) {
	var ext External
	external := false
	// raw_data and the typed lists are stepped over: a tensor costs the same whatever its size.
	err = s.fields(tensor.off, tensor.end, func(fd field) error {
		switch fd.num {
		case 8:
			name, err = s.text(fd)
			return err
		case 13:
			b, err := s.bytes(fd)
			if err != nil {
				return err
			}
			return ext.set(b)
		case 14:
			external = fd.value == 1
		}
		return nil
	})
	if external && err == nil {
		f.Externals = append(f.Externals, ExternalTensor{Tensor: name, External: ext})
	}
	return name, err
}

// set takes one entry of a tensor's external_data. Keys that we don't know, such as a checksum, change
// nothing about where the bytes are.
func (e *External) set(b []byte) error {
	key, value, err := entry(b)
	if err != nil {
		return err
	}
	switch key {
	case "location":
		e.Location = value
	case "offset":
		e.Offset, err = strconv.ParseInt(value, 10, 64)
	case "length":
		e.Length, err = strconv.ParseInt(value, 10, 64)
	}
	if err != nil || e.Offset < 0 || e.Length < 0 {
		return fmt.Errorf("external data has the impossible %s %q", key, value)
	}
	return nil
}

// WriteWith copies the file to w with add's nodes behind its own, add's constants beside its own, and
// add's outputs instead of its own.
func (f *File) WriteWith(w io.Writer, add Graph) error {
	bw := bufio.NewWriterSize(w, 1<<20)
	// A repeated field's parts may stand anywhere in a message, so what is added goes to the end, and only
	// the graph's length has to be written anew (protobuf.dev/programming-guides/encoding).
	tail := add.marshal()
	size := int64(len(tail))
	for _, fd := range f.graphFields {
		size += fd.end - fd.start
	}
	for _, fd := range f.fields {
		if err := f.copy(bw, fd); err != nil {
			return err
		}
	}
	head := protowire.AppendTag(nil, modelGraph, protowire.BytesType)
	if _, err := bw.Write(protowire.AppendVarint(head, uint64(size))); err != nil {
		return err
	}
	for _, fd := range f.graphFields {
		if err := f.copy(bw, fd); err != nil {
			return err
		}
	}
	if _, err := bw.Write(tail); err != nil {
		return err
	}
	return bw.Flush()
}

func (f *File) copy(w io.Writer, fd field) error {
	if _, err := io.Copy(w, io.NewSectionReader(f.r, fd.start, fd.end-fd.start)); err != nil {
		return fmt.Errorf("copying the bytes from %d to %d: %w", fd.start, fd.end, err)
	}
	return nil
}

// parseValue decodes a ValueInfoProto. A value that isn't a tensor has type 0.
func parseValue(b []byte) (v Value, err error) {
	err = eachField(b, func(num protowire.Number, _ uint64, msg []byte) error {
		switch num {
		case 1:
			v.Name = string(msg)
		case 2:
			return eachField(msg, func(num protowire.Number, _ uint64, msg []byte) error {
				if num != 1 { // sequences, maps and the like
					return nil
				}
				return v.parseTensorType(msg)
			})
		}
		return nil
	})
	return v, err
}

// parseTensorType decodes a TypeProto.Tensor.
func (v *Value) parseTensorType(b []byte) error {
	return eachField(b, func(num protowire.Number, value uint64, msg []byte) error {
		switch num {
		case 1:
			v.Type = DataType(value)
		case 2:
			v.Dims = []Dim{}
			return eachField(msg, func(_ protowire.Number, _ uint64, msg []byte) error {
				var d Dim
				err := eachField(msg, func(num protowire.Number, value uint64, msg []byte) error {
					switch num {
					case 1:
						d.Value = int64(value)
					case 2:
						d.Name = string(msg)
					}
					return nil
				})
				v.Dims = append(v.Dims, d)
				return err
			})
		}
		return nil
	})
}

// eachField calls visit with each field of a message in memory: the number of a varint, the bytes of
// anything with a length.
//
// The values of fixed-width fields are not passed on; no field we read has one.
func eachField(b []byte, visit func(num protowire.Number, value uint64, msg []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var value uint64
		var msg []byte
		switch typ {
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			msg, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := visit(num, value, msg); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
