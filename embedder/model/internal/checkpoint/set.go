package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// SingleFile is where weights are looked for first.
const SingleFile = "model.safetensors"

// A form is a file format of weights, with the names that a folder gives its files.
type form struct {
	single, index string
	header        func(r io.ReaderAt, size int64, file string) (map[string]Tensor, error)
}

// forms lists the formats in the order in which transformers looks for them.
var forms = [...]form{
	{SingleFile, "model.safetensors.index.json", Header},
	{"pytorch_model.bin", "pytorch_model.bin.index.json", TorchHeader},
}

// A Set is the tensors of a folder, of one file or of all its shards.
type Set struct {
	Dir     string
	Files   []string // the files that hold the tensors, sorted, relative to Dir
	Tensors map[string]Tensor
}

// Find reads the headers of the weights in dir: of a safetensors file or the shards that an index names, else of a
// torch.save file or its shards. Without any its error wraps [fs.ErrNotExist]. Errors name the file.
func Find(dir string) (*Set, error) {
	for _, f := range forms {
		s := &Set{Dir: dir, Tensors: make(map[string]Tensor)}
		switch tensors, err := f.read(dir, f.single); {
		case err == nil:
			s.Files, s.Tensors = []string{f.single}, tensors
			return s, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
		raw, err := ReadSmall(filepath.Join(dir, f.index))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = s.readShards(f, raw)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.index, err)
		}
		return s, nil
	}
	return nil, fmt.Errorf("%s: %w", SingleFile, fs.ErrNotExist)
}

// Open reads the header of one file of torch.save or of safetensors, by its name's ending.
func Open(dir, file string) (*Set, error) {
	f := forms[0]
	if filepath.Ext(file) != ".safetensors" {
		f = forms[1]
	}
	tensors, err := f.read(dir, file)
	if err != nil {
		return nil, err
	}
	return &Set{Dir: dir, Files: []string{file}, Tensors: tensors}, nil
}

// readShards fills s from an index, whose weight_map says in which file each tensor lies.
func (s *Set) readShards(f form, raw []byte) error {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return err
	}
	shards := make(map[string]map[string]Tensor)
	for _, name := range slices.Sorted(maps.Keys(index.WeightMap)) { // so that the first error is always the same
		file := index.WeightMap[name]
		// The index is somebody else's file: it doesn't get to name /etc/shadow as a shard.
		if !filepath.IsLocal(file) {
			return fmt.Errorf("tensor %q is said to lie in %q, outside the folder", name, file)
		}
		if shards[file] == nil {
			tensors, err := f.read(s.Dir, file)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("shard %w: fetch it, the index spreads the weights over it", err)
			} else if err != nil {
				return err
			}
			shards[file] = tensors
			s.Files = append(s.Files, file)
		}
		t, ok := shards[file][name]
		if !ok {
			return fmt.Errorf("tensor %q is not in %s, where it should be", name, file)
		}
		s.Tensors[name] = t
	}
	if len(s.Files) == 0 {
		return errors.New("weight_map is empty")
	}
	slices.Sort(s.Files)
	return nil
}

// lfsPointer begins the small file that git keeps in the place of a large one (git-lfs, docs/spec.md).
const lfsPointer = "version https://git-lfs"

// read reads the header of one file.
func (f form) read(dir, file string) (map[string]Tensor, error) {
	r, info, err := open(filepath.Join(dir, file))
	if err != nil {
		return nil, bare(file, err)
	}
	defer r.Close()
	begin := make([]byte, len(lfsPointer))
	if n, err := r.ReadAt(begin, 0); err == nil && string(begin[:n]) == lfsPointer {
		return nil, fmt.Errorf("%s: it is a git-lfs pointer, the file itself was not fetched: run git lfs pull in the folder", file)
	}
	tensors, err := f.header(r, info.Size(), file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return tensors, nil
}

// open opens a regular file: anything else may block for ever, or never end.
func open(path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	return f, info, err
}

// maxSmall bounds a file of text that is read whole.
const maxSmall = 64 << 20

// ReadSmall returns the content of a regular file of at most 64 MB.
func ReadSmall(path string) ([]byte, error) {
	f, info, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > maxSmall {
		return nil, fmt.Errorf("it has %d bytes, at most %d are expected of its kind", info.Size(), maxSmall)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxSmall))
	if err == nil && strings.HasPrefix(string(raw), lfsPointer) {
		err = errors.New("it is a git-lfs pointer, the file itself was not fetched: run git lfs pull in the folder")
	}
	return raw, err
}

// bare replaces the absolute path in an error of package os by the name inside the folder: callers say once
// which folder it is.
func bare(file string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("%s: %w", file, err)
}

// A Reader reads the tensors of a set, keeping the files open that it has read from.
type Reader struct {
	dir  string
	open map[string]*os.File
}

// NewReader returns a reader of s. It opens no file yet.
func (s *Set) NewReader() *Reader { return &Reader{dir: s.Dir, open: make(map[string]*os.File)} }

// Read converts len(dst) elements of t, beginning with element from; see [Tensor.Read].
func (r *Reader) Read(dst []float32, t Tensor, from int) error {
	f := r.open[t.File]
	if f == nil {
		var err error
		if f, err = os.Open(filepath.Join(r.dir, t.File)); err != nil {
			return bare(t.File, err)
		}
		r.open[t.File] = f
	}
	if err := t.Read(dst, f, from); err != nil {
		return fmt.Errorf("%s: %w", t.File, err)
	}
	return nil
}

// Close closes the files. The reader can't be used afterwards.
func (r *Reader) Close() error {
	var errs []error
	for _, f := range r.open {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
