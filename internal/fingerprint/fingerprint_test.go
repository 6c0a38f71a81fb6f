package fingerprint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sum(content string) string {
	s := sha256.Sum256([]byte(content))
	return hex.EncodeToString(s[:])
}

// settle waits until a file's stamp may be trusted.
func settle(t *testing.T, path string) {
	t.Helper()
	for {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if Lasting(info) != "" {
			return
		}
		time.Sleep(clockTick / 10)
	}
}

// lie makes what is remembered of a file recognisable: who gets it has not read the file.
func lie(d *Digests, path string) {
	known := d.files[path]
	known.SHA256 = "remembered"
	d.files[path] = known
}

// TestDigests checks that a file is read once as long as nobody touches it, in the next process too, and
// again after each kind of change.
func TestDigests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	memory, path := filepath.Join(dir, "cache", "digests.json"), filepath.Join(dir, "weights")
	write(t, path, "weights")
	settle(t, path)
	d := OpenDigests(memory)
	got, err := d.Of(t.Context(), path)
	if err != nil || got.SHA256 != sum("weights") || got.Size != 7 || got.Stamp == "" {
		t.Fatalf("digest %+v, %v", got, err)
	}
	lie(d, path)
	if got, err := d.Of(t.Context(), path); err != nil || got.SHA256 != "remembered" {
		t.Errorf("%+v, %v: the file was read again", got, err)
	}
	if err := d.Save(); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenDigests(memory).Of(t.Context(), path); err != nil || got.SHA256 != "remembered" {
		t.Errorf("%+v, %v: the next process read the file again", got, err)
	}
	for name, change := range map[string]func() error{
		"written, and its time put back": func() error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(path, []byte("WEIGHTS"), 0o600), os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
		"replaced": func() error {
			write(t, path+".new", "others!")
			return os.Rename(path+".new", path)
		},
		"longer":  func() error { return os.WriteFile(path, []byte("more weights"), 0o600) },
		"touched": func() error { return os.Chtimes(path, time.Now(), time.Now()) },
	} {
		settle(t, path)
		if _, err := d.Of(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		lie(d, path)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Of(t.Context(), path); err != nil || got.SHA256 != sum(string(content)) {
			t.Errorf("%s: %+v, %v; want the digest of %q", name, got, err, content)
		}
	}
}

// TestDigestsOfNewFiles checks that the digest of a file which may still change unseen is not remembered.
func TestDigestsOfNewFiles(t *testing.T) {
	t.Parallel()
	d, path := OpenDigests(filepath.Join(t.TempDir(), "none")), filepath.Join(t.TempDir(), "new")
	write(t, path, "new")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if Lasting(info) != "" {
		t.Skip("the machine slept between two lines")
	}
	if Stamp(info) == "" {
		t.Error("a file without a stamp")
	}
	if got, err := d.Of(t.Context(), path); err != nil || got.SHA256 != sum("new") || (got.Stamp == "" && len(d.files) > 0) {
		t.Errorf("%+v, %v; remembered: %v", got, err, d.files)
	}
}

func TestDigestsForget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	memory, a, b := filepath.Join(dir, "digests.json"), filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, memory, "not JSON")
	d := OpenDigests(memory)
	for _, path := range []string{a, b} {
		write(t, path, path)
		settle(t, path)
		if _, err := d.Of(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	if err := d.Save(); err != nil {
		t.Fatal(err)
	}
	if again := OpenDigests(memory); len(again.files) != 1 || again.files[b].SHA256 != sum(b) {
		t.Errorf("remembered %v, want %s only", again.files, b)
	}
	var none *Digests
	if got, err := none.Of(t.Context(), b); err != nil || got.SHA256 != sum(b) || none.Save() != nil {
		t.Errorf("without a memory: %+v, %v", got, err)
	}
	if left, _ := filepath.Glob(memory + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDigestsFail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	d := OpenDigests(filepath.Join(path, "digests.json")) // x is a file
	write(t, path, "x")
	settle(t, path)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	if _, err := d.Of(ctx, path); !errors.Is(err, stopped) {
		t.Errorf("a context that has ended: %v, want its cause", err)
	}
	if _, err := d.Of(t.Context(), path+"-none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := d.Of(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := d.Save(); err == nil {
		t.Error("saving where nothing can be written was no error")
	}
}
