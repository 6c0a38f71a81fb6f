package hub

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// publish makes the snapshot's folder out of blobs that are all there. The folder is put together under
// another name and renamed; if one exists (an older fetch, another program's, which may hold fewer files),
// the links are added to it one by one. Two processes may do this at once: each step leaves what the other's
// would have left. The markers of absent files come first, so that no snapshot is ever seen without them.
func (c cache) publish(info revision, files []file, weights func([]byte) error) (Snapshot, error) {
	s := c.snapshot(info.commit)
	if err := c.mark(info); err != nil {
		return Snapshot{}, err
	}
	if err := os.MkdirAll(filepath.Dir(s.Dir), 0o755); err != nil {
		return Snapshot{}, fmt.Errorf("making the snapshots folder: %w", err)
	}
	if !exists(s.Dir) {
		if err := c.build(s.Dir, files); err != nil {
			return Snapshot{}, err
		}
	}
	for _, f := range files {
		if err := c.link(s.Dir, s.Dir, f); err != nil {
			return Snapshot{}, err
		}
	}
	if err := complete(s.Dir, weights); err != nil {
		return Snapshot{}, fmt.Errorf("the repository is not complete: %w", err)
	}
	return s, nil
}

// build links files in a folder beside dir and renames it, so that a process killed in between leaves a
// hidden folder of dead weight (some links, no bytes) and not a snapshot that lacks its last file. Losing the
// race for the name is no error.
func (c cache) build(dir string, files []file) error {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".partial-*")
	if err != nil {
		return fmt.Errorf("making the snapshot's folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil { // MkdirTemp lets only the owner in
		return fmt.Errorf("making the snapshot's folder: %w", err)
	}
	for _, f := range files {
		if err := c.link(tmp, dir, f); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, dir); err != nil && !exists(dir) {
		return fmt.Errorf("renaming the snapshot's folder: %w", err)
	}
	return nil
}

// link makes dir/f.path point to its blob, with the relative target that is right for the folder's final
// place. A plain file of the right size stays: caches copied without links hold such.
func (c cache) link(dir, final string, f file) error {
	name := filepath.Join(dir, filepath.FromSlash(f.path))
	target, err := filepath.Rel(filepath.Dir(filepath.Join(final, filepath.FromSlash(f.path))), c.blob(f.digest))
	if err != nil {
		return fmt.Errorf("linking %s: %w", f.path, err)
	}
	if old, err := os.Readlink(name); err == nil && old == target {
		return nil
	}
	if st, err := os.Lstat(name); err == nil && st.Mode().IsRegular() && st.Size() == f.size {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("linking %s: %w", f.path, err)
	}
	return replace(name, func(tmp string) error { return os.Symlink(target, tmp) })
}

// mark notes which optional files the repository does not have. Only then can a later start without network
// tell "this model has no modules.json" from "nobody has asked for it yet", and pool as the authors meant.
func (c cache) mark(info revision) error {
	has := map[string]bool{}
	for _, f := range info.files {
		has[f.path] = true
	}
	for _, name := range optional {
		marker := c.marker(info.commit, name)
		if has[name] || exists(marker) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(marker), 0o755); err != nil {
			return fmt.Errorf("noting that %s does not exist: %w", name, err)
		}
		if err := os.WriteFile(marker, nil, 0o644); err != nil {
			return fmt.Errorf("noting that %s does not exist: %w", name, err)
		}
	}
	return nil
}

// writeRef notes the commit a branch or tag stood at, as the last write of a fetch: a name that can be looked
// up leads to a whole snapshot. A commit needs no note.
func (c cache) writeRef(rev, commit string) error {
	name := c.ref(rev)
	if isCommit(rev) {
		return nil
	}
	if old, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(old)) == commit {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("noting the revision's commit: %w", err)
	}
	return replace(name, func(tmp string) error { return os.WriteFile(tmp, []byte(commit), 0o644) })
}

// replace lets write make a new file or link beside name and renames it over name, which readers see either
// before or after and never halfway. The new one keeps its final name inside a folder of its own, so that
// nothing but replace needs to invent names.
func replace(name string, write func(tmp string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(name), ".partial-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, filepath.Base(name))
	if err := write(tmp); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
