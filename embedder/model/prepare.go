package model

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/embedfleet/embedfleet/internal/filelock"
	"github.com/embedfleet/embedfleet/internal/fingerprint"
)

const (
	manifestFile = "manifest.json"

	// PreparedFolder is the folder of a cache in which models are prepared, each in one that begins with its key.
	PreparedFolder = "prepared"

	// layoutVersion is raised whenever the files of a prepared folder change while the vectors don't.
	layoutVersion = 2
)

// Prepared is a folder with a graph that is ready to load.
type Prepared struct {
	Dir        string // absolute
	Graph      string // absolute path of the graph
	Key        string // of what was prepared; the folder's own name
	TokenTypes bool   // the graph asks for token_type_ids
	Reused     bool   // the folder was there already
}

// manifest is manifest.json: what a prepared folder must hold to be reused.
type manifest struct {
	Key   string                        `json:"key"`
	Files map[string]fingerprint.Digest `json:"files"` // without stamps: those are the host's
}

// WriteGraph writes the graph to dir, which must exist: [GraphFile] and its data files beside it. After an
// error the folder holds some of them, unfinished; use [Model.Prepare] where that matters.
func (m *Model) WriteGraph(ctx context.Context, dir string) error {
	for _, f := range m.weightFiles {
		if err := f.unchanged(folder(m.Dir)); err != nil {
			return fmt.Errorf("preparing %s: %w", m.Dir, err)
		}
	}
	if err := m.source.write(ctx, dir, m.head()); err != nil {
		return fmt.Errorf("preparing %s: %w", m.Dir, err)
	}
	return nil
}

// Prepare returns the model's folder below cacheDir/prepared, written now if it isn't there. Several
// processes may call it at once: one writes, the others wait and share the result.
//
// The folder appears only when it is complete and on the disk. An error, the end of ctx included, leaves
// nothing behind; what a killed process leaves (a folder ending in .partial) the next one removes. Other
// rooms may put files of their own beside the graph.
func (m *Model) Prepare(ctx context.Context, cacheDir string) (p Prepared, err error) {
	cacheDir, err = filepath.Abs(cacheDir)
	if err != nil {
		return Prepared{}, fmt.Errorf("preparing %s: %w", m.Dir, err)
	}
	root := filepath.Join(cacheDir, PreparedFolder)
	key := m.PreparedKey()
	dir := filepath.Join(root, key)
	p = Prepared{Dir: dir, Graph: filepath.Join(dir, GraphFile), Key: key, TokenTypes: m.source.tokenTypes(), Reused: true}
	// The usual case, without a lock: a folder has this name only if it was complete.
	if m.complete(ctx, dir, key) {
		return p, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return Prepared{}, fmt.Errorf("preparing %s: %w", m.Dir, err)
	}
	lock, err := filelock.Acquire(ctx, dir+".lock")
	if err != nil {
		return Prepared{}, fmt.Errorf("preparing %s: %w", m.Dir, err)
	}
	defer finish(&err, lock.Remove) // a cache holds nothing but models
	if m.complete(ctx, dir, key) {  // somebody else wrote it while we waited
		return p, nil
	}
	if err := m.writePrepared(ctx, dir, key); err != nil {
		return Prepared{}, err
	}
	p.Reused = false
	return p, nil
}

// writePrepared writes the folder under another name and renames it when it is complete.
func (m *Model) writePrepared(ctx context.Context, dir, key string) (err error) {
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return fmt.Errorf("removing what an earlier run left: %w", err)
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return fmt.Errorf("preparing %s: %w", m.Dir, err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(partial)
		}
	}()
	if err := m.WriteGraph(ctx, partial); err != nil {
		return err
	}
	// The manifest names every file, so a folder that lost one later is noticed and made anew.
	if err := m.writeManifest(ctx, partial, key); err != nil {
		return fmt.Errorf("writing %s: %w", manifestFile, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("preparing %s: %w", m.Dir, err)
	}
	if err := os.RemoveAll(dir); err != nil { // damaged, or it would have been reused
		return fmt.Errorf("replacing a damaged folder: %w", err)
	}
	if err := os.Rename(partial, dir); err != nil {
		return fmt.Errorf("preparing %s: %w", m.Dir, err)
	}
	// Without this the rename itself may be lost in a power cut, which only costs writing it again.
	return syncDir(filepath.Dir(dir))
}

// writeManifest records the files of dir.
func (m *Model) writeManifest(ctx context.Context, dir, key string) error {
	list := manifest{Key: key, Files: make(map[string]fingerprint.Digest)}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		got, err := (*fingerprint.Digests)(nil).Of(ctx, path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		list.Files[filepath.ToSlash(name)] = fingerprint.Digest{Size: got.Size, SHA256: got.SHA256}
		return err
	})
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(dir, manifestFile), append(raw, '\n')); err != nil {
		return err
	}
	return syncDir(dir)
}

// complete reports whether dir holds, byte for byte, what its manifest says. A file whose digest is known is
// not read again.
func (m *Model) complete(ctx context.Context, dir, key string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return false
	}
	var list manifest
	if json.Unmarshal(raw, &list) != nil || list.Key != key || len(list.Files) == 0 {
		return false
	}
	for name, want := range list.Files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if info, err := os.Stat(path); err != nil || info.Size() != want.Size {
			return false
		}
		if got, err := m.known.Of(ctx, path); err != nil || got.SHA256 != want.SHA256 {
			return false
		}
	}
	return true
}

// PreparedKey is the hex SHA-256, cut to 32 digits, of everything that changes the files.
func (m *Model) PreparedKey() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "embedfleet-prepared %d\nmaths %d\npacked %t\nweights %s\nnetwork %s\npooling %s\nnormalized %t\n%s",
		layoutVersion, mathsVersion, m.Packed, together(m.weightFiles), m.net, m.Pooling, m.Normalize, m.head()))
	return hex.EncodeToString(sum[:])[:32]
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	finish(&err, f.Close)
	return err
}
