package onnx

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/cpu"

	"github.com/embedfleet/embedfleet/internal/fingerprint"
)

const (
	manifestName   = "manifest.json"
	manifestFormat = 2 // 1 had tensors wherever the one before ended
	graphName      = "graph.onnx"
	dataName       = "graph.onnx_data"
)

// A Prepared names a prepared folder and what it was made from.
type Prepared struct {
	// Dir is an absolute path, owned by [Runtime.Prepack]: Dir itself, Dir.partial and Dir.lock. Its last
	// element should contain [Runtime.Key], so that hosts of several kinds may share a cache.
	Dir string
	// Source identifies graph and weights, by a digest for example. A folder of another source is not used.
	Source string
}

func (p Prepared) graph() string { return filepath.Join(p.Dir, graphName) }

// A manifest says what a prepared folder holds and where it is valid.
type manifest struct {
	Format  int                 `json:"format"`
	Runtime string              `json:"runtime"` // version of the library that wrote it
	CPU     string              `json:"cpu"`     // cpuKey of the machine that wrote it
	Source  string              `json:"source"`
	Files   map[string]fileInfo `json:"files"` // by name within the folder

	digested bool // by verify: some file had to be read, its stamp is new
}

type fileInfo struct {
	Size   int64  `json:"size"`
	Digest string `json:"digest"`          // see digestFile
	Stamp  string `json:"stamp,omitempty"` // see package fingerprint; of the file that has this digest
}

// Key names everything outside the model that a prepared graph depends on, fit for a file's name: the
// runtime's version, the processor's kind and those of its features that choose a matrix kernel.
func (rt *Runtime) Key() string { return "ort" + rt.version + "-" + cpuKey() }

// cpuKey lists the instruction sets that select the runtime's matrix kernels, and with them the layout of
// prepacked weights.
func cpuKey() string {
	parts := []string{runtime.GOARCH}
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"avx2", cpu.X86.HasAVX2},
		{"fma", cpu.X86.HasFMA},
		{"avx512", cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL},
		{"vnni", cpu.X86.HasAVX512VNNI},
		{"avxvnni", cpu.X86.HasAVXVNNI},
		{"bf16", cpu.X86.HasAVX512BF16},
		{"amx", cpu.X86.HasAMXTile && cpu.X86.HasAMXInt8},
		{"dot", cpu.ARM64.HasASIMDDP},
		{"i8mm", cpu.ARM64.HasI8MM},
		{"sve", cpu.ARM64.HasSVE},
	} {
		if f.has {
			parts = append(parts, f.name)
		}
	}
	return strings.Join(parts, "-")
}

// Verify reports why the prepared folder may not be loaded here: absent, of another runtime, processor or
// source, not byte for byte what was written, or with a tensor where no kernel may read it.
//
// A file that the system says nobody has touched since it was digested is not read again: that would take
// longer than the load it guards. So what it notices is every change by way of the file system, not a disk
// that forgets.
func (rt *Runtime) Verify(p Prepared) error {
	_, err := rt.verify(p)
	return err
}

// verify is Verify. It returns the manifest with the stamps that the files have now.
func (rt *Runtime) verify(p Prepared) (manifest, error) {
	m, err := readManifest(p.Dir)
	if err != nil {
		return m, err
	}
	err = m.matches(rt.manifest(p.Source))
	for _, name := range []string{graphName, dataName} {
		if _, ok := m.Files[name]; !ok && err == nil {
			err = fmt.Errorf("%s is not in its manifest", name)
		}
	}
	for name, want := range m.Files {
		if err == nil {
			err = m.verifyFile(p.Dir, name, want)
		}
	}
	if err == nil {
		err = checkAligned(p.Dir)
	}
	if err != nil {
		return m, fmt.Errorf("prepared folder %s: %w", p.Dir, err)
	}
	return m, nil
}

// verifyFile compares one file with what was written, by its stamp or else by its digest.
func (m *manifest) verifyFile(dir, name string, want fileInfo) error {
	path := filepath.Join(dir, name)
	stat, err := os.Stat(path)
	if err != nil {
		return err
	}
	if stat.Size() == want.Size && want.Stamp != "" && want.Stamp == fingerprint.Stamp(stat) {
		return nil
	}
	got, err := digestFile(path)
	if err != nil {
		return err
	}
	if got.Size != want.Size || got.Digest != want.Digest {
		return fmt.Errorf("%s is not the file that was written: %d bytes with digest %.12s, want %d with %.12s",
			name, got.Size, got.Digest, want.Size, want.Digest)
	}
	m.Files[name], m.digested = got, true
	return nil
}

// manifest returns the manifest, without files, of a folder that is valid here.
func (rt *Runtime) manifest(source string) manifest {
	return manifest{Format: manifestFormat, Runtime: rt.version, CPU: cpuKey(), Source: source}
}

func readManifest(dir string) (m manifest, err error) {
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return m, fmt.Errorf("reading the manifest of a prepared graph: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("reading %s of %s: %w", manifestName, dir, err)
	}
	for name := range m.Files {
		if !filepath.IsLocal(name) {
			return m, fmt.Errorf("%s of %s names %q, a file outside the folder", manifestName, dir, name)
		}
	}
	return m, nil
}

// matches compares all but the files.
func (m manifest) matches(want manifest) error {
	for _, f := range []struct{ what, got, want string }{
		{"format", fmt.Sprint(m.Format), fmt.Sprint(want.Format)},
		{"onnx runtime", m.Runtime, want.Runtime},
		{"processor", m.CPU, want.CPU},
		{"source", m.Source, want.Source},
	} {
		if f.got != f.want {
			return fmt.Errorf("made for %s %q, this is %q", f.what, f.got, f.want)
		}
	}
	return nil
}

// digest reads the named files of a folder.
func digest(dir string, names []string) (map[string]fileInfo, error) {
	byName := make(map[string]fileInfo, len(names))
	for _, name := range names {
		info, err := digestFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		byName[name] = info
	}
	return byName, nil
}

// digestBlock is how much of a file one goroutine digests at a time.
const digestBlock = 8 << 20

// digestFile returns a file's size, digest and stamp. The digest is SHA-256 over the SHA-256 of the file's
// blocks, which all cores compute side by side, since a boot may wait for it.
func digestFile(path string) (fileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return fileInfo{}, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return fileInfo{}, err
	}
	sums := make([][sha256.Size]byte, (stat.Size()+digestBlock-1)/digestBlock)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range sums {
		g.Go(func() error {
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(f, int64(i)*digestBlock, digestBlock)); err != nil {
				return fmt.Errorf("reading %s: %w", path, err)
			}
			h.Sum(sums[i][:0])
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fileInfo{}, err
	}
	whole := sha256.New()
	for _, sum := range sums {
		whole.Write(sum[:])
	}
	// The stamp is older than the digest: a write in between shows as another stamp.
	info := fileInfo{Size: stat.Size(), Digest: hex.EncodeToString(whole.Sum(nil)), Stamp: fingerprint.Lasting(stat)}
	return info, nil
}
