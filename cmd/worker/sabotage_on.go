//go:build crashtest

package main

// static void fault(void) { *(volatile int *)8 = 1; }
import "C"

import (
	"bytes"
	"context"
	"os"
	"strings"
	"syscall"

	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// sabotage makes texts that say so end the process from inside a native call, with no chance to clean up. One
// is killed, as by a kernel that is short of memory; one makes C code write where nothing is, as a fault in
// the runtime does, but only if it can make the folder that $EMBEDFLEET_SABOTAGE names: once.
func sabotage(begin func([]context.Context) func()) func([]context.Context) func() {
	return func(callers []context.Context) func() {
		returned := begin(callers)
		for _, ctx := range callers {
			t, _ := queue.TaskFrom(ctx)
			switch {
			case bytes.Contains(t.Payload, []byte("kill the worker")):
				_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
				select {} // the signal is on its way
			case bytes.Contains(t.Payload, []byte("write where nothing is")) && os.Mkdir(os.Getenv("EMBEDFLEET_SABOTAGE"), 0o700) == nil:
				C.fault()
			}
		}
		return returned
	}
}

// sabotaged makes other texts panic, or never return whatever becomes of their context.
func sabotaged(e tasks.Embedder) tasks.Embedder { return saboteur{e} }

type saboteur struct{ tasks.Embedder }

func (s saboteur) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	switch {
	case strings.Contains(text, "panic in the worker"):
		panic("the text asked for it")
	case strings.Contains(text, "never come back"):
		select {}
	}
	return s.Embedder.EmbedDocument(ctx, text)
}
