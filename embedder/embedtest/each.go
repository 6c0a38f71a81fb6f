package embedtest

import (
	"context"
	"iter"
	"sync"

	"github.com/embedfleet/embedfleet/vector"
)

// Each makes a method that embeds many texts of one that embeds one: all at once, yielded as they come.
func Each(ctxs []context.Context, texts []string, one func(context.Context, string) ([]vector.Chunk, error)) iter.Seq[[]vector.Embedded] {
	return func(yield func([]vector.Embedded) bool) {
		done := make(chan vector.Embedded, len(texts))
		var running sync.WaitGroup
		for i, text := range texts {
			running.Go(func() {
				chunks, err := one(ctxs[i], text)
				done <- vector.Embedded{Index: i, Chunks: chunks, Err: err}
			})
		}
		defer running.Wait()
		for range texts {
			if !yield([]vector.Embedded{<-done}) {
				return
			}
		}
	}
}

// EmbedDocuments is EmbedDocument for each text.
func (e *Embedder) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return Each(ctxs, texts, e.EmbedDocument)
}

// EmbedQueries is EmbedQuery for each text.
func (e *Embedder) EmbedQueries(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return Each(ctxs, texts, func(ctx context.Context, text string) ([]vector.Chunk, error) {
		v, err := e.EmbedQuery(ctx, text)
		return []vector.Chunk{{End: len(text), Embedding: v}}, err
	})
}

// EmbedAs is EmbedText for each text with its prompt's name and a colon before it, under no prompt ("none") without.
func (e *Embedder) EmbedAs(prompt string, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return Each(ctxs, texts, func(ctx context.Context, text string) ([]vector.Chunk, error) {
		before := ""
		if prompt != "none" {
			before = prompt + ":"
		}
		v, err := e.EmbedText(ctx, before+text)
		return []vector.Chunk{{End: len(text), Embedding: v}}, err
	})
}
