//go:build unix

package hub

import (
	"fmt"
	"path/filepath"
	"syscall"
)

// freeBytes returns how much the user may still write to the disk of a folder, or of its nearest parent if
// it does not exist yet.
func freeBytes(dir string) (uint64, error) {
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil //nolint:unconvert // their types differ between systems
}
