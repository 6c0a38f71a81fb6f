package embedder

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// rowsOf makes rows of the given lengths.
func rowsOf(lengths ...int) [][]int32 {
	rows := make([][]int32, len(lengths))
	for i, n := range lengths {
		rows[i] = make([]int32, n)
	}
	return rows
}

// newPending makes an empty set for one runner.
func newPending(tokens, texts int) *pending {
	return &pending{lim: limits{tokens: tokens, texts: texts}, runners: 1}
}

// lengths is the opposite of rowsOf.
func lengths(entries []*entry) []int {
	var ns []int
	for _, e := range entries {
		ns = append(ns, len(e.ids))
	}
	return ns
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		lengths []int // longest first
		lim     limits
		want    []int
	}{
		{"nothing", nil, limits{tokens: 100, texts: 10}, nil},
		{"one", []int{5}, limits{tokens: 100, texts: 10}, []int{1}},
		{"level lengths fill a batch", []int{20, 20, 20, 20, 20}, limits{tokens: 100, texts: 10}, []int{5}},
		{"exactly the budget", []int{20, 20, 20, 20}, limits{tokens: 80, texts: 10}, []int{4}},
		{"one token short", []int{20, 20, 20, 20}, limits{tokens: 79, texts: 10}, []int{1, 3}},
		{"a row over the budget goes alone", []int{50, 50, 1}, limits{tokens: 40, texts: 10}, []int{1, 1, 1}},
		{"closed by rows", []int{5, 5, 5, 5, 5}, limits{tokens: 100, texts: 2}, []int{1, 2, 2}},
		{"a little padding is cheaper than a batch", []int{20, 18, 16}, limits{tokens: 100, texts: 10}, []int{3}},
		{"much padding is not", []int{100, 20, 20, 20}, limits{tokens: 1000, texts: 10}, []int{1, 3}},
		{"padding that is not computed costs nothing", []int{100, 20, 20, 20}, limits{tokens: 200, texts: 10, packed: true}, []int{4}},
		{"real tokens count", []int{60, 30, 20, 10}, limits{tokens: 100, texts: 10, packed: true}, []int{1, 3}},
		{"but not without end", []int{100, 1, 1, 1, 1}, limits{tokens: 150, texts: 10, packed: true}, []int{1, 4}},
		{"two steps", []int{100, 90, 30, 30, 28, 5, 5, 5}, limits{tokens: 1000, texts: 10}, []int{2, 3, 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := cut(tt.lengths, tt.lim); !slices.Equal(got, tt.want) {
				t.Errorf("cut(%v) = %v, want %v", tt.lengths, got, tt.want)
			}
		})
	}
}

// TestCutCostsLeast compares with every possible division of a few rows.
func TestCutCostsLeast(t *testing.T) {
	t.Parallel()
	cost := func(lengths, sizes []int, lim limits) int {
		sum, i := 0, 0
		for _, n := range sizes {
			padded, computed := n*lengths[i], n*lengths[i]
			if lim.packed {
				computed = 0
				for _, l := range lengths[i : i+n] {
					computed += l
				}
			}
			if n > lim.texts || n > 1 && (computed > lim.tokens || padded > 2*lim.tokens) {
				return math.MaxInt
			}
			sum += callCost + computed
			i += n
		}
		return sum
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		lengths := make([]int, 1+r.IntN(9))
		for i := range lengths {
			lengths[i] = 1 + r.IntN(60)
		}
		slices.SortFunc(lengths, func(a, b int) int { return b - a })
		lim := limits{tokens: 1 + r.IntN(200), texts: 1 + r.IntN(6), packed: r.IntN(2) == 0}
		least := math.MaxInt
		for borders := range 1 << (len(lengths) - 1) { // bit i: a batch ends behind row i
			sizes := []int{1}
			for i := range len(lengths) - 1 {
				if borders>>i&1 == 1 {
					sizes = append(sizes, 1)
				} else {
					sizes[len(sizes)-1]++
				}
			}
			least = min(least, cost(lengths, sizes, lim))
		}
		if got := cost(lengths, cut(lengths, lim), lim); got != least {
			t.Fatalf("cut(%v, %+v) costs %d, the least is %d", lengths, lim, got, least)
		}
	}
}

func TestShare(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ tokens, runners, want int }{
		{10_000, 2, 512}, // plenty for everybody
		{600, 2, 300},    // half for each
		{601, 2, 301},
		{600, 1, 512},
		{100, 4, minShare}, // too little to divide
	} {
		if got := (limits{tokens: 512, texts: 8}).share(tt.tokens, tt.runners); got.tokens != tt.want || got.texts != 8 {
			t.Errorf("share of %d tokens for %d runners = %+v, want %d tokens", tt.tokens, tt.runners, got, tt.want)
		}
	}
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	p := newPending(20, 10)
	add := func(lengths ...int) { p.add(callOf(documents, rowsOf(lengths...), time.Time{})) }
	next := func() []int { return lengths(p.next()) }

	add(3, 10, 4)
	add(9)
	if got := next(); !reflect.DeepEqual(got, []int{10, 9}) {
		t.Fatalf("first batch %v, want the two longest of all callers", got)
	}
	add(20) // longer than everything, but of the next generation
	if got := next(); !reflect.DeepEqual(got, []int{4, 3}) {
		t.Fatalf("second batch %v, want the rest of the generation", got)
	}
	if got := next(); !reflect.DeepEqual(got, []int{20}) {
		t.Fatalf("third batch %v, want the arrival", got)
	}
	if got := next(); got != nil || p.texts != 0 || p.tokens != 0 {
		t.Fatalf("after all: batch %v, %d texts and %d tokens counted, want none", got, p.texts, p.tokens)
	}
}

// TestEndOfGeneration looks at the batches of level rows, of which a full batch has four.
func TestEndOfGeneration(t *testing.T) {
	t.Parallel()
	const row, full = 256, 4
	for name, tt := range map[string]struct {
		rows, runners, busy, later int // later: rows that arrive while the second batch waits
		want                       []int
	}{
		"one runner":            {10, 1, 0, 0, []int{2, 4, 4}},
		"idle runners share":    {6, 2, 0, 0, []int{3, 3}},
		"busy ones end with us": {16, 2, 1, 0, []int{4, 4, 2, 2, 2, 2}},
		"more follows":          {16, 2, 1, 8, []int{4, 4, 4, 4, 2, 2, 2, 2}},
		"a little follows":      {16, 2, 1, 1, []int{4, 4, 4, 1, 1, 1, 1, 1}},
		"too little to divide":  {3, 2, 1, 0, []int{1, 1, 1}}, // as without busy ones: two shares of a row and a half
		"three runners":         {20, 3, 2, 0, []int{4, 4, 2, 2, 2, 2, 2, 2}},
	} {
		p := &pending{lim: limits{tokens: full * row, texts: 100, packed: true}, runners: tt.runners, busy: tt.busy}
		p.add(callOf(documents, rowsOf(slices.Repeat([]int{row}, tt.rows)...), time.Time{}))
		var got []int
		for rows := p.next(); rows != nil; rows = p.next() {
			if got = append(got, len(rows)); len(got) == 1 && tt.later > 0 {
				p.add(callOf(documents, rowsOf(slices.Repeat([]int{row}, tt.later)...), time.Time{}))
			}
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: batches of %v rows, want %v", name, got, tt.want)
		}
	}
}

// TestQueriesFirst takes one row at a time while both lanes are full: documents keep their share.
func TestQueriesFirst(t *testing.T) {
	t.Parallel()
	p := newPending(1, 1)
	for range 10 {
		p.add(callOf(queries, rowsOf(1), time.Time{}))
	}
	p.add(callOf(documents, rowsOf(1, 1, 1), time.Time{}))
	var got []lane
	for rows := p.next(); rows != nil; rows = p.next() {
		got = append(got, rows[0].call.lane)
	}
	const q, d = queries, documents
	if want := []lane{q, q, q, q, d, q, q, q, q, d, q, q, d}; !reflect.DeepEqual(got, want) {
		t.Errorf("lanes in the order taken %v, want %v", got, want)
	}
}

// TestQueryStreakNeedsDocuments checks that queries taken while nothing else waited are not held against
// the next ones.
func TestQueryStreakNeedsDocuments(t *testing.T) {
	t.Parallel()
	p := newPending(1, 1)
	for range 20 {
		p.add(callOf(queries, rowsOf(1), time.Time{}))
		p.next()
	}
	p.add(callOf(documents, rowsOf(1), time.Time{}))
	p.add(callOf(queries, rowsOf(1), time.Time{}))
	if got := p.next()[0].call.lane; got != queries {
		t.Error("a document was taken before a query that had not been preferred yet")
	}
}

func TestQueryRunnerTakesNoDocuments(t *testing.T) {
	t.Parallel()
	p := newPending(10, 10)
	p.add(callOf(documents, rowsOf(1), time.Time{}))
	if got := p.take(queries); got != nil {
		t.Errorf("a query runner took %d documents", len(got))
	}
}

// TestTakeSkipsGenerationsOfLeavers checks that a lane in which everybody left reads as empty.
func TestTakeSkipsGenerationsOfLeavers(t *testing.T) {
	t.Parallel()
	p := newPending(5, 10)
	gone := callOf(documents, rowsOf(5, 5), time.Time{})
	p.add(gone)
	gone.finish(errAbandoned)
	if got := p.next(); got != nil || p.texts != 0 || p.tokens != 0 {
		t.Fatalf("took %v with %d texts and %d tokens left, want nothing", lengths(got), p.texts, p.tokens)
	}
	p.add(gone)
	p.add(callOf(documents, rowsOf(3), time.Time{}))
	if got := lengths(p.next()); !reflect.DeepEqual(got, []int{3}) {
		t.Errorf("took %v, want the one that stayed", got)
	}
}

func TestLingering(t *testing.T) {
	t.Parallel()
	epoch := time.Unix(0, 0)
	const linger = 10 * time.Millisecond
	for _, tt := range []struct {
		name  string
		setUp func(*pending)
		after time.Duration
		want  time.Duration
	}{
		{"nothing waits", func(*pending) {}, 0, 0},
		{"one document", func(p *pending) { p.add(callOf(documents, rowsOf(5), epoch)) }, 4 * time.Millisecond, 6 * time.Millisecond},
		{"the oldest counts", func(p *pending) {
			p.add(callOf(documents, rowsOf(5), epoch))
			p.add(callOf(documents, rowsOf(5), epoch.Add(8*time.Millisecond)))
		}, 8 * time.Millisecond, 2 * time.Millisecond},
		{"enough tokens", func(p *pending) { p.add(callOf(documents, rowsOf(60, 40), epoch)) }, 0, 0},
		{"enough texts", func(p *pending) { p.add(callOf(documents, rowsOf(1, 1, 1), epoch)) }, 0, 0},
		{"a query waits", func(p *pending) {
			p.add(callOf(documents, rowsOf(5), epoch))
			p.add(callOf(queries, rowsOf(5), epoch))
		}, 0, 0},
		{"a generation is under way", func(p *pending) {
			p.add(callOf(documents, rowsOf(60, 60), epoch))
			p.next()
			p.add(callOf(documents, rowsOf(5), epoch))
		}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPending(100, 3)
			tt.setUp(p)
			if got := max(0, p.lingering(epoch.Add(tt.after), linger)); got != tt.want {
				t.Errorf("lingering = %v, want %v", got, tt.want)
			}
		})
	}
}

// callOf makes a call whose caller stays.
func callOf(l lane, rows [][]int32, now time.Time) *call {
	windows := make([]window, len(rows))
	for i, ids := range rows {
		windows[i].ids = ids
	}
	return newCall(context.Background(), l, windows, now)
}

func TestCallFinishesOnce(t *testing.T) {
	t.Parallel()
	c := callOf(documents, rowsOf(1), time.Time{})
	first := errors.New("first")
	c.finish(first)
	c.finish(nil)
	<-c.done
	if !errors.Is(c.err, first) {
		t.Errorf("err = %v, want that of the first end", c.err)
	}
}
