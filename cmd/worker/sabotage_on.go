//go:build crashtest

package main

// static void fault(void) { *(volatile int *)8 = 1; }
import "C"

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"os"
	"strings"
	"syscall"

	"github.com/embedfleet/embedfleet/queue"
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
func sabotaged(e fullEmbedder) fullEmbedder { return saboteur{e} }

type saboteur struct{ fullEmbedder }

func (s saboteur) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	switch {
	case strings.Contains(text, "panic in the worker"):
		panic("the text asked for it")
	case strings.Contains(text, "never come back"):
		select {}
	}
	return s.fullEmbedder.EmbedDocument(ctx, text)
}

// EmbedDocuments leaves texts to EmbedDocument if there is one among them that asks for something.
func (s saboteur) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	all := strings.Join(texts, "\n")
	if !strings.Contains(all, "panic in the worker") && !strings.Contains(all, "never come back") {
		return s.fullEmbedder.EmbedDocuments(ctxs, texts)
	}
	return func(yield func([]vector.Embedded) bool) {
		refused := make([]vector.Embedded, len(texts))
		for i := range texts {
			refused[i] = vector.Embedded{Index: i, Err: errors.New("somebody asks for something")}
		}
		yield(refused)
	}
}
