package onnx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/embedfleet/embedfleet/internal/filelock"
)

// A Graph says where a graph is, or puts it into the empty folder dir, with its data files beside it, and says so.
type Graph func(ctx context.Context, dir string) (path string, err error)

// File is a graph that lies at an absolute path.
func File(path string) Graph {
	return func(context.Context, string) (string, error) { return path, nil }
}

// Prepack makes sure that p.Dir holds a graph optimised and prepacked for this runtime and
// processor. The graph is asked for only if it is needed, and what it puts into its folder goes when the work is done,
// so that the weights do not stay twice. A folder that [Runtime.Verify] accepts is left alone; any other is written anew. The work goes
// to p.Dir.partial under a lock on p.Dir.lock, shared with other processes, and is renamed when all of it
// is on disk, so that no reader meets half a folder. A folder that is valid may be read-only. Output is the
// graph's output, "" for "embedding".
//
// The folder takes about 1.8 times the weights; the write needs the memory of a plain load.
func (rt *Runtime) Prepack(ctx context.Context, graph Graph, output string, p Prepared) (err error) {
	if !filepath.IsAbs(p.Dir) {
		return fmt.Errorf("prepared folder %q is not an absolute path", p.Dir)
	}
	if m, err := rt.verify(p); err == nil {
		rt.keepStamps(p.Dir, m)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.Dir), 0o755); err != nil {
		return fmt.Errorf("making room for a prepared graph: %w", err)
	}
	lock, err := filelock.Acquire(ctx, p.Dir+".lock")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Remove()) }()
	if rt.Verify(p) == nil {
		return nil // another process was faster
	}
	start := time.Now()
	if err := rt.prepack(ctx, graph, Options{Output: output}.withDefaults().Output, p); err != nil {
		return fmt.Errorf("preparing %s: %w", p.Dir, err)
	}
	rt.log.Info("graph prepared", "dir", p.Dir, "dur", time.Since(start))
	return nil
}

// prepack writes the folder while the lock is held.
func (rt *Runtime) prepack(ctx context.Context, graph Graph, output string, p Prepared) error {
	partial := p.Dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	plain := filepath.Join(partial, "plain")
	if err := os.MkdirAll(plain, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	path, err := graph(ctx, plain)
	if err != nil {
		return err
	}
	names, err := readPorts(path, output)
	if err != nil {
		return err
	}
	if err := rt.writeOptimised(ctx, path, names, partial); err != nil {
		return err
	}
	if err := os.RemoveAll(plain); err != nil {
		return err
	}
	if err := align(partial); err != nil {
		return err
	}
	m := rt.manifest(p.Source)
	if m.Files, err = digest(partial, []string{graphName, dataName}); err != nil {
		return err
	}
	if err := writeManifest(filepath.Join(partial, manifestName), m); err != nil {
		return err
	}
	if err := syncAll(partial, graphName, dataName, manifestName, "."); err != nil {
		return err
	}
	if err := os.RemoveAll(p.Dir); err != nil {
		return err
	}
	if err := os.Rename(partial, p.Dir); err != nil {
		return err
	}
	return syncAll(filepath.Dir(p.Dir), ".")
}

// writeOptimised creates a session with the options that make the runtime write what it made of the graph:
// the optimised graph, and beside it the weights together with their prepacked forms.
func (rt *Runtime) writeOptimised(ctx context.Context, graphPath string, names ports, dir string) error {
	if err := rt.retain(); err != nil {
		return err
	}
	defer rt.release()
	so, err := rt.sessionOptions(1)
	if err != nil {
		return err
	}
	defer so.Destroy()
	err = errors.Join(
		so.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll),
		so.SetOptimizedModelFilePath(filepath.Join(dir, graphName)),
		so.AddSessionConfigEntry("session.optimized_model_external_initializers_file_name", dataName),
		so.AddSessionConfigEntry("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
		so.AddSessionConfigEntry("session.save_external_prepacked_constant_initializers", "1"),
	)
	if err != nil {
		return fmt.Errorf("setting session options: %w", err)
	}
	native, err := rt.create(ctx, graphPath, names, so)
	if err != nil {
		return err
	}
	return native.Destroy()
}

// keepStamps notes in the manifest that files were digested since it was written, m being what [Runtime.verify]
// returned. A folder that can't be written to is digested at every load, which is slow but right.
func (rt *Runtime) keepStamps(dir string, m manifest) {
	if !m.digested {
		return
	}
	path := filepath.Join(dir, manifestName)
	fresh := fmt.Sprintf("%s.%d", path, time.Now().UnixNano()) // another process may do the same
	err := writeManifest(fresh, m)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		rt.log.Debug("manifest not renewed", "dir", dir, "err", errors.Join(err, os.RemoveAll(fresh)))
	}
}

func writeManifest(path string, m manifest) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// syncAll flushes files and folders within dir to the disk.
func syncAll(dir string, names ...string) error {
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("flushing %s: %w", name, err)
		}
	}
	return nil
}
