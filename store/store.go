// Package store is about documents and their vectors after the model: what a store answers with, and how
// they are searched. It owns the exact in-memory [Index] with its query types, and the errors every store
// shares; the stores themselves are in the folders below (redis, storetest). It knows nothing of queues
// and models: a query arrives as a vector.
//
// An index follows a store by its change log: each write of a record takes the alias's next sequence
// number, and [Index.Sync] reads what came after the last number it saw. That is cheap enough to be done
// every second, so the index needs no other notification.
package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/embedfleet/embedfleet/vector"
)

// ErrNotFound is wrapped when there is no document of an id under an alias.
var ErrNotFound = errors.New("document not found")

// A SpaceError says that an alias writes another space than the caller's. Vectors of two spaces can't be
// compared, so a store takes one space per alias at a time. It is worth a retry: the task of a worker
// that was left behind by a change of model is for the new workers.
type SpaceError struct {
	Model   string       // alias
	Current vector.Space // the alias's space-of-record
	Wanted  vector.Space // the caller's
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("alias %q writes vectors of space %s, not of %s: re-embed on purpose, or use another alias",
		e.Model, e.Current.Short(), e.Wanted.Short())
}

// Code is a bounded word for metrics and dead letters.
func (e *SpaceError) Code() string { return "wrong_space" }

// A RefusedError is the answer to a query that was refused for good.
type RefusedError struct {
	Reason  string // a bounded word, "" if there is none
	Message string // for people
}

func (e *RefusedError) Error() string { return "query refused: " + e.Message }

// Code returns Reason.
func (e *RefusedError) Code() string { return e.Reason }

// Permanent marks the error as one that a retry will not mend.
func (e *RefusedError) Permanent() bool { return true }

// A ClaimMode says what to do when an alias already writes another space.
type ClaimMode string

// The modes of a claim.
const (
	Keep    ClaimMode = "keep"    // refuse with a *SpaceError
	ReEmbed ClaimMode = "reembed" // take over: documents of the old space stay readable until embedded again
)

// Stats are the counts of one alias in one space. The first three are what is stored now; the totals only
// grow, so that a reader gets rates from their differences.
type Stats struct {
	Documents, Chunks, Tokens int64
	TextsTotal, TokensTotal   int64 // written since the beginning, rewritten ones again
}

// A Cursor is a place in an alias's change log, and how much to read from there.
type Cursor struct {
	Model string       // alias
	Space vector.Space // records of other spaces are reported as gone
	Seq   int64        // the last change seen; 0 for the beginning
	Limit int          // changes to return, at least 1
}

// A Change is the newest state of a document that changed. Documents that changed several times are
// reported once.
type Change struct {
	Seq    int64
	ID     string
	Record *vector.Record // nil: deleted, or now of another space
	Err    error          // the record is there but makes no sense; Record is nil then
}

// Changes is a stretch of an alias's change log, in rising order of Seq.
type Changes struct {
	Items []Change
	Last  int64 // the log's last number; lower than a cursor's if the store was emptied meanwhile
}

// A Source is a store that an [Index] can follow.
type Source interface {
	// Changes returns the changes after c.Seq, at most c.Limit of them.
	Changes(ctx context.Context, c Cursor) (Changes, error)
}
