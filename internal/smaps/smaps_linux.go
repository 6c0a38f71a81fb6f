package smaps

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Process returns the memory of a process of the same user; 0 is this one.
func Process(pid int) (Use, error) {
	return read(pid, "smaps_rollup", func(string) bool { return true })
}

// Files returns the memory of a process in mappings of the given files; 0 is this process. It takes some
// milliseconds for each gigabyte that is mapped.
func Files(pid int, paths ...string) (Use, error) {
	var resolved []string // the kernel knows no symbolic links
	for _, p := range paths {
		r, err := filepath.EvalSymlinks(p)
		if err != nil {
			return Use{}, fmt.Errorf("looking for mapped files: %w", err)
		}
		resolved = append(resolved, r)
	}
	return read(pid, "smaps", func(path string) bool { return slices.Contains(resolved, path) })
}

func read(pid int, name string, wanted func(string) bool) (Use, error) {
	who := "self"
	if pid != 0 {
		who = strconv.Itoa(pid)
	}
	f, err := os.Open(filepath.Join("/proc", who, name))
	if err != nil {
		return Use{}, fmt.Errorf("reading the memory of a process: %w", err)
	}
	defer f.Close()
	u, err := parse(f, wanted)
	if err != nil {
		return Use{}, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return u, nil
}
