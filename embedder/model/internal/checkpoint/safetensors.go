package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// maxHeader is the longest header that is read. The format allows 100 MB, a network of 1,000 tensors needs 0.1 MB,
// and what a header becomes in memory is several times its length.
const maxHeader = 16 << 20

// Header reads the header of a safetensors file of size bytes and returns its tensors by name. The name
// file is kept in each of them. Every tensor returned lies inside the file, has as many bytes as its shape
// wants, and overlaps no other.
func Header(r io.ReaderAt, size int64, file string) (map[string]Tensor, error) {
	raw, err := readHeader(r, size)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the header is not a JSON object")
	}
	// Key by key instead of into a map, which would keep the last of two tensors with one name.
	tensors := make(map[string]Tensor)
	for dec.More() {
		t, err := nextEntry(dec)
		if err != nil {
			return nil, err
		}
		if t.Name == "__metadata__" {
			continue
		}
		if _, twice := tensors[t.Name]; twice {
			return nil, fmt.Errorf("tensor %q is in the header twice", t.Name)
		}
		t.File = file
		t.Offset += 8 + int64(len(raw))
		tensors[t.Name] = t
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("the header has something behind its JSON object")
	}
	return tensors, checkLayout(tensors, 8+int64(len(raw)), size)
}

// readHeader returns the JSON part of the header.
func readHeader(r io.ReaderAt, size int64) ([]byte, error) {
	if size < 8 {
		return nil, fmt.Errorf("the file has %d bytes, the length of a header alone takes 8", size)
	}
	var length [8]byte
	if _, err := r.ReadAt(length[:], 0); err != nil {
		return nil, fmt.Errorf("reading the header's length: %w", err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeader {
		return nil, fmt.Errorf("the header claims %d bytes, at most %d are allowed: not a safetensors file", n, maxHeader)
	}
	if int64(n) > size-8 {
		return nil, fmt.Errorf("the header wants %d bytes, the file has %d left: cut short", n, size-8)
	}
	raw := make([]byte, n)
	if _, err := r.ReadAt(raw, 8); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	return raw, nil
}

// nextEntry decodes one tensor of the header. Its Offset still counts from the start of the data.
func nextEntry(dec *json.Decoder) (Tensor, error) {
	key, err := dec.Token()
	if err != nil {
		return Tensor{}, fmt.Errorf("reading the header: %w", err)
	}
	name, _ := key.(string) // inside an object the decoder yields nothing else in this place
	t := Tensor{Name: name}
	if t.Name == "__metadata__" {
		var ignored json.RawMessage
		if err := dec.Decode(&ignored); err != nil {
			return t, fmt.Errorf("reading the header's metadata: %w", err)
		}
		return t, nil
	}
	var e struct {
		DType   DType    `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	if err := dec.Decode(&e); err != nil {
		return Tensor{}, fmt.Errorf("reading the header's entry of tensor %q: %w", t.Name, err)
	}
	t.DType, t.Shape = e.DType, e.Shape
	t.Offset, t.Size = e.Offsets[0], e.Offsets[1]-e.Offsets[0]
	if e.Offsets[0] < 0 || t.Size < 0 || e.Offsets[1] > math.MaxInt64-2*maxHeader {
		return Tensor{}, fmt.Errorf("tensor %q lies at bytes %d to %d of the data: impossible", t.Name, e.Offsets[0], e.Offsets[1])
	}
	return t, checkShape(t)
}

// checkShape compares the bytes a tensor's shape wants with those it has.
func checkShape(t Tensor) error {
	want := bytesOf(t.DType)
	if want == 0 {
		return fmt.Errorf("tensor %q has the unknown number format %q", t.Name, t.DType)
	}
	for _, d := range t.Shape {
		// Checked before multiplying: 2^32 x 2^32 elements would wrap to a size that fits.
		if d < 0 || (d > 0 && want > math.MaxInt64/int64(d)) {
			return fmt.Errorf("tensor %q has the impossible shape %v", t.Name, t.Shape)
		}
		want *= int64(d)
	}
	if want != t.Size {
		return fmt.Errorf("tensor %q of %s %v wants %d bytes, its entry has %d", t.Name, t.DType, t.Shape, want, t.Size)
	}
	return nil
}

// checkLayout demands what the format does: the tensors fill the data from its first byte to the file's
// last, without holes or overlaps. It is what makes a download that ended early, or two files run
// together, an error here and not a vector of garbage later.
func checkLayout(tensors map[string]Tensor, begin, size int64) error {
	order := make([]Tensor, 0, len(tensors))
	for _, t := range tensors {
		order = append(order, t)
	}
	slices.SortFunc(order, func(a, b Tensor) int {
		// An empty tensor shares its offset with the one behind it.
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size), strings.Compare(a.Name, b.Name))
	})
	at, before := begin, "the header"
	for _, t := range order {
		switch {
		case t.Offset > size || t.Size > size-t.Offset:
			return fmt.Errorf("tensor %q wants bytes %d to %d, the file has %d: cut short", t.Name, t.Offset, t.Offset+t.Size, size)
		case t.Offset < at:
			return fmt.Errorf("tensor %q starts at byte %d, inside %s, which ends at %d", t.Name, t.Offset, before, at)
		case t.Offset > at:
			return fmt.Errorf("%d bytes before tensor %q belong to no tensor", t.Offset-at, t.Name)
		}
		at, before = t.Offset+t.Size, fmt.Sprintf("tensor %q", t.Name)
	}
	if at != size {
		return fmt.Errorf("%d bytes behind %s belong to no tensor", size-at, before)
	}
	return nil
}
