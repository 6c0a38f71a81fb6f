package tasks

import (
	"context"
	"iter"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// An Embedder turns texts into vectors with the one model of its process. Its methods are all or
// nothing, are called from many goroutines at once (that is how batches form) and return soon after ctx
// ends. Errors that will be the same next time have Permanent() true, "no room" has Overloaded() true.
type Embedder interface {
	// EmbedDocument returns the chunks of text in its order, at least one, all of one dimension.
	EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error)
	// EmbedQuery returns the vector to search with.
	EmbedQuery(ctx context.Context, text string) (vector.Embedding, error)
	// EmbedAs returns one vector of a text under a prompt that is [AsDocument] or [AsIs].
	EmbedAs(ctx context.Context, prompt, text string) (vector.Embedding, error)
}

// A Store keeps records. Both methods may be repeated: twice leaves the same state as once. When they
// return nil, what they report is readable by everybody; after an error it may or may not be.
type Store interface {
	// Refresh reports whether rec needs no embedding, because the store holds the vectors of exactly its
	// text in its space, or a higher version of the document. In the first case it also takes over rec's
	// version and metadata if they are newer, lest an older text that is still on its way wins over them.
	// rec's chunks are not looked at.
	Refresh(ctx context.Context, rec vector.Record) (bool, error)
	// Put stores rec, all of it or nothing, unless the store holds a higher version of the document or
	// this very record; it reports whether it wrote.
	Put(ctx context.Context, rec vector.Record) (bool, error)
}

// A Bulk does for many documents at once what Embedder and Store do for one.
type Bulk interface {
	// EmbedDocuments embeds texts, each under the context beside it, and yields each text's outcome once, as they come.
	// Whatever the error, [Embedder] may have a vector for the same text.
	EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded]
	// RefreshMany is Store.Refresh for each record. After an error nothing is known of any.
	RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error)
	// PutMany is Store.Put for each record, with answers and errors in their order.
	PutMany(ctx context.Context, recs []vector.Record) (stored []bool, errs []error)
}

// Answers carries the outcome of a query back to who waits for it. An answer that nobody fetches expires.
type Answers interface {
	// Answer delivers e, or failure if it is not nil, under the query's task id.
	Answer(ctx context.Context, id string, e vector.Embedding, failure error) error
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
	// Stage is called after each stage that was entered, also one that failed.
	Stage(s Stage, took time.Duration)
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
	CodeExpired    = "expired" // a query for which nobody waits any more, dropped
)

// discard is the Observer of a handler that has none.
type discard struct{}

func (discard) Stage(Stage, time.Duration)    {}
func (discard) Outcome(Kind, Outcome, string) {}
