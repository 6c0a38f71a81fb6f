package embedtest

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/vector"
)

// Embedder embeds without a model, a goroutine or anything to close. A document's chunks are its
// paragraphs, each with the blank line behind it. Texts are cut at 510 runes. A text that contains a key of
// Errors fails with its value; one without anything but white space is [embedder.ErrEmpty].
//
// The zero value works. It is safe for concurrent use as long as Errors is left alone.
type Embedder struct {
	Errors map[string]error
}

// maxTokens is what an Embedder's texts are cut at.
const maxTokens = 512

// Dim is the dimension of every vector.
func (e *Embedder) Dim() int { return maxTokens + 1 }

// EmbedDocument returns a chunk per paragraph.
func (e *Embedder) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	if err := e.check(ctx, text); err != nil {
		return nil, err
	}
	var chunks []vector.Chunk
	start := 0
	for _, paragraph := range strings.SplitAfter(text, "\n\n") {
		if paragraph == "" {
			continue
		}
		end := start + len(paragraph)
		chunks = append(chunks, vector.Chunk{Start: start, End: end, Embedding: e.embed(paragraph)})
		start = end
	}
	return chunks, nil
}

// EmbedQuery returns the vector of a search text.
func (e *Embedder) EmbedQuery(ctx context.Context, text string) (vector.Embedding, error) {
	return e.EmbedText(ctx, text)
}

// EmbedText returns the vector of a text.
func (e *Embedder) EmbedText(ctx context.Context, text string) (vector.Embedding, error) {
	if err := e.check(ctx, text); err != nil {
		return vector.Embedding{}, err
	}
	return e.embed(text), nil
}

func (e *Embedder) check(ctx context.Context, text string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if strings.TrimSpace(text) == "" {
		return embedder.ErrEmpty
	}
	for part, err := range e.Errors {
		if strings.Contains(text, part) {
			return err
		}
	}
	return nil
}

func (e *Embedder) embed(text string) vector.Embedding {
	ids, truncated := Tokenizer{}.Encode(make([]int32, 0, utf8.RuneCountInString(text)+2), text, maxTokens)
	v := vector.Embedding{Vector: quote(ids, e.Dim()), Tokens: len(ids), Truncated: truncated}
	if truncated {
		v.TokensIn = utf8.RuneCountInString(text) + 2
	}
	return v
}
