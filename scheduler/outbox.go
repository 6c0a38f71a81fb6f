package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// An Item is what a crawler found.
type Item struct {
	Document vector.Document
	// Names are further names of the same thing: a story's canonical address, its title on that day. An
	// item one of whose names is known is known.
	Names []string
	// Event is when the thing happened as far as is known, else when it was first seen; its way to
	// readable vectors is measured from there. Zero: it is not measured.
	Event time.Time
	// Latest says under which key this item is from now on the latest of its kind, see [Mark].
	Latest string
	// Transient items are not remembered: whoever brings them keeps count in another way.
	Transient bool
	// Update says that its id is known and its text is newer than what was handed in under it.
	Update bool
	// Once says that its source hands it in once. If its id is known then, another part of the source was
	// first; other items come again and again, and that they are known needs no count.
	Once bool
}

// A Mark is what is written down about an item once it is safe.
type Mark struct {
	ID     string
	Names  []string  // the id among them; none for an item that is transient
	Event  time.Time // zero: its way is not measured
	Latest string    // key under which ID is the latest of its kind, "" for none
}

// A Memory knows what was handed in before.
type Memory interface {
	// Seen reports for each name whether it was marked.
	Seen(ctx context.Context, names []string) ([]bool, error)
	// Mark writes marks down, each of them whole or not at all.
	Mark(ctx context.Context, marks []Mark) error
}

// A Queue takes tasks. A task that waits or runs already is as good as taken.
type Queue interface {
	// Enqueue returns for each task why it can never be taken, nil if it was. The error says that Redis
	// failed; then nothing is known and everything may be enqueued again.
	Enqueue(ctx context.Context, list []tasks.Task) (refused []error, err error)
}

// A Store knows what was embedded.
type Store interface {
	// TextHashes returns for each id the hash of the text whose vectors are readable, "" for none.
	TextHashes(ctx context.Context, alias string, ids []string) ([]string, error)
}

// An Outbox takes items to the fleet in the one order of steps that survives a crash between any two:
//
//  1. which names are known? Those items are done, unless they are newer than what is known.
//  2. which texts are stored already? They only need step 5. So a memory that was wiped is rebuilt from
//     the store, and the queue is not flooded.
//  3. the crawler completes what is left (links to other items).
//  4. tasks are enqueued. Their ids follow from document and text, so whatever is repeated meets itself.
//  5. names are marked as known.
//
// A crash before 5 repeats everything and changes nothing; the other order would lose items.
type Outbox struct {
	Log    *slog.Logger
	Alias  string // model that is to embed
	Lane   tasks.Lane
	Memory Memory
	Queue  Queue
	Store  Store
	// Complete may add to new documents before they are enqueued; nil if there is nothing to add. Their
	// text must stay as it is.
	Complete func(ctx context.Context, items []Item) error
}

// batch bounds the items of one pass through the steps.
const batch = 500

// Put takes items through the steps, in their order. After an error some are done and the rest is not; all
// may be put again.
func (o *Outbox) Put(ctx context.Context, items []Item) (Report, error) {
	var total Report
	for len(items) > 0 {
		n := min(len(items), batch)
		r, err := o.put(ctx, items[:n])
		total.Add(r)
		if err != nil {
			return total, err
		}
		items = items[n:]
	}
	return total, nil
}

func (o *Outbox) put(ctx context.Context, items []Item) (r Report, err error) {
	fresh, marks, err := o.unknown(ctx, items, &r)
	if err != nil {
		return r, err
	}
	if len(fresh)+len(marks) == 0 {
		return r, nil
	}
	fresh, stored, err := o.unstored(ctx, fresh, &r)
	if err != nil {
		return r, err
	}
	marks = append(marks, stored...)
	if o.Complete != nil && len(fresh) > 0 {
		if err := o.Complete(ctx, fresh); err != nil {
			return r, fmt.Errorf("completing %d documents: %w", len(fresh), err)
		}
	}
	added, err := o.enqueue(ctx, fresh, &r)
	if err != nil {
		return r, err
	}
	if err := o.Memory.Mark(ctx, append(marks, added...)); err != nil {
		return r, fmt.Errorf("marking %d documents as known: %w", len(marks)+len(added), err)
	}
	return r, nil
}

// unknown returns the items none of whose names is known, cleaned, and those that are newer than what is. The
// others are counted; marks are those of repetitions, so that each is counted and logged once.
func (o *Outbox) unknown(ctx context.Context, items []Item, r *Report) (fresh []Item, marks []Mark, err error) {
	var names []string
	for _, it := range items {
		names = append(append(names, it.Document.ID), it.Names...)
		if it.Update {
			names = append(names, foldedName(it), ownName(it))
		}
	}
	known, err := o.Memory.Seen(ctx, names)
	if err != nil {
		return nil, nil, fmt.Errorf("asking what is known: %w", err)
	}
	if len(known) != len(names) {
		return nil, nil, fmt.Errorf("asking what is known: %d answers for %d names", len(known), len(names))
	}
	taken := map[string]bool{}
	for i, name := range names {
		taken[name] = taken[name] || known[i]
	}
	for _, it := range items {
		id := it.Document.ID
		switch why := it.repeats(taken); {
		case why == "":
			it.Document.Text = tasks.ComposeHangul(strings.ToValidUTF8(it.Document.Text, "\uFFFD"))
			fresh = append(fresh, it)
		case why == sameID && !it.Once:
			continue
		default:
			o.Log.Info("item is a repetition", "document", id, "url", it.Document.URL, "why", why)
			r.Repeat(why)
			if !it.Transient {
				mark := Mark{ID: id, Names: []string{id}}
				if why == sameName {
					mark.Names = append(mark.Names, foldedName(it))
				}
				marks = append(marks, mark)
			}
		}
		taken[id] = true
		for _, name := range it.Names {
			taken[name] = true
		}
	}
	return fresh, marks, nil
}

// The reasons for which an item is a repetition.
const (
	sameID   = "same_address"
	sameName = "same_title"
)

// foldedName is known of an item that was once taken for a repetition by a name: there is no document of its id
// that a newer text would be the newer text of.
func foldedName(it Item) string { return "folded:" + it.Document.ID }

// ownName is known of such an item once a newer text has made a document of it.
func ownName(it Item) string { return "own:" + it.Document.ID }

// repeats returns why an item is a repetition of what was taken, "" if it is none.
func (it Item) repeats(taken map[string]bool) string {
	if it.Update && (!taken[foldedName(it)] || taken[ownName(it)]) {
		return ""
	}
	if taken[it.Document.ID] && !it.Update {
		return sameID
	}
	for _, name := range it.Names {
		if taken[name] {
			return sameName
		}
	}
	return ""
}

// unstored returns the items whose text the store lacks, and marks for the others.
func (o *Outbox) unstored(ctx context.Context, items []Item, r *Report) (rest []Item, marks []Mark, err error) {
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = it.Document.ID
	}
	hashes, err := o.Store.TextHashes(ctx, o.Alias, ids)
	if err != nil {
		return nil, nil, fmt.Errorf("asking what is stored: %w", err)
	}
	for i, it := range items {
		if hashes[i] == vector.TextHash(it.Document.Text) {
			it.Event = time.Time{}
			marks = append(marks, it.mark())
			r.Stored++
			continue
		}
		rest = append(rest, it)
	}
	return rest, marks, nil
}

// enqueue makes tasks of items and returns the marks of those that are taken care of. A document that can
// never be a task is one: asked again tomorrow, it would be refused again.
func (o *Outbox) enqueue(ctx context.Context, items []Item, r *Report) ([]Mark, error) {
	var (
		list   []tasks.Task
		marks  []Mark
		queued []Item
	)
	for _, it := range items {
		t, err := tasks.New(o.Alias, o.Lane, it.Document, nil)
		if err != nil {
			marks = append(marks, o.refuse(it, err, r))
			continue
		}
		list, queued = append(list, t), append(queued, it)
	}
	if len(list) == 0 {
		return marks, nil
	}
	refused, err := o.Queue.Enqueue(ctx, list)
	if err != nil {
		return nil, err
	}
	for i, it := range queued {
		if refused[i] != nil {
			marks = append(marks, o.refuse(it, refused[i], r))
			continue
		}
		if it.Update {
			r.Updated++
		} else {
			r.New++
		}
		r.bring(it.Document.ID)
		marks = append(marks, it.mark())
	}
	return marks, nil
}

func (o *Outbox) refuse(it Item, err error, r *Report) Mark {
	o.Log.Warn("document is refused for good", "document", it.Document.ID, "err", err)
	r.refuse(refusal(err))
	it.Event = time.Time{}
	return it.mark()
}

// refusal is why a document is refused, in a word.
func refusal(err error) string {
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return "unusable"
}

func (it Item) mark() Mark {
	m := Mark{ID: it.Document.ID, Event: it.Event, Latest: it.Latest}
	if !it.Transient {
		m.Names = append([]string{it.Document.ID}, it.Names...)
		if it.Update {
			m.Names = append(m.Names, ownName(it))
		}
	}
	return m
}
