// Package fingerprint tells whether a file is the one it was: by its digest, or, since reading gigabytes
// takes longer than what it guards, by a stamp that the system changes with every change of the file. It
// refuses to know what files are for.
package fingerprint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// clockTick is more than the clock of any file system advances at once. A file that was changed within it
// may change again without a trace, so its stamp proves nothing.
const clockTick = 50 * time.Millisecond

// Stamp returns what differs whenever a file's content has been changed or another file has its name: its
// inode and the time of the latest change, which, other than that of the latest write, no program can set.
// It is empty where the system does not tell.
func Stamp(info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	changed, known := changeTime(info)
	if !ok || !known {
		return ""
	}
	return fmt.Sprintf("%d-%d", stat.Ino, changed.UnixNano())
}

// Lasting is Stamp, but empty while the file is so new that it may change without another stamp.
func Lasting(info fs.FileInfo) string {
	if changed, ok := changeTime(info); !ok || time.Since(changed) <= clockTick {
		return ""
	}
	return Stamp(info)
}

// A Digest is a file's SHA-256.
type Digest struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`          // hex
	Stamp  string `json:"stamp,omitempty"` // of the file that has this digest; "" proves nothing
}

// Digests remembers the digests of files, in a file of its own, for as long as their stamps stay. A nil
// *Digests remembers nothing. It is safe for concurrent use, in several processes too: what one of them
// forgets is read again.
type Digests struct {
	path string

	mu    sync.Mutex
	files map[string]Digest // by absolute path
	fresh bool              // files has what the file has not
}

// OpenDigests returns what the file at path remembers: nothing if it can't be read.
func OpenDigests(path string) *Digests {
	d := &Digests{path: path, files: make(map[string]Digest)}
	if raw, err := os.ReadFile(path); err == nil {
		if json.Unmarshal(raw, &d.files) != nil || d.files == nil {
			d.files = make(map[string]Digest)
		}
	}
	return d
}

// Of returns the digest of the file at an absolute path, reading it if it has to; about a second for each
// gigabyte. It gives up when ctx ends.
func (d *Digests) Of(ctx context.Context, path string) (Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Digest{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Digest{}, err
	}
	if known, ok := d.get(path); ok && known.Size == info.Size() && known.Stamp == Stamp(info) {
		return known, nil
	}
	h := sha256.New()
	n, err := io.Copy(h, &reader{ctx, f})
	if err != nil {
		return Digest{}, err
	}
	// The stamp is older than the digest: a write in between shows as another stamp.
	got := Digest{Size: n, SHA256: hex.EncodeToString(h.Sum(nil)), Stamp: Lasting(info)}
	d.keep(path, got)
	return got, nil
}

func (d *Digests) get(path string) (Digest, bool) {
	if d == nil {
		return Digest{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.files[path]
	return known, ok && known.Stamp != ""
}

func (d *Digests) keep(path string, got Digest) {
	if d == nil || got.Stamp == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[path], d.fresh = got, true
}

// Save writes down what has been read since the last time, if anything, and forgets files that are gone.
// Without it the files are read again, so its error is nothing to fail for.
func (d *Digests) Save() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.fresh {
		return nil
	}
	for path := range d.files {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			delete(d.files, path)
		}
	}
	raw, err := json.MarshalIndent(d.files, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(d.path, append(raw, '\n')); err != nil {
		return fmt.Errorf("remembering digests: %w", err)
	}
	d.fresh = false
	return nil
}

// replaceFile writes a file so that readers see the old one or the new one.
func replaceFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fresh := fmt.Sprintf("%s.%d-%d", path, os.Getpid(), time.Now().UnixNano())
	err := os.WriteFile(fresh, content, 0o644)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	return nil
}

// A reader ends with its context.
type reader struct {
	ctx context.Context //nolint:containedctx // it lives as long as one copy
	r   io.Reader
}

func (r *reader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}
