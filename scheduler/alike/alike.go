// Package alike finds news that say nearly the same as earlier news under another address, by their vectors, and
// marks them. It works behind the workers, on what they have stored, so that no task waits for it. It owns the
// two fields below and knows neither how vectors come about nor where they are kept.
//
// A marked document keeps its vectors and can be found as before. It has two fields more:
//
//	near_duplicate_of     id of the earliest such document that was stored then
//	near_duplicate_score  their cosine, as 0.983
package alike

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// The fields of a marked document.
const (
	FieldOf    = "near_duplicate_of"
	FieldScore = "near_duplicate_score"
)

// Job is the name of the job that marks.
const Job = "news-alike"

// Schedule returns when documents of source are compared, and why then.
func Schedule(source string) scheduler.Schedule {
	return scheduler.Schedule{
		Job: Job, Source: source, Cron: []string{"* * * * *"}, Window: Window,
		Reason: "readers skip what they were told already, so a mark should not be long behind the document; it asks no outlet",
	}
}

const (
	// Window is how far apart two documents may be published to be the same story.
	Window = 48 * time.Hour
	// history bounds how many of an alias's latest changes are read by a process that has just started.
	history = 20_000
	page    = 500
)

// A Store is what is compared. See [store.Cursor] for Changes and tasks.Store for Refresh, which takes over newer
// metadata of a text that is stored.
type Store interface {
	Space(ctx context.Context, alias string) (vector.Space, error)
	Changes(ctx context.Context, c store.Cursor) (store.Changes, error)
	Refresh(ctx context.Context, rec vector.Record) (bool, error)
}

// A Progress remembers up to which change of an alias's log documents were compared, 0 for none.
type Progress interface {
	Compared(ctx context.Context, alias string) (int64, error)
	SetCompared(ctx context.Context, alias string, seq int64) error
}

// Parts are what a marker works with. All are needed.
type Parts struct {
	Alias     string
	Source    string // of the documents that are compared
	Threshold float64
	Store     Store
	Progress  Progress
}

// A Marker compares what was stored lately. It keeps the vectors of a window in memory, some megabytes for a
// busy day of news. Run must not be called twice at a time.
type Marker struct {
	log   *slog.Logger
	parts Parts

	space  vector.Space
	seq    int64 // followed up to there
	recent map[string]*vector.Record
}

// New returns a marker. It does no I/O.
func New(log *slog.Logger, p Parts) *Marker {
	return &Marker{log: log, parts: p, recent: map[string]*vector.Record{}}
}

// Run follows the store and marks what nobody compared before. It is repeated without harm: a mark that is
// there is left alone, and the progress is written down last.
func (m *Marker) Run(ctx context.Context, t scheduler.Tick) (r scheduler.Report, err error) {
	last, err := m.begin(ctx)
	if err != nil {
		return r, err
	}
	compared, err := m.parts.Progress.Compared(ctx, m.parts.Alias)
	if err != nil {
		return r, err
	}
	if compared > last {
		compared = 0 // the store was emptied
	}
	fresh, err := m.follow(ctx, compared, t.Now)
	if err != nil {
		return r, err
	}
	for _, id := range fresh {
		rec := m.recent[id]
		if rec == nil {
			continue // a later change took it away
		}
		r.Items++
		n, err := m.compare(ctx, rec)
		r.Repeated += n
		if err != nil {
			return r, err
		}
	}
	m.forget(t.Now)
	return r, m.parts.Progress.SetCompared(ctx, m.parts.Alias, m.seq)
}

// begin starts anew when the alias writes another space, or has just been met. It returns the last number of
// the log.
func (m *Marker) begin(ctx context.Context) (last int64, err error) {
	space, err := m.parts.Store.Space(ctx, m.parts.Alias)
	if err != nil {
		return 0, err
	}
	head, err := m.parts.Store.Changes(ctx, store.Cursor{Model: m.parts.Alias, Space: space, Seq: m.seq, Limit: 1})
	if err != nil {
		return 0, err
	}
	if space != m.space || head.Last < m.seq || m.seq == 0 {
		m.space, m.seq, m.recent = space, max(0, head.Last-history), map[string]*vector.Record{}
	}
	return head.Last, nil
}

// follow reads the log to its end and returns the ids of documents that changed after compared.
func (m *Marker) follow(ctx context.Context, compared int64, now time.Time) (fresh []string, err error) {
	for {
		changes, err := m.parts.Store.Changes(ctx, store.Cursor{Model: m.parts.Alias, Space: m.space, Seq: m.seq, Limit: page})
		if err != nil {
			return nil, err
		}
		for _, c := range changes.Items {
			m.seq = c.Seq
			if !m.wants(c.Record, now) {
				delete(m.recent, c.ID)
				continue
			}
			m.recent[c.ID] = c.Record
			if c.Seq > compared {
				fresh = append(fresh, c.ID)
			}
		}
		if len(changes.Items) < page {
			return fresh, nil
		}
	}
}

// wants tells what is compared: documents of the source of one chunk, since parts of longer ones may be alike
// without the whole being so.
func (m *Marker) wants(rec *vector.Record, now time.Time) bool {
	return rec != nil && rec.Document.Source == m.parts.Source && len(rec.Chunks) == 1 && now.Sub(rec.Document.PublishedAt) < Window
}

// forget drops what is too old to be a story's first telling.
func (m *Marker) forget(now time.Time) {
	for id, rec := range m.recent {
		if !m.wants(rec, now) {
			delete(m.recent, id)
		}
	}
}

// compare marks rec if it resembles an earlier document, and later ones that resemble rec: workers store in
// their own order. It returns the number of marks.
func (m *Marker) compare(ctx context.Context, rec *vector.Record) (marks int, err error) {
	if rec.Document.Fields[FieldOf] != "" {
		return 0, nil
	}
	var first *vector.Record
	var best float64
	var later []*vector.Record
	for _, other := range m.recent {
		if other == rec || other.Document.Fields[FieldOf] != "" || other.Document.URL == rec.Document.URL {
			continue
		}
		score := rec.Chunks[0].Vector.Cosine(other.Chunks[0].Vector)
		switch {
		case score < m.parts.Threshold:
		case order(other, rec) > 0:
			later = append(later, other)
		case first == nil || score > best || score == best && order(other, first) < 0:
			first, best = other, score
		}
	}
	if first != nil {
		return 1, m.mark(ctx, rec, first)
	}
	for _, other := range later {
		if err := m.mark(ctx, other, rec); err != nil {
			return marks, err
		}
		marks++
	}
	return marks, nil
}

// order says which of two documents told the story first; by the id if they appeared together.
func order(a, b *vector.Record) int {
	if c := a.Document.PublishedAt.Compare(b.Document.PublishedAt); c != 0 {
		return c
	}
	return strings.Compare(a.Document.ID, b.Document.ID)
}

// mark writes the mark as a newer version of the same text. A document that changed meanwhile comes by again.
func (m *Marker) mark(ctx context.Context, rec, first *vector.Record) error {
	fields := map[string]string{
		FieldOf:    first.Document.ID,
		FieldScore: strconv.FormatFloat(rec.Chunks[0].Vector.Cosine(first.Chunks[0].Vector), 'f', 3, 64),
	}
	for k, v := range rec.Document.Fields {
		if k != FieldOf && k != FieldScore {
			fields[k] = v
		}
	}
	marked := *rec
	marked.Document.Fields = fields
	marked.Version++
	_, err := m.parts.Store.Refresh(ctx, marked)
	if _, moved := errors.AsType[*store.SpaceError](err); moved {
		return nil // the next run begins anew
	}
	if err != nil {
		return fmt.Errorf("marking document %s: %w", rec.Document.ID, err)
	}
	*rec = marked
	m.log.Debug("document is a near duplicate", "document", rec.Document.ID, "of", first.Document.ID, "score", fields[FieldScore])
	return nil
}
