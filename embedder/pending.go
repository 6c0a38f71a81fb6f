package embedder

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// A lane separates callers who wait at a screen from those who don't.
type lane int

const (
	queries lane = iota
	documents
	lanes
)

// queryShare is how many query batches in a row a common runner takes while documents wait. It bounds how
// much a flood of queries can slow documents: they keep at least one batch in queryShare+1.
const queryShare = 4

// A call is what one caller waits for: one or more rows. Its fields are guarded by the engine's lock,
// except that vectors and err may be read freely once it is over.
type call struct {
	caller  context.Context //nolint:containedctx // a call is its caller's: it is in here no longer than the caller
	lane    lane
	entries []*entry
	vectors []vector.Vector // by row
	left    int             // rows without a vector
	err     error
	over    bool // answered, or its caller has left: no row of it is worth running
	done    chan struct{}
	group   *group // it belongs to one, which is told instead of done; else nil
	index   int    // in the group
}

// An entry is one row on its way through the pending set and a batch.
type entry struct {
	ids   []int32
	call  *call
	row   int // index in the call
	since time.Time
	batch *batch // the batch it is being run in, nil otherwise
}

// newCall makes a call of rows that arrived at now.
func newCall(caller context.Context, l lane, rows [][]int32, now time.Time) *call {
	c := &call{
		caller:  caller,
		lane:    l,
		entries: make([]*entry, len(rows)),
		vectors: make([]vector.Vector, len(rows)),
		left:    len(rows),
		done:    make(chan struct{}),
	}
	for i, ids := range rows {
		c.entries[i] = &entry{ids: ids, call: c, row: i, since: now}
	}
	return c
}

// finish ends a call with err, nil meaning that all vectors are there. Only the first end counts.
func (c *call) finish(err error) {
	if c.over {
		return
	}
	c.over, c.err = true, err
	if c.group != nil {
		c.group.add(c)
		return
	}
	close(c.done)
}

// fail ends a call with err. Its rows that wait are dropped when their turn comes; a batch under way in which
// nobody else is left is told to stop.
func (c *call) fail(err error) {
	c.finish(err)
	for _, en := range c.entries {
		if b := en.batch; b != nil {
			b.drop(en)
			if b.live == 0 {
				b.cancel(errAbandoned)
			}
		}
	}
}

// callCost is what a batch costs beside its tokens, in tokens: the time to read the weights once and to
// cross into native code. It is the ratio of a core's arithmetic to its share of the memory's bandwidth, so
// it hardly depends on the model; 15 to 20 were measured.
const callCost = 16

// minShare is the smallest batch, in tokens, into which a generation is divided to occupy every runner.
// Smaller ones lose more to callCost than a second core brings.
const minShare = 64

// minEnd is the smallest batch, in tokens, into which the end of a generation is divided so that the runners end
// together.
const minEnd = 256

// limits bound a batch.
type limits struct {
	tokens int  // computed ones; a longer row is a batch of its own
	texts  int  // rows
	packed bool // the model computes no padding
}

// packedWidth is how many times the bound of tokens a packed batch may have with its padding, which the model
// drops, but not before the first table's rows are in memory.
const packedWidth = 2

// computed returns how many tokens a model computes of n rows, the longest of which has so many tokens and that have
// so many together.
func (l limits) computed(n, longest, tokens int) int {
	if l.packed {
		return tokens
	}
	return n * longest
}

// fit reports whether such rows are within the bounds.
func (l limits) fit(n, longest, tokens int) bool {
	return n == 1 || n <= l.texts && l.computed(n, longest, tokens) <= l.tokens && n*longest <= packedWidth*l.tokens
}

// share returns the limits under which so many tokens make as many batches at least.
func (l limits) share(tokens, batches int) limits {
	l.tokens = min(l.tokens, max(minShare, (tokens+batches-1)/batches))
	return l
}

// cut divides rows of the given lengths, sorted longest first, into batches within lim and returns the
// number of rows of each. Of all divisions it takes one that costs least: computed tokens, and callCost for
// each batch. Where padding is computed, every further row of a batch costs as much as its first, the longest; so where
// lengths fall steeply a new batch is cheaper, and where they are level a full one.
func cut(lengths []int, lim limits) []int {
	least := make([]int, len(lengths)+1) // cost of the first i rows
	rows := make([]int, len(lengths)+1)  // in the last batch of that division
	for i := range least[1:] {
		least[i+1] = math.MaxInt
	}
	for i, longest := range lengths {
		tokens := 0
		for n := 1; n <= len(lengths)-i; n++ {
			if tokens += lengths[i+n-1]; !lim.fit(n, longest, tokens) {
				break
			}
			if cost := least[i] + callCost + lim.computed(n, longest, tokens); cost < least[i+n] {
				least[i+n], rows[i+n] = cost, n
			}
		}
	}
	var sizes []int
	for i := len(lengths); i > 0; i -= rows[i] {
		sizes = append(sizes, rows[i])
	}
	slices.Reverse(sizes)
	return sizes
}

// A queue is the waiting rows of one lane: a generation being drained, and the arrivals that will be the
// next one.
type queue struct {
	arriving []*entry // in order of arrival
	more     int      // tokens of arriving
	current  []*entry // longest first
	tokens   int      // of current
	sizes    []int    // of the batches that current is divided into
	ending   bool     // current is divided so that the runners end together
}

// turn makes a generation of the arrivals: of all, or of the first so many tokens.
func (q *queue) turn(most int) {
	n, tokens := len(q.arriving), q.more
	if most > 0 {
		n, tokens = 0, 0
		for n < len(q.arriving) && tokens < most {
			tokens += len(q.arriving[n].ids)
			n++
		}
	}
	q.current, q.tokens = q.arriving[:n:n], tokens
	q.arriving, q.more = q.arriving[n:], q.more-tokens
	// Stable, so that equals keep their order of arrival.
	slices.SortStableFunc(q.current, func(a, b *entry) int { return cmp.Compare(len(b.ids), len(a.ids)) })
	q.sizes, q.ending = nil, false
}

// divide divides what is left of the generation into batches, if that is to be done: when it begins, and when less than a
// full batch for each runner is left, what would follow included. Then every runner gets its share; and where others are
// busy, who become free at some other time, two smaller ones, lest one of them begins a full batch when there is nothing
// else to do.
func (q *queue) divide(lim limits, runners, busy int) {
	last := q.tokens+q.more <= runners*lim.tokens
	if q.sizes != nil && (q.ending || !last) {
		return
	}
	q.ending = last
	batches := runners
	if last && busy > 0 && q.tokens >= 2*runners*minEnd {
		batches = 2 * runners
	}
	lengths := make([]int, len(q.current))
	for i, e := range q.current {
		lengths[i] = len(e.ids)
	}
	q.sizes = cut(lengths, lim.share(q.tokens, batches))
}

// next takes the next batch of the generation, without the rows whose caller has left meanwhile; it may be
// empty.
func (q *queue) next() []*entry {
	n := q.sizes[0]
	var rows []*entry
	for i, e := range q.current[:n] {
		q.tokens -= len(e.ids)
		if !e.call.over {
			rows = append(rows, e)
		}
		q.current[i] = nil // the generation's array lives on, its rows need not
	}
	q.current, q.sizes = q.current[n:], q.sizes[1:]
	return rows
}

// pending is everything that waits for a runner.
type pending struct {
	lim     limits
	runners int
	busy    int // of the runners
	queues  [lanes]queue
	texts   int // rows waiting, those of callers who left included until their turn comes
	tokens  int
	streak  int // query batches since the last document batch, while documents waited
}

// add appends the rows of a call.
func (p *pending) add(c *call) {
	q := &p.queues[c.lane]
	q.arriving = append(q.arriving, c.entries...)
	for _, e := range c.entries {
		p.texts++
		p.tokens += len(e.ids)
		q.more += len(e.ids)
	}
}

// next takes a batch of either lane, nil if nothing waits. It prefers queries, but not more than queryShare
// times in a row.
func (p *pending) next() []*entry {
	first, second := queries, documents
	if p.streak >= queryShare {
		first, second = documents, queries
	}
	for _, l := range []lane{first, second} {
		if rows := p.take(l); rows != nil {
			if l == documents || p.waiting(documents) == 0 {
				p.streak = 0
			} else {
				p.streak++
			}
			return rows
		}
	}
	return nil
}

// generationBatches is how many batches of each runner a generation of a packed model has.
const generationBatches = 4

// generation is how many tokens a generation has at most, 0 for all that wait. Where padding is computed, the more rows
// are sorted by length the less there is of it. A packed model has none, and the fewer there are, the sooner a document
// is whole: its rows are spread over the generation, its shortest at the end.
func (p *pending) generation() int {
	if !p.lim.packed {
		return 0
	}
	return generationBatches * p.runners * p.lim.tokens
}

// take takes a batch of one lane, nil if nothing waits there.
func (p *pending) take(l lane) []*entry {
	q := &p.queues[l]
	for p.waiting(l) > 0 {
		if len(q.current) == 0 {
			q.turn(p.generation())
		}
		q.divide(p.lim, p.runners, p.busy)
		p.forget(q.current[:q.sizes[0]])
		if rows := q.next(); len(rows) > 0 {
			return rows
		}
	}
	return nil
}

// forget takes rows off the counts.
func (p *pending) forget(rows []*entry) {
	p.texts -= len(rows)
	for _, e := range rows {
		p.tokens -= len(e.ids)
	}
}

// waiting counts the rows of a lane.
func (p *pending) waiting(l lane) int {
	return len(p.queues[l].arriving) + len(p.queues[l].current)
}

// lingering returns how much longer documents should wait for company: until the oldest has waited for
// linger, unless they fill a batch, or a generation is under way, or a query waits.
func (p *pending) lingering(now time.Time, linger time.Duration) time.Duration {
	q := &p.queues[documents]
	if linger == 0 || len(q.arriving) == 0 || len(q.current) > 0 || p.waiting(queries) > 0 {
		return 0
	}
	if len(q.arriving) >= p.lim.texts || p.tokens >= p.lim.tokens {
		return 0
	}
	return q.arriving[0].since.Add(linger).Sub(now)
}

// refuse ends every call that has a row waiting.
func (p *pending) refuse(err error) {
	for l := range p.queues {
		q := &p.queues[l]
		for _, e := range slices.Concat(q.current, q.arriving) {
			e.call.finish(err)
		}
		*q = queue{}
	}
	p.texts, p.tokens = 0, 0
}
