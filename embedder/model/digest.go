package model

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// A File is a file of the folder that the model was made from.
type File struct {
	Name   string // relative to the folder, with forward slashes
	Size   int64
	SHA256 string // hex

	modified time.Time // together with Size, tells whether the file was replaced since
}

// digest returns the digest of a file, which is read unless it is known.
func (m *Model) digest(ctx context.Context, d folder, name string) (File, error) {
	info, err := os.Stat(d.path(name))
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", name, plain(err))
	}
	got, err := m.known.Of(ctx, d.path(name))
	if err != nil {
		return File{}, fmt.Errorf("reading %s: %w", name, plain(err))
	}
	return File{Name: name, Size: got.Size, SHA256: got.SHA256, modified: info.ModTime()}, nil
}

// unchanged reports whether f still has the size and time it had when it was digested.
func (f File) unchanged(d folder) error {
	info, err := os.Stat(d.path(f.Name))
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, plain(err))
	}
	if info.Size() != f.Size || !info.ModTime().Equal(f.modified) {
		return fmt.Errorf("%s has changed since the model was opened", f.Name)
	}
	return nil
}

// together returns one digest for several files: of a single one its own, so that it can be compared with
// what a hub shows, else that of the list "digest  name", sorted by name, which sha256sum prints.
func together(files []File) string {
	if len(files) == 1 {
		return files[0].SHA256
	}
	h := sha256.New()
	for _, f := range slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Name, b.Name) }) {
		fmt.Fprintf(h, "%s  %s\n", f.SHA256, f.Name)
	}
	return hex.EncodeToString(h.Sum(nil))
}
