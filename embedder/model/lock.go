//go:build unix

package model

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockPoll is how often a lock held by another process is tried again. The wait is for a model being
// written, seconds at least.
const lockPoll = 50 * time.Millisecond

// lock takes the lock file path exclusively among the processes of this host, waiting until ctx ends, and
// returns how to give it back. The system frees it when a process dies, so a crash locks nobody out.
//
// The file is removed when the lock is given back, so that a cache holds nothing but models. Who then
// finds that the file it has locked is no longer the one with that name tries again.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		f, err := tryLock(path)
		if err != nil {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if f != nil {
			return func() error { return errors.Join(os.Remove(path), f.Close()) }, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s, which another process holds: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// tryLock returns the locked file, or nil if another holds it or has just removed it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
			return nil, nil
		}
		return nil, err
	}
	mine, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if current, err := os.Stat(path); err != nil || !os.SameFile(mine, current) {
		f.Close()
		return nil, nil
	}
	return f, nil
}
