package batch

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// pieceBytes is how large a piece of a file is.
const pieceBytes = 1 << 20

// A Desk takes files and batches in and gives them out. It is safe for concurrent use.
type Desk struct{ ledger Ledger }

// NewDesk returns a desk over a ledger.
func NewDesk(l Ledger) *Desk { return &Desk{l} }

// newID returns an id that nobody can guess.
func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }

// A TooLargeError says that a file has more than it may have.
type TooLargeError struct{ Limit int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the file is larger than %d bytes", e.Limit)
}

// Upload keeps what r has as a file of owner. It is in memory piece by piece.
func (d *Desk) Upload(ctx context.Context, owner, name string, expires time.Time, r io.Reader) (File, error) {
	f := File{ID: newID("file-"), Owner: owner, Name: name, Purpose: PurposeBatch, Created: time.Now().UTC(), Expires: expires}
	buf := make([]byte, pieceBytes)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if f.Bytes += int64(n); f.Bytes > MaxFileBytes {
				return File{}, &TooLargeError{MaxFileBytes}
			}
			if err := d.ledger.PutPiece(ctx, f.ID, f.Pieces, buf[:n]); err != nil {
				return File{}, fmt.Errorf("keeping piece %d of a file: %w", f.Pieces, err)
			}
			f.Pieces++
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return File{}, err
		}
	}
	if err := d.ledger.PutFile(ctx, f); err != nil {
		return File{}, fmt.Errorf("keeping a file: %w", err)
	}
	return f, nil
}

// Renew keeps what is known of f anew.
func (d *Desk) Renew(ctx context.Context, f File) error { return d.ledger.PutFile(ctx, f) }

// File returns owner's file of id.
func (d *Desk) File(ctx context.Context, owner, id string) (File, error) {
	f, err := d.ledger.File(ctx, id)
	if err == nil && f.Owner != owner {
		err = fmt.Errorf("file %q: %w", id, ErrNotFound)
	}
	return f, err
}

// Files returns owner's files, the latest first.
func (d *Desk) Files(ctx context.Context, owner string) ([]File, error) {
	all, err := d.ledger.Files(ctx)
	return slices.DeleteFunc(all, func(f File) bool { return f.Owner != owner }), err
}

// DeleteFile deletes owner's file of id. A batch that reads it fails.
func (d *Desk) DeleteFile(ctx context.Context, owner, id string) error {
	f, err := d.File(ctx, owner, id)
	if err != nil {
		return err
	}
	return d.ledger.DeleteFile(ctx, f)
}

// Write writes what is in f.
func (d *Desk) Write(ctx context.Context, f File, w io.Writer) error {
	if f.Batch == "" {
		_, err := io.Copy(w, &pieces{ctx: ctx, ledger: d.ledger, file: f})
		return err
	}
	b, err := d.ledger.Batch(ctx, f.Batch)
	if err != nil {
		return err
	}
	return eachLine(ctx, d.ledger, b, func(l Line) error {
		if l.Kind != f.Kind {
			return nil
		}
		_, err := w.Write(append(l.JSON, '\n'))
		return err
	})
}

// linesAtOnce is how many answers are read from the ledger at a time.
const linesAtOnce = 64

// eachLine calls f with all answers of b, in the order of its lines.
func eachLine(ctx context.Context, l LineLedger, b Batch, f func(Line) error) error {
	for first := 0; first < b.Total; first += linesAtOnce {
		lines, err := l.Lines(ctx, b.ID, first, min(linesAtOnce, b.Total-first))
		if err != nil {
			return err
		}
		for _, line := range lines {
			if err := f(line); err != nil {
				return err
			}
		}
	}
	return nil
}

// Create makes a batch of owner's file.
func (d *Desk) Create(ctx context.Context, b Batch) (Batch, error) {
	f, err := d.File(ctx, b.Owner, b.Input)
	if err != nil {
		return Batch{}, err
	}
	if f.Purpose != PurposeBatch {
		return Batch{}, fmt.Errorf("file %q is for %s: %w", f.ID, f.Purpose, ErrNotFound)
	}
	b.ID, b.Created = newID("batch_"), time.Now().UTC()
	b.Expires = b.Created.Add(Window)
	b.State = State{Status: Validating}
	if err := d.ledger.PutBatch(ctx, b); err != nil {
		return Batch{}, fmt.Errorf("keeping a batch: %w", err)
	}
	return b, nil
}

// Batch returns owner's batch of id.
func (d *Desk) Batch(ctx context.Context, owner, id string) (Batch, error) {
	b, err := d.ledger.Batch(ctx, id)
	if err == nil && b.Owner != owner {
		err = fmt.Errorf("batch %q: %w", id, ErrNotFound)
	}
	return b, err
}

// Batches returns owner's batches, the latest first.
func (d *Desk) Batches(ctx context.Context, owner string) ([]Batch, error) {
	all, err := d.ledger.Batches(ctx)
	return slices.DeleteFunc(all, func(b Batch) bool { return b.Owner != owner }), err
}

// Cancel asks for the end of owner's batch. The lines that have an answer keep it. False if it is over already.
func (d *Desk) Cancel(ctx context.Context, owner, id string) (Batch, bool, error) {
	if _, err := d.Batch(ctx, owner, id); err != nil {
		return Batch{}, false, err
	}
	moved, err := d.ledger.Move(ctx, id, Cancelling, State{}, Validating, InProgress, Cancelling)
	if err != nil {
		return Batch{}, false, err
	}
	b, err := d.Batch(ctx, owner, id)
	return b, moved, err
}

// pieces reads a file piece by piece.
type pieces struct {
	ctx    context.Context //nolint:containedctx // a Reader has no other place for it
	ledger PieceLedger
	file   File
	next   int
	rest   []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.next == p.file.Pieces {
			return 0, io.EOF
		}
		piece, err := p.ledger.Piece(p.ctx, p.file.ID, p.next)
		if err != nil {
			return 0, fmt.Errorf("reading piece %d of file %s: %w", p.next, p.file.ID, err)
		}
		p.rest = piece
		p.next++
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// eachRequest calls f with each line of a file that is not blank, and its number among these. A line longer than
// MaxLineBytes is an error of the file.
func eachRequest(ctx context.Context, l PieceLedger, f File, each func(n int, line []byte) error) error {
	lines := bufio.NewScanner(&pieces{ctx: ctx, ledger: l, file: f})
	lines.Buffer(make([]byte, 64<<10), MaxLineBytes)
	n := 0
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if err := each(n, line); err != nil {
			return err
		}
		n++
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return &faultError{Fault{"line_too_long", fmt.Sprintf("a line is longer than %d bytes", MaxLineBytes), n + 1}}
	}
	return lines.Err()
}

// A faultError is a fault of the input.
type faultError struct{ fault Fault }

func (e *faultError) Error() string { return e.fault.Message }
