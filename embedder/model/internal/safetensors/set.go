package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// The names under which a folder keeps its weights.
const (
	SingleFile = "model.safetensors"
	IndexFile  = "model.safetensors.index.json"
)

// A Set is the tensors of a folder, of one file or of all its shards.
type Set struct {
	Dir     string
	Files   []string // the files that hold the tensors, sorted, relative to Dir
	Tensors map[string]Tensor
}

// Find reads the headers of the weights in dir, of [SingleFile] or else of the shards that [IndexFile]
// names. Without either its error wraps [fs.ErrNotExist]. Errors name the file.
func Find(dir string) (*Set, error) {
	s := &Set{Dir: dir, Tensors: make(map[string]Tensor)}
	switch tensors, err := headerOf(dir, SingleFile); {
	case err == nil:
		s.Files, s.Tensors = []string{SingleFile}, tensors
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, IndexFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SingleFile, fs.ErrNotExist)
	}
	if err := s.readShards(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", IndexFile, err)
	}
	return s, nil
}

// readShards fills s from an index, whose weight_map says in which file each tensor lies.
func (s *Set) readShards(raw []byte) error {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return err
	}
	shards := make(map[string]map[string]Tensor)
	for name, file := range index.WeightMap {
		// The index is somebody else's file: it doesn't get to name /etc/shadow as a shard.
		if !filepath.IsLocal(file) {
			return fmt.Errorf("tensor %q is said to lie in %q, outside the folder", name, file)
		}
		if shards[file] == nil {
			tensors, err := headerOf(s.Dir, file)
			if err != nil {
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

// headerOf reads the header of one file.
func headerOf(dir, file string) (map[string]Tensor, error) {
	f, err := os.Open(filepath.Join(dir, file))
	if err != nil {
		return nil, bare(file, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, bare(file, err)
	}
	tensors, err := Header(f, info.Size(), file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return tensors, nil
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
