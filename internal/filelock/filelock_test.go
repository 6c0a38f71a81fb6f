//go:build unix

package filelock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestTry(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.lock")
	l := mustTry(t, path)
	if _, err := Try(path); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), path) {
		t.Errorf("a held lock: %v, want ErrHeld and the path", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("after Release: %v, want the file to stay", err)
	}
	if err := mustTry(t, path).Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v, want no file", err)
	}
}

func TestTryWithoutFolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none", "a.lock")
	if _, err := Try(path); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrHeld) {
		t.Errorf("error %v, want that the folder does not exist", err)
	}
	if _, err := Acquire(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that the folder does not exist, at once", err)
	}
}

// A file that was removed between opening and locking is locked by nobody else, and excludes nobody.
func TestARemovedFileIsNoLock(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]func(path string) error{
		"gone":     os.Remove,
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o644)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "a.lock")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := after(path); err != nil {
				t.Fatal(err)
			}
			if err := take(f); !errors.Is(err, ErrHeld) {
				t.Errorf("take = %v, want ErrHeld", err)
			}
		})
	}
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.lock")
	l := mustTry(t, path)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if _, err := Acquire(ctx, path); !errors.Is(err, reason) || !strings.Contains(err.Error(), path) {
		t.Errorf("waiting for a held lock: %v, want the cause and the path", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
}

// Whether it is given back by Release or Remove, one holder at a time is inside.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]func(*Lock) error{"release": (*Lock).Release, "remove": (*Lock).Remove} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "a.lock")
			var inside atomic.Int32
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					l, err := Acquire(t.Context(), path)
					if err != nil {
						t.Error(err)
						return
					}
					if inside.Add(1) != 1 {
						t.Error("two are inside")
					}
					runtime.Gosched()
					inside.Add(-1)
					if err := back(l); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
		})
	}
}

func mustTry(t *testing.T, path string) *Lock {
	t.Helper()
	l, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
