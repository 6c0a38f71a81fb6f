package tasks

import (
	"context"
	"iter"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// An Embedder turns texts into vectors with the one model of its process. Each text is embedded under the context
// beside it, and each text's outcome is yielded once, as they come, those that were done together in one list. Its
// methods are called from many goroutines at once (that is how batches form). Errors that will be the same next time
// have Permanent() true, "no room" has Overloaded() true. Leaving the loop early gives the other texts up.
type Embedder interface {
	// EmbedDocuments yields the chunks of each text in its order, at least one, all of one dimension.
	EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded]
	// EmbedQueries yields the vector to search with as each text's only chunk.
	EmbedQueries(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded]
	// EmbedAs yields one vector of each text under a prompt that is [AsDocument] or [AsIs], as its only chunk.
	EmbedAs(prompt string, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded]
}

// A Store keeps records. Both methods may be repeated: twice leaves the same state as once. What they report is
// readable by everybody when they return; of a record with an error it may or may not be.
type Store interface {
	// RefreshMany reports which records need no embedding, because the store holds the vectors of exactly their
	// text in their space, or a higher version of the document. In the first case it also takes over a record's
	// version and metadata if they are newer, lest an older text that is still on its way wins over them.
	// Chunks are not looked at. After an error nothing is known of any.
	RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error)
	// PutMany stores each record, all of it or nothing, unless the store holds a higher version of the document or
	// this very record; it reports whether it wrote, and errors, in the records' order.
	PutMany(ctx context.Context, recs []vector.Record) (stored []bool, errs []error)
}

// Answers carries answers back to who waits for them. One that nobody fetches expires.
type Answers interface {
	// AnswerMany delivers each answer under its query's task id, and returns their errors in order.
	AnswerMany(ctx context.Context, list []vector.Answer) []error
}

// A Stage is a part of handling a task, for durations.
type Stage string

// The stages, in their order; the last of a query is StageAnswer, of a document StageStore.
const (
	StageDecode Stage = "decode"
	StageLookup Stage = "lookup"
	StageEmbed  Stage = "embed"
	StageStore  Stage = "store"
	StageAnswer Stage = "answer"
)

// An Observer is told how tasks go. Its methods are called from many goroutines and must not block.
type Observer interface {
	// Stage is called after each stage that was entered, also one that failed, with the item's context. What items
	// did together took each of them as long.
	Stage(ctx context.Context, s Stage, took time.Duration)
	// Outcome is called once per task. The code is from a bounded set: for [Done] one of the Code
	// constants, else what [Code] says of the error.
	Outcome(k Kind, o Outcome, code string)
}

// What became of a task that is done.
const (
	CodeStored     = "stored"     // vectors written
	CodeDuplicate  = "duplicate"  // nothing to embed: the vectors, or newer ones, were there
	CodeSuperseded = "superseded" // embedded in vain: newer ones, or the same, came first
	CodeAnswered   = "answered"
	CodeRefused    = "refused" // a query that is at fault, answered with why
	CodeExpired    = "expired" // a query for which nobody waits any more, dropped
)

// discard is the Observer of a handler that has none.
type discard struct{}

func (discard) Stage(context.Context, Stage, time.Duration) {}
func (discard) Outcome(Kind, Outcome, string)               {}
