package checkpoint

import (
	"archive/zip"
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
)

// legacyMagic begins a file that torch wrote before its version 1.6: the pickle of a number, protocol 2.
const legacyMagic = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

// TorchHeader returns the tensors of a file that torch.save wrote, of size bytes, by name. It reads the file's
// pickle without Python's objects (see [unpickler]) and none of the tensors' content. Every tensor returned lies
// inside the file. Tensors may share their content, as tied weights do.
func TorchHeader(r io.ReaderAt, size int64, file string) (map[string]Tensor, error) {
	begin := make([]byte, len(legacyMagic))
	n, err := r.ReadAt(begin, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var root any
	var places map[string]span
	switch begin = begin[:n]; {
	case string(begin) == legacyMagic:
		root, places, err = readLegacy(r, size)
	case strings.HasPrefix(string(begin), "PK"):
		root, places, err = readArchive(r, size)
	default:
		return nil, fmt.Errorf("the file begins with %.16q: neither of torch's two forms", begin)
	}
	if err != nil {
		return nil, err
	}
	return tensorsOf(root, places, file)
}

// A span is where a storage's bytes lie in the file.
type span struct{ offset, size int64 }

// readArchive reads the form of torch 1.6 and later: a ZIP archive of stored entries, in one folder: data.pkl, and
// data/KEY for each storage (torch, serialization.py, _save).
func readArchive(r io.ReaderAt, size int64) (any, map[string]span, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the archive: %w", err)
	}
	var pickle *zip.File
	places := make(map[string]span)
	for _, f := range z.File {
		_, name, _ := strings.Cut(f.Name, "/")
		key, content := strings.CutPrefix(name, "data/")
		if !content && name != "data.pkl" && name != "byteorder" {
			continue // versions and the like
		}
		at, err := f.DataOffset()
		if err != nil {
			return nil, nil, fmt.Errorf("reading the archive's entry %.100q: %w", f.Name, err)
		}
		// Compared as unsigned numbers: a forged length has the highest bit set.
		length := f.UncompressedSize64
		switch {
		case f.Method != zip.Store:
			return nil, nil, fmt.Errorf("the archive's entry %.100q is compressed, which torch does not do", f.Name)
		case length > uint64(size) || at < 0 || at > size-int64(length):
			return nil, nil, fmt.Errorf("the archive's entry %.100q wants %d bytes at %d, the file has %d: cut short", f.Name, length, at, size)
		case content:
			if _, twice := places[key]; twice {
				return nil, nil, fmt.Errorf("the archive has %.100q twice", f.Name)
			}
			places[key] = span{at, int64(length)}
		case name == "byteorder":
			if order, err := io.ReadAll(io.NewSectionReader(r, at, min(int64(length), 16))); err != nil || string(order) != "little" {
				return nil, nil, fmt.Errorf("the archive's byteorder is %q, only little is read", order)
			}
		case pickle != nil:
			return nil, nil, errors.New("the archive has data.pkl twice")
		default:
			pickle = f
		}
	}
	if pickle == nil {
		return nil, nil, fmt.Errorf("the archive has no %s: not a checkpoint", path.Join("NAME", "data.pkl"))
	}
	content, err := pickle.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("reading data.pkl: %w", err)
	}
	defer content.Close()
	root, err := unpickle(bufio.NewReader(content), newStorage)
	if err != nil {
		return nil, nil, fmt.Errorf("data.pkl: %w", err)
	}
	return root, places, nil
}

// newStorage is storageOf for a pickle.
func newStorage(id any) (any, error) { return storageOf(id) }

// storageOf makes a storage of its persistent id: ("storage", type, key, device, elements) and, in the old form, a
// view of another storage, which nothing writes any more.
func storageOf(id any) (*storage, error) {
	args, ok := id.(*list)
	if !ok || len(args.items) < 5 || len(args.items) > 6 || args.items[0] != "storage" {
		return nil, errors.New("the pickle names something outside of it that is no storage")
	}
	name, ok1 := args.items[1].(global)
	key, ok2 := args.items[2].(string)
	numel, ok3 := args.items[4].(int64)
	dtype, known := storages[name]
	switch {
	case !ok1 || !ok2 || !ok3 || !known || numel < 0:
		return nil, errors.New("the pickle names a storage without type, key or size")
	case len(args.items) == 6 && args.items[5] != nil:
		return nil, fmt.Errorf("storage %.100q is a view of another one, which is not read", key)
	case numel > math.MaxInt64/bytesOf(dtype):
		return nil, fmt.Errorf("storage %.100q has %d elements: impossible", key, numel)
	}
	return &storage{dtype, key, numel}, nil
}

// readLegacy reads the form before torch 1.6: pickles of a number, the form's version, the writer's system, the
// object and the storages' keys, and then for each key how many elements it has, 8 bytes, and these (torch,
// serialization.py, _legacy_save).
func readLegacy(r io.ReaderAt, size int64) (any, map[string]span, error) {
	at := &countingReader{r: io.NewSectionReader(r, 0, size)}
	b := bufio.NewReader(at)
	found := make(map[string]*storage)
	var values [5]any
	for i := range values {
		var err error
		values[i], err = unpickle(b, func(id any) (any, error) {
			s, err := storageOf(id)
			if err != nil {
				return nil, err
			}
			if known := found[s.key]; known != nil && *known != *s {
				return nil, fmt.Errorf("storage %.100q is named with two sizes", s.key)
			}
			found[s.key] = s
			return s, nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("pickle %d of the file: %w", i+1, err)
		}
	}
	if values[1] != int64(1001) {
		return nil, nil, fmt.Errorf("the form has the version %s, only 1001 is read", say(values[1]))
	}
	if system, ok := values[2].(*dict); !ok || system.get("little_endian") != true {
		return nil, nil, errors.New("the file was written by a machine with another order of bytes")
	}
	keys, ok := values[4].(*list)
	if !ok {
		return nil, nil, errors.New("the file does not list its storages")
	}
	places := make(map[string]span)
	offset := at.n - int64(b.Buffered())
	for _, key := range keys.items {
		name, _ := key.(string)
		s := found[name]
		if s == nil {
			return nil, nil, fmt.Errorf("storage %s belongs to no tensor", say(key))
		}
		var numel [8]byte
		if _, err := r.ReadAt(numel[:], offset); err != nil {
			return nil, nil, fmt.Errorf("storage %.100q: the file is cut short", name)
		}
		length := s.numel * bytesOf(s.dtype)
		if got := binary.LittleEndian.Uint64(numel[:]); got != uint64(s.numel) {
			return nil, nil, fmt.Errorf("storage %.100q has %d elements, the pickle says %d", name, got, s.numel)
		}
		if offset += 8; length > size-offset {
			return nil, nil, fmt.Errorf("storage %.100q wants %d bytes at %d, the file has %d: cut short", name, length, offset, size)
		}
		places[name] = span{offset, length}
		offset += length
	}
	return values[3], places, nil
}

// get returns the value of a key, or nil.
func (d *dict) get(key string) any {
	for i, k := range d.keys {
		if k == key {
			return d.values[i]
		}
	}
	return nil
}

// tensorsOf turns a dictionary of views into tensors.
func tensorsOf(root any, places map[string]span, file string) (map[string]Tensor, error) {
	d, ok := root.(*dict)
	if !ok {
		return nil, errors.New("the file holds no dictionary of tensors")
	}
	tensors := make(map[string]Tensor, len(d.keys))
	for i, key := range d.keys {
		name, ok := key.(string)
		v, tensor := d.values[i].(*view)
		if !ok || !tensor {
			return nil, fmt.Errorf("the file's entry %s is no tensor", say(key))
		}
		if _, twice := tensors[name]; twice {
			return nil, fmt.Errorf("tensor %.100q is in the file twice", name)
		}
		place, ok := places[v.of.key]
		if !ok {
			return nil, fmt.Errorf("tensor %.100q: its storage %.100q is not in the file", name, v.of.key)
		}
		t, err := v.tensor(place)
		if err != nil {
			return nil, fmt.Errorf("tensor %.100q: %w", name, err)
		}
		t.Name, t.File = name, file
		tensors[name] = t
	}
	return tensors, nil
}

// tensor places a view in the file and checks that all of it lies in its storage.
func (v *view) tensor(place span) (Tensor, error) {
	width := bytesOf(v.of.dtype)
	if v.of.numel*width > place.size {
		return Tensor{}, fmt.Errorf("its storage should have %d bytes, the file has %d of it", v.of.numel*width, place.size)
	}
	t := Tensor{DType: v.of.dtype, Shape: v.shape, Size: width}
	last, dense := v.offset, true
	for i, dim := range slices.Backward(v.shape) {
		d, step := int64(dim), int64(v.stride[i])
		if d > 0 && (t.Size > math.MaxInt64/2/d || step > 0 && d-1 > (math.MaxInt64/2-last)/step) {
			return Tensor{}, fmt.Errorf("it has the impossible shape %v", v.shape)
		}
		dense = dense && (d <= 1 || step == t.Size/width)
		t.Size *= d
		last += max(0, d-1) * step
	}
	if t.Size > 0 && last >= v.of.numel || v.offset > v.of.numel {
		return Tensor{}, fmt.Errorf("it ends at element %d of a storage of %d", last, v.of.numel)
	}
	t.Offset = place.offset + v.offset*width
	if !dense && t.Size > 0 {
		t.stride = v.stride
	}
	return t, nil
}

// countingReader counts what was read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}
