// Package batch turns a file of requests into a file of answers, whatever dies meanwhile: OpenAI's Batch API behind its HTTP.
// Files, batches and the answer of each line are kept in a ledger; a [Runner] drives each batch under a lease, and
// whoever takes over begins with the first line that has no answer. A line's answer is recorded once.
//
// The texts of the lines wait in the backfill lane, so many at a time that workers can batch them and an answer is fetched
// before it expires. Their tasks' ids are drawn from batch, line and place, so that one who takes over attaches to
// what waits already.
package batch

import (
	"context"
	"errors"
	"time"
)

// The bounds of the interface, as OpenAI's where it names them.
const (
	MaxFileBytes = 200 << 20
	MaxLines     = 50_000
	MaxLineBytes = 8 << 20
	Window       = 24 * time.Hour // in which a batch is done, or expires
)

// ErrNotFound is wrapped when there is no file or batch of an id.
var ErrNotFound = errors.New("not found")

// The statuses of a batch, as OpenAI's.
const (
	Validating = "validating"
	Failed     = "failed"
	InProgress = "in_progress"
	Finalizing = "finalizing"
	Completed  = "completed"
	Expired    = "expired"
	Cancelling = "cancelling"
	Cancelled  = "cancelled"
)

// The purposes of files.
const (
	PurposeBatch  = "batch"
	PurposeOutput = "batch_output"
)

// A File is what is known of a file. What is in it is kept in pieces, or, of an answer file, line by line with its batch.
type File struct {
	ID      string    `json:"id"`
	Owner   string    `json:"owner,omitempty"` // the caller whose it is
	Name    string    `json:"name"`
	Purpose string    `json:"purpose"`
	Bytes   int64     `json:"bytes"`
	Pieces  int       `json:"pieces,omitempty"`
	Batch   string    `json:"batch,omitempty"` // whose answers it is
	Kind    string    `json:"kind,omitempty"`  // of these, [Answers] or [Errors]
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
}

// The kinds of a batch's lines.
const (
	Answers = "answer"
	Errors  = "error"
)

// A Batch is what is known of a batch.
type Batch struct {
	ID       string            `json:"id"`
	Owner    string            `json:"owner,omitempty"`
	Endpoint string            `json:"endpoint"`
	Window   string            `json:"window"` // as its caller wrote it
	Input    string            `json:"input"`  // the file's id
	Metadata map[string]string `json:"metadata,omitempty"`
	Created  time.Time         `json:"created"`
	Expires  time.Time         `json:"expires"`

	State `json:"-"`
}

// A State is what changes of a batch.
type State struct {
	Status string
	Times  map[string]time.Time // status -> when it was reached
	Total  int                  // lines
	Done   int                  // lines with an answer
	Failed int                  // lines with an error
	Faults []Fault              // why it failed
	Output string               // the file with the answers, "" while there is none
	Errors string               // the file with the errors
}

// A Fault is what is wrong with a line of the input.
type Fault struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Line    int    `json:"line,omitempty"` // from 1
}

// A Line is the answer to one line, as it stands in the answer file, without the line's end.
type Line struct {
	Number int    // from 0
	Kind   string // [Answers] or [Errors]
	JSON   []byte
}

// FileLedger keeps files. Its errors wrap [ErrNotFound] if there is none of an id.
type FileLedger interface {
	// PutFile makes f exist; its pieces have been put before.
	PutFile(ctx context.Context, f File) error
	File(ctx context.Context, id string) (File, error)
	DeleteFile(ctx context.Context, f File) error
}

// PieceLedger keeps what is in files. Pieces of a file that never comes to exist expire.
type PieceLedger interface {
	PutPiece(ctx context.Context, id string, n int, piece []byte) error
	Piece(ctx context.Context, id string, n int) ([]byte, error)
	// Files returns all files, the latest first.
	Files(ctx context.Context) ([]File, error)
}

// HeadLedger keeps batches. Its errors wrap [ErrNotFound] if there is none of an id.
type HeadLedger interface {
	PutBatch(ctx context.Context, b Batch) error
	Batch(ctx context.Context, id string) (Batch, error)
	// Batches returns all batches, the latest first.
	Batches(ctx context.Context) ([]Batch, error)
}

// StateLedger moves batches on.
type StateLedger interface {
	// Move sets the status of a batch that is in one of the statuses of from, and what else change says, in one step; false
	// if it is in none of them.
	Move(ctx context.Context, id, to string, change State, from ...string) (bool, error)
	// Active returns the ids of batches that are not over.
	Active(ctx context.Context) ([]string, error)
	// Lease makes owner the one who drives a batch for a while; false if somebody else is. An owner renews by leasing again.
	Lease(ctx context.Context, id, owner string, d time.Duration) (bool, error)
}

// LineLedger keeps the answers of lines.
type LineLedger interface {
	// Record keeps lines that have no answer yet, and counts them, in one step.
	Record(ctx context.Context, id string, lines []Line) error
	// Lines returns the answers of lines from first on, count of them at most; those that have none are left out.
	Lines(ctx context.Context, id string, first, count int) ([]Line, error)
	// Have tells of which lines from first on, count of them, there is an answer.
	Have(ctx context.Context, id string, first, count int) ([]bool, error)
}

// A Ledger is all of them.
type Ledger interface {
	FileLedger
	PieceLedger
	HeadLedger
	StateLedger
	LineLedger
}
