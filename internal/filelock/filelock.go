//go:build unix

// Package filelock lets one process of a host at a time do something, by a lock file that the processes
// agree on. It knows nothing of what is guarded.
//
// A lock is a flock(2) and is held by an open file: two of one process exclude each other too, and the
// system gives it back when the process dies, so a crash locks nobody out.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// poll is how often a held lock is tried again: flock(2) can't be waited for together with a context. What
// is guarded takes seconds at least, downloads and models being written.
const poll = 50 * time.Millisecond

// ErrHeld is wrapped by [Try] when somebody else has the lock.
var ErrHeld = errors.New("held by another process")

// A Lock is held until Release or Remove, of which one is called once.
type Lock struct {
	file *os.File
	path string
}

// Acquire takes the lock of the file path, which it makes if need be in a folder that is there. It waits
// for as long as another has the lock, until ctx ends; the error then wraps the cause.
func Acquire(ctx context.Context, path string) (*Lock, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		l, err := Try(path)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the lock %s, which another process holds: %w", path, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Try is Acquire without the wait: its error wraps [ErrHeld] if another has the lock.
func Try(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening a lock: %w", err)
	}
	if err := take(f); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return &Lock{file: f, path: path}, nil
}

func take(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return ErrHeld
	}
	if err != nil {
		return err
	}
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	// Between opening and locking, its holder may have removed it: then this lock excludes nobody.
	if current, err := os.Stat(f.Name()); err != nil || !os.SameFile(mine, current) {
		return ErrHeld
	}
	return nil
}

// Release gives the lock back. The file stays, which programs that lock it in their own way may rely on.
func (l *Lock) Release() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("releasing the lock %s: %w", l.path, err)
	}
	return nil
}

// Remove gives the lock back and takes its file away, for a folder that is to hold no traces. All that lock
// this file must do so by this package.
func (l *Lock) Remove() error {
	// In this order: a file that is nobody's any more may be somebody else's.
	if err := errors.Join(os.Remove(l.path), l.file.Close()); err != nil {
		return fmt.Errorf("removing the lock %s: %w", l.path, err)
	}
	return nil
}
