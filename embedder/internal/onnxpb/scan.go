package onnxpb

import (
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	window   = 1 << 16 // bytes of the file held at a time
	maxSmall = 1 << 20 // bytes of the largest message that is read whole: names, shapes, opsets
	maxDepth = 32      // graphs within graphs
)

// A scanner walks the fields of protobuf messages inside a file of any size, holding one window of it.
type scanner struct {
	r    io.ReaderAt
	size int64
	buf  []byte
	at   int64 // of buf in the file
}

// A field is where one field of a message lies: its tag begins at start, its value is [off, end).
// Of a varint, value is the number.
type field struct {
	num             protowire.Number
	typ             protowire.Type
	start, off, end int64
	value           uint64
}

// fields calls visit with each field of the message at [off, end).
func (s *scanner) fields(off, end int64, visit func(field) error) error {
	for off < end {
		f, err := s.next(off, end)
		if err != nil {
			return err
		}
		if err := visit(f); err != nil {
			return err
		}
		off = f.end
	}
	return nil
}

// next reads the field at off of a message that ends at end.
func (s *scanner) next(off, end int64) (field, error) {
	tag, n, err := s.varint(off, end)
	if err != nil {
		return field{}, err
	}
	f := field{start: off, off: off + n}
	f.num, f.typ = protowire.DecodeTag(tag)
	if !f.num.IsValid() {
		return field{}, fmt.Errorf("byte %d is not the start of a protobuf field", off)
	}
	size := int64(0)
	switch f.typ {
	case protowire.VarintType:
		f.value, size, err = s.varint(f.off, end)
	case protowire.Fixed32Type:
		size = 4
	case protowire.Fixed64Type:
		size = 8
	// The length is compared before anything is read or reserved for it: a garbled one may claim anything.
	case protowire.BytesType:
		var length uint64
		length, n, err = s.varint(f.off, end)
		f.off += n
		if err == nil && length > uint64(end-f.off) {
			err = fmt.Errorf("a field at byte %d wants %d bytes, its message has %d left: cut short", off, length, end-f.off)
		}
		size = int64(length)
	default:
		err = fmt.Errorf("byte %d starts a protobuf field of type %d, which ONNX has none of", off, f.typ)
	}
	if err != nil {
		return field{}, err
	}
	if size > end-f.off {
		return field{}, fmt.Errorf("a field at byte %d ends behind its message", off)
	}
	f.end = f.off + size
	return f, nil
}

// varint reads the varint at off of a message that ends at end and returns how many bytes it has.
func (s *scanner) varint(off, end int64) (v uint64, n int64, err error) {
	b, err := s.peek(off, min(end-off, 10))
	if err != nil {
		return 0, 0, err
	}
	v, k := protowire.ConsumeVarint(b)
	if k < 0 {
		return 0, 0, fmt.Errorf("byte %d is not a protobuf number: %w", off, protowire.ParseError(k))
	}
	return v, int64(k), nil
}

// peek returns n bytes at off, valid until the next peek.
func (s *scanner) peek(off, n int64) ([]byte, error) {
	if off >= s.at && off+n <= s.at+int64(len(s.buf)) {
		return s.buf[off-s.at:][:n], nil
	}
	if n > maxSmall {
		return nil, fmt.Errorf("a message at byte %d has %d bytes, at most %d are expected of its kind", off, n, maxSmall)
	}
	// A whole window is read for a few bytes, since the next fields most often lie in it.
	want := min(max(n, window), s.size-off)
	if want < n {
		return nil, fmt.Errorf("reading %d bytes at %d of %d: %w", n, off, s.size, io.ErrUnexpectedEOF)
	}
	if int64(cap(s.buf)) < want {
		s.buf = make([]byte, want)
	}
	s.buf, s.at = s.buf[:want], off
	if got, err := s.r.ReadAt(s.buf, off); int64(got) < want {
		s.buf = s.buf[:0]
		return nil, fmt.Errorf("reading at byte %d: %w", off, err)
	}
	return s.buf[:n], nil
}

// bytes returns a field's value; see peek.
func (s *scanner) bytes(f field) ([]byte, error) {
	if f.typ != protowire.BytesType {
		return nil, fmt.Errorf("the field at byte %d should be a message, it is a number", f.start)
	}
	return s.peek(f.off, f.end-f.off)
}

// text returns a field's value as a string.
func (s *scanner) text(f field) (string, error) {
	b, err := s.bytes(f)
	return string(b), err
}
