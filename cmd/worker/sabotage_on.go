//go:build crashtest

package main

import (
	"bytes"
	"context"
	"syscall"

	"github.com/embedfleet/embedfleet/queue"
)

// sabotage makes a text that says so kill the process from inside a native call, with no chance to clean up:
// what a fault in the runtime does, and the kernel when memory is short.
func sabotage(begin func([]context.Context) func()) func([]context.Context) func() {
	return func(callers []context.Context) func() {
		returned := begin(callers)
		for _, ctx := range callers {
			if t, ok := queue.TaskFrom(ctx); ok && bytes.Contains(t.Payload, []byte("kill the worker")) {
				_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
				select {} // the signal is on its way
			}
		}
		return returned
	}
}
