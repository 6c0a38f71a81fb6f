package smaps

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFiles maps a file by way of a symbolic link, reads it and writes to a page, and finds
// just that; in a file that is not mapped it finds nothing.
func TestFiles(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	before, err := Files(0, link)
	if err != nil || before != (Use{}) {
		t.Errorf("not mapped: %+v, %v; want nothing", before, err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // a page that waits for the disk counts as dirty
		t.Fatal(err)
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Munmap(m); err != nil {
			t.Error(err)
		}
	}()
	sum := byte(0)
	for _, b := range m {
		sum += b
	}
	m[0] = 1 + sum
	got, err := Files(0, link)
	if err != nil {
		t.Fatal(err)
	}
	if got.Private+got.Shared != size || got.Dirty != int64(os.Getpagesize()) {
		t.Errorf("mapped: %+v, want %d bytes in all, one page of them dirty", got, size)
	}
	if all, err := Process(os.Getpid()); err != nil || all.Private < got.Private || all.Proportional < got.Proportional {
		t.Errorf("the process: %+v, %v; want at least %+v", all, err, got)
	}
}
