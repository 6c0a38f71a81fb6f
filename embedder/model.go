package embedder

import (
	"context"

	"github.com/embedfleet/embedfleet/vector"
)

// A Batch is what a model runs in one call: rows of token ids, special tokens included, each 1 to
// MaxTokens long and unpadded. Padding and masking are the model's affair.
type Batch struct {
	Rows [][]int32
	// Prompts is how many tokens at each row's start belong to a prompt that is read but left out of the vector; nil
	// is none. A model that pools everything does not look at it.
	Prompts []int
}

// A Model runs one loaded model.
//
// Run returns one vector per row, in the rows' order, or an error and no vector: all or nothing. It may be
// called from several goroutines at once and returns only after the native call has ended, also when ctx
// ends first (then the native call is told to stop). Close must not be called while a Run is inside.
type Model interface {
	Run(ctx context.Context, b Batch) ([]vector.Vector, error)
	Dim() int
	Close() error
}

// A Tokenizer turns a text into token ids exactly as the model's authors do.
//
// Encode appends to dst the ids of text with special tokens, at most max of them (max >= 1 is the model's
// limit), and reports whether the text had more. It is safe for concurrent use.
type Tokenizer interface {
	Encode(dst []int32, text string, max int) (ids []int32, truncated bool)
}

// A Measurer is a [Model] that can tell what memory it takes. Memory may be called at any time, also after
// Close, and takes some milliseconds.
type Measurer interface {
	Memory() Memory
}
