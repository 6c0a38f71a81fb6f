//go:build crashtest

package main

// static void fault(void) { *(volatile int *)8 = 1; }
import "C"

import (
	"bytes"
	"context"
	"iter"
	"os"
	"strings"
	"syscall"

	"github.com/embedfleet/embedfleet/queue/consumer"
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
			t, _ := consumer.TaskFrom(ctx)
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
func sabotaged(e tasks.Embedder) tasks.Embedder { return crashInjector{e} }

type crashInjector struct{ tasks.Embedder }

func (s crashInjector) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	all := strings.Join(texts, "\n")
	if strings.Contains(all, "panic in the worker") {
		panic("the text asked for it")
	}
	if !strings.Contains(all, "never come back") {
		return s.Embedder.EmbedDocuments(ctxs, texts)
	}
	return func(yield func([]vector.Embedded) bool) {
		var index []int
		var restCtxs []context.Context
		var rest []string
		for i, text := range texts {
			if !strings.Contains(text, "never come back") {
				index, restCtxs, rest = append(index, i), append(restCtxs, ctxs[i]), append(rest, text)
			}
		}
		for list := range s.Embedder.EmbedDocuments(restCtxs, rest) {
			for k := range list {
				list[k].Index = index[list[k].Index]
			}
			if !yield(list) {
				return
			}
		}
		select {}
	}
}
