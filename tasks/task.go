package tasks

import "time"

// A Lane is one asynq queue of one model.
type Lane string

// The lanes of a model, in falling urgency.
const (
	Query      Lane = "query"      // somebody waits for the answer
	Live       Lane = "live"       // fresh documents
	Backfill   Lane = "backfill"   // everything that may take its time
	Quarantine Lane = "quarantine" // texts suspected of killing a worker, run alone
)

// Lanes lists every lane, in falling urgency.
var Lanes = []Lane{Query, Live, Backfill, Quarantine}

// A Kind says what a task asks for; it is the task's type on the queue.
type Kind string

// The kinds of tasks.
const (
	EmbedDocument Kind = "embed:document" // store the vectors of a document
	EmbedQuery    Kind = "embed:query"    // answer with the vector of a search text
)

// The prompts that a query may name instead of its own.
const (
	AsDocument = "document" // the model's prompt for documents, so that the vector can be found
	AsIs       = "none"     // no prompt
)

// A Task is one piece of work as it crosses Redis: made by a producer with [New] or [NewQuery], carried by
// the queue room unread, handled by [Handler].
type Task struct {
	ID      string        // 32 hex digits, deterministic for documents
	Kind    Kind          //
	Model   string        // alias
	Lane    Lane          //
	Payload []byte        // versioned, see doc.go
	Timeout time.Duration // whole seconds, at least 1 s; the handler's deadline
	Expires time.Time     // a worker that finds the task later forgets it; zero: never
	Trace   string        // W3C traceparent of the span that made it, "" for none
	Tokens  int           // estimate of its text's, for how much work waits; 0 where it is not known
	Version int64         // a document's, as in its payload, for a producer's side; 0 where it is not known
}
