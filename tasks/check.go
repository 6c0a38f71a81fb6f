package tasks

import (
	"errors"
	"fmt"

	"github.com/embedfleet/embedfleet/vector"
)

// checkChunks is the last look at an embedder's answer before it is stored: a wrong one would be readable,
// searchable and silently useless. It is permanent, for a model that answers so does it again.
func checkChunks(chunks []vector.Chunk, textBytes int) error {
	if len(chunks) == 0 {
		return &chunksError{"the embedder returned no chunk"}
	}
	dim := len(chunks[0].Vector)
	for i, c := range chunks {
		switch {
		case c.Start < 0 || c.Start >= c.End || c.End > textBytes:
			return &chunksError{fmt.Sprintf("chunk %d spans bytes %d to %d of a text of %d", i, c.Start, c.End, textBytes)}
		case len(c.Vector) == 0 || len(c.Vector) != dim:
			return &chunksError{fmt.Sprintf("chunk %d has %d dimensions, chunk 0 has %d", i, len(c.Vector), dim)}
		}
	}
	return nil
}

// A chunksError says what is wrong with an embedder's answer.
type chunksError struct{ detail string }

func (e *chunksError) Error() string   { return "checking the vectors: " + e.detail }
func (e *chunksError) Permanent() bool { return true }
func (e *chunksError) Code() string    { return "bad_vectors" }

// stackOf returns the stack of a caught panic in err, else "".
func stackOf(err error) string {
	if p, ok := errors.AsType[*PanicError](err); ok {
		return string(p.Stack)
	}
	return ""
}
