package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/vector"
)

const (
	// syncBatch is how many records one round trip of Sync brings: some megabytes at the usual sizes.
	syncBatch = 500

	// scanShare is the fewest documents worth a goroutine of their own in a search, about 0.5 ms.
	scanShare = 2048
)

// IndexOptions may be nil.
type IndexOptions struct {
	SnippetBytes int // most bytes of a hit's snippet; by default 240
	Goroutines   int // that one search may use; by default as many as Go may run at once
}

func (o *IndexOptions) withDefaults() IndexOptions {
	var opts IndexOptions
	if o != nil {
		opts = *o
	}
	opts.SnippetBytes = cmp.Or(opts.SnippetBytes, 240)
	opts.Goroutines = cmp.Or(opts.Goroutines, runtime.GOMAXPROCS(0))
	return opts
}

// An Index searches the documents of one alias and space exactly: every search looks at every vector. Its
// memory is 4 bytes per dimension and chunk, plus the documents without their texts (about 0.5 kB); its
// time grows in step, some 30 ms of one core for 100,000 chunks of 384 dimensions.
//
// All methods are safe for concurrent use; searches run beside each other, and wait for a batch of Sync
// no longer than it takes to enter 500 records.
type Index struct {
	model string
	space vector.Space
	opts  IndexOptions

	syncing sync.Mutex // held by Sync: one at a time moves the cursor

	mu      sync.RWMutex
	seq     int64          // the last change entered
	dim     int            // of every vector; 0 while there is none
	chunks  int            // of all entries
	entries []*entry       // in no order
	places  map[string]int // document id -> index in entries
}

// An entry is one document. It is never changed, only replaced, so that a hit may point to it.
type entry struct {
	doc      vector.Document // without its text
	vectors  []float32       // of all chunks, one after the other
	start    []int32         // per chunk, as are the next two
	end      []int32
	snippets []string
}

// NewIndex returns an empty index of an alias's vectors in space.
func NewIndex(model string, space vector.Space, opts *IndexOptions) *Index {
	return &Index{model: model, space: space, opts: opts.withDefaults(), places: make(map[string]int)}
}

// Sync enters what changed in src since the last Sync, and returns how many documents that were. A record
// that makes no sense is left out and named in the error, once, and the rest is entered all the same. If
// src itself fails, the index is whole and as of some moment between the last Sync and now.
func (x *Index) Sync(ctx context.Context, src Source) (int, error) {
	x.syncing.Lock()
	defer x.syncing.Unlock()
	var (
		total int
		bad   []error
	)
	for {
		at := x.place()
		changes, err := src.Changes(ctx, Cursor{Model: x.model, Space: x.space, Seq: at, Limit: syncBatch})
		if err != nil {
			err = fmt.Errorf("reading changes of %q after %d: %w", x.model, at, err)
			return total, errors.Join(append(bad, err)...)
		}
		if changes.Last < at { // the store was emptied: its numbers begin anew
			x.reset()
			continue
		}
		bad = append(bad, x.enterAll(changes.Items)...)
		total += len(changes.Items)
		if len(changes.Items) < syncBatch {
			return total, errors.Join(bad...)
		}
	}
}

func (x *Index) place() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.seq
}

func (x *Index) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seq, x.dim, x.chunks, x.entries = 0, 0, 0, nil
	clear(x.places)
}

// enterAll makes the index agree with changes, and returns what is wrong with those it had to leave out.
func (x *Index) enterAll(changes []Change) (bad []error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range changes {
		if err := x.enterLocked(c); err != nil {
			bad = append(bad, fmt.Errorf("entering document %q: %w", c.ID, err))
		}
		x.seq = c.Seq
	}
	return bad
}

func (x *Index) enterLocked(c Change) error {
	x.removeLocked(c.ID)
	if c.Record == nil {
		return c.Err
	}
	e, dim, err := x.newEntryLocked(c.Record)
	if err != nil {
		return err
	}
	x.dim = dim
	x.places[c.ID] = len(x.entries)
	x.entries = append(x.entries, e)
	x.chunks += len(e.start)
	return nil
}

// removeLocked forgets a document; the last one takes its place.
func (x *Index) removeLocked(id string) {
	i, ok := x.places[id]
	if !ok {
		return
	}
	last := len(x.entries) - 1
	x.chunks -= len(x.entries[i].start)
	x.entries[i] = x.entries[last]
	x.places[x.entries[i].doc.ID] = i
	x.entries[last] = nil
	x.entries = x.entries[:last]
	delete(x.places, id)
	if last == 0 {
		x.dim = 0 // whatever comes next decides
	}
}

// newEntryLocked checks rec and returns what the index keeps of it, and its dimension.
func (x *Index) newEntryLocked(rec *vector.Record) (*entry, int, error) {
	if len(rec.Chunks) == 0 {
		return nil, 0, errors.New("no vectors")
	}
	dim := cmp.Or(x.dim, len(rec.Chunks[0].Vector))
	e := &entry{doc: rec.Document, vectors: make([]float32, 0, dim*len(rec.Chunks))}
	e.doc.Text = ""
	for i, c := range rec.Chunks {
		if err := c.Vector.Check(dim); err != nil {
			return nil, 0, fmt.Errorf("chunk %d: %w", i, err)
		}
		if c.Start < 0 || c.Start > c.End || c.End > len(rec.Document.Text) {
			return nil, 0, fmt.Errorf("chunk %d spans bytes %d to %d of a text of %d",
				i, c.Start, c.End, len(rec.Document.Text))
		}
		e.vectors = append(e.vectors, c.Vector...)
		e.start, e.end = append(e.start, int32(c.Start)), append(e.end, int32(c.End))
		e.snippets = append(e.snippets, snippet(rec.Document.Text[c.Start:c.End], x.opts.SnippetBytes))
	}
	return e, dim, nil
}

// snippet returns a copy of the first max bytes of s at most, cut between characters. A copy, because s
// would keep the whole text in memory.
func snippet(s string, max int) string {
	if len(s) > max {
		for max > 0 && !utf8.RuneStart(s[max]) {
			max--
		}
		s = s[:max]
	}
	return strings.Clone(s)
}

// Len returns the documents and chunks in the index.
func (x *Index) Len() (documents, chunks int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.entries), x.chunks
}

// Search returns the q.K documents whose nearest chunk is nearest to q.Vector, best first; fewer if the
// filter lets fewer pass. An empty index has no hits.
func (x *Index) Search(ctx context.Context, q Query) ([]Hit, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if err := q.check(x.dim); err != nil {
		return nil, err
	}
	best := x.scan(ctx, q)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("searching: %w", err)
	}
	hits := make([]Hit, len(best))
	for i, f := range best {
		hits[i] = f.hit()
	}
	return hits, nil
}

// scan looks at all entries, with several goroutines if there are many, and returns the best in order.
// The caller holds x.mu, for reading.
func (x *Index) scan(ctx context.Context, q Query) []found {
	n := min(x.opts.Goroutines, len(x.entries)/scanShare+1)
	tops := make([]topK, n)
	var wg sync.WaitGroup
	for i := range tops {
		part := x.entries[i*len(x.entries)/n : (i+1)*len(x.entries)/n]
		tops[i].k = q.K
		wg.Go(func() { tops[i].scan(ctx, part, q) })
	}
	wg.Wait()
	all := tops[0].heap
	for _, t := range tops[1:] {
		all = append(all, t.heap...)
	}
	slices.SortFunc(all, func(a, b found) int {
		if a.better(&b) {
			return -1
		}
		return 1
	})
	return all[:min(q.K, len(all))]
}

// scan offers every entry of a part that passes q's filter. It looks up from time to time whether ctx has ended.
func (t *topK) scan(ctx context.Context, entries []*entry, q Query) {
	for i, e := range entries {
		if i%scanShare == 0 && ctx.Err() != nil {
			return
		}
		if q.Filter.Match(&e.doc) {
			t.offer(e.nearest(q.Vector))
		}
	}
}

// nearest returns the chunk of e nearest to v, the first of equals.
func (e *entry) nearest(v vector.Vector) found {
	best := found{entry: e, score: dot(v, e.vectors)}
	for i := 1; i < len(e.start); i++ {
		if s := dot(v, e.vectors[i*len(v):]); s > best.score {
			best.chunk, best.score = i, s
		}
	}
	return best
}

// hit writes f out. The maps and slices of the document are the index's: they are shared, not copied.
func (f found) hit() Hit {
	e, i := f.entry, f.chunk
	return Hit{
		Document: e.doc,
		Chunk:    i,
		Start:    int(e.start[i]),
		End:      int(e.end[i]),
		Snippet:  e.snippets[i],
		Score:    float64(f.score),
	}
}
