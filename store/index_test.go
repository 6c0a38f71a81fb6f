package store_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A bench is an index that follows a store in memory.
type bench struct {
	*store.Index
	*storetest.Memory
}

func setup() bench {
	return bench{store.NewIndex("minilm", storetest.SpaceA, nil), storetest.NewMemory()}
}

// put stores rec and lets the index follow.
func (b bench) put(t *testing.T, recs ...vector.Record) {
	t.Helper()
	for _, rec := range recs {
		if _, err := b.Put(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	b.sync(t)
}

func (b bench) sync(t *testing.T) int {
	t.Helper()
	n, err := b.Sync(t.Context(), b.Memory)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ids searches for the text of a record and returns the ids found.
func (b bench) ids(t *testing.T, text string, k int, exprs ...string) (ids []string) {
	t.Helper()
	filter, err := store.ParseFilter(exprs...)
	if err != nil {
		t.Fatal(err)
	}
	hits, err := b.Search(t.Context(), store.Query{Vector: storetest.Vector(text, 8), K: k, Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hits {
		ids = append(ids, h.Document.ID)
	}
	return ids
}

func TestIndexFindsTheNearestChunk(t *testing.T) {
	t.Parallel()
	b := setup()
	rec := storetest.FullRecord("d", strings.Repeat("가나다", 100), storetest.Version) // 300 bytes a chunk
	b.put(t, rec, storetest.Record("other", "something else", 1))
	hits, err := b.Search(t.Context(), store.Query{Vector: rec.Chunks[1].Vector, K: 1})
	if err != nil || len(hits) != 1 {
		t.Fatalf("Search = %v, %v", hits, err)
	}
	h := hits[0]
	if h.Document.ID != "d" || h.Chunk != 1 || h.Start != 300 || h.End != 600 || math.Abs(h.Score-1) > 1e-6 {
		t.Errorf("hit is %+v, want chunk 1 of d with score 1", h)
	}
	if want := rec.Document.Text[300:540]; h.Snippet != want { // 240 bytes are 80 whole syllables
		t.Errorf("snippet %q, want %q", h.Snippet, want)
	}
	if h.Document.Title != rec.Document.Title || h.Document.Text != "" {
		t.Errorf("document is %+v, want all but the text", h.Document)
	}
	if docs, chunks := b.Len(); docs != 2 || chunks != 4 {
		t.Errorf("Len = %d, %d, want 2, 4", docs, chunks)
	}
}

func TestSnippetIsCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	for max, want := range map[int]string{1: "a", 2: "a", 3: "a", 4: "a한", 6: "a한", 7: "a한글", 99: "a한글"} {
		x, m := store.NewIndex("minilm", storetest.SpaceA, &store.IndexOptions{SnippetBytes: max}), storetest.NewMemory()
		b := bench{x, m}
		b.put(t, storetest.Record("d", "a한글", 1))
		hits, err := x.Search(t.Context(), store.Query{Vector: storetest.Vector("x", 8), K: 1})
		if err != nil || hits[0].Snippet != want {
			t.Errorf("snippet of %d bytes is %q, %v, want %q", max, hits[0].Snippet, err, want)
		}
	}
}

// TestIndexAgainstSorting compares the heap, the goroutines and the filter with sorting everything.
func TestIndexAgainstSorting(t *testing.T) {
	t.Parallel()
	const n = 5000 // enough for several goroutines
	b := bench{store.NewIndex("minilm", storetest.SpaceA, &store.IndexOptions{Goroutines: 4}), storetest.NewMemory()}
	recs := make([]vector.Record, n)
	for i := range recs {
		recs[i] = storetest.Record(fmt.Sprintf("%05d", i), fmt.Sprint("text ", i/2), 1) // pairs have equal scores
		recs[i].Document.Source = []string{"dart", "news", "rss"}[i%3]
	}
	b.put(t, recs...)
	for _, k := range []int{1, 7, store.MaxK} {
		for _, source := range []string{"", "news"} {
			query, exprs := fmt.Sprint("query ", k), []string(nil)
			if source != "" {
				exprs = []string{"source=" + source}
			}
			want := sorted(recs, storetest.Vector(query, 8), source)[:k]
			if got := b.ids(t, query, k, exprs...); !slices.Equal(got, want) {
				t.Errorf("k %d, source %q: %v, want %v", k, source, got[:min(k, 10)], want[:min(k, 10)])
			}
		}
	}
}

// sorted returns the ids of all records of a source by falling cosine, then by id.
func sorted(recs []vector.Record, v vector.Vector, source string) (ids []string) {
	recs = slices.Clone(recs)
	slices.SortStableFunc(recs, func(a, b vector.Record) int {
		x, y := a.Chunks[0].Vector.Dot(v), b.Chunks[0].Vector.Dot(v)
		switch {
		case math.Abs(x-y) < 1e-7: // the index sums in float32
			return strings.Compare(a.Document.ID, b.Document.ID)
		case x > y:
			return -1
		default:
			return 1
		}
	})
	for _, r := range recs {
		if source == "" || r.Document.Source == source {
			ids = append(ids, r.Document.ID)
		}
	}
	return ids
}

func TestIndexFollows(t *testing.T) {
	t.Parallel()
	b := setup()
	b.put(t, storetest.Record("a", "one", 1), storetest.Record("b", "two", 1), storetest.Record("c", "three", 1))
	if n := b.sync(t); n != 0 {
		t.Errorf("Sync without a change entered %d", n)
	}
	b.put(t, storetest.Record("a", "four", 2))
	if got := b.ids(t, "four", 1); !slices.Equal(got, []string{"a"}) {
		t.Errorf("after an update found %v, want a", got)
	}
	if _, err := b.Delete(t.Context(), "minilm", "b", 0); err != nil {
		t.Fatal(err)
	}
	if n := b.sync(t); n != 1 {
		t.Errorf("Sync after a delete entered %d, want 1", n)
	}
	got := b.ids(t, "two", 10)
	if slices.Sort(got); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("after a delete found %v, want a and c", got)
	}
}

// TestIndexPages brings more than one batch of Sync.
func TestIndexPages(t *testing.T) {
	t.Parallel()
	b := setup()
	for i := range 1000 {
		if _, err := b.Put(t.Context(), storetest.Record(fmt.Sprint(i), fmt.Sprint("text ", i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.sync(t); n != 1000 {
		t.Errorf("Sync entered %d, want 1000", n)
	}
}

func TestIndexLeavesAnotherSpace(t *testing.T) {
	t.Parallel()
	b := setup()
	b.put(t, storetest.Record("a", "one", 1), storetest.Record("b", "two", 1))
	if err := b.ClaimSpace(t.Context(), "minilm", storetest.SpaceB, store.ReEmbed); err != nil {
		t.Fatal(err)
	}
	successor := storetest.Record("a", "one", 1)
	successor.Space = storetest.SpaceB
	successor.Chunks[0].Vector = storetest.Vector("one", 16) // of another model, so of another size
	b.put(t, successor)
	if got := b.ids(t, "one", 10); !slices.Equal(got, []string{"b"}) {
		t.Errorf("the old space's index found %v, want b", got)
	}
	next := store.NewIndex("minilm", storetest.SpaceB, nil)
	if _, err := next.Sync(t.Context(), b.Memory); err != nil {
		t.Fatal(err)
	}
	if docs, _ := next.Len(); docs != 1 {
		t.Errorf("the new space's index has %d documents, want 1", docs)
	}
}

// TestIndexStartsAnew empties the store under the index.
func TestIndexStartsAnew(t *testing.T) {
	t.Parallel()
	b := setup()
	b.put(t, storetest.Record("a", "one", 1), storetest.Record("b", "two", 1))
	b.Memory = storetest.NewMemory()
	b.put(t, storetest.Record("c", "three", 1))
	if got := b.ids(t, "one", 10); !slices.Equal(got, []string{"c"}) {
		t.Errorf("found %v, want c alone", got)
	}
}

// scripted is a Source that returns what it is told.
type scripted struct {
	changes store.Changes
	err     error
}

func (s scripted) Changes(context.Context, store.Cursor) (store.Changes, error) {
	return s.changes, s.err
}

// TestIndexLeavesOutWhatMakesNoSense feeds bad records between good ones.
func TestIndexLeavesOutWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	good, last := storetest.Record("a", "one", 1), storetest.Record("z", "two", 1)
	none, short, nan, span := storetest.Record("none", "x", 1), storetest.Record("short", "x", 1),
		storetest.Record("nan", "x", 1), storetest.Record("span", "x", 1)
	none.Chunks = nil
	short.Chunks[0].Vector = short.Chunks[0].Vector[:7]
	nan.Chunks[0].Vector[3] = float32(math.NaN())
	span.Chunks[0].End = 9
	var src scripted
	for i, rec := range []*vector.Record{&good, &none, &short, &nan, &span, nil, &last} {
		c := store.Change{Seq: int64(i + 1), Record: rec}
		if rec == nil {
			c.ID, c.Err = "broken", errors.New("field text is missing")
		} else {
			c.ID = rec.Document.ID
		}
		src.changes.Items = append(src.changes.Items, c)
	}
	src.changes.Last = 7
	x := store.NewIndex("minilm", storetest.SpaceA, nil)
	_, err := x.Sync(t.Context(), src)
	for _, want := range []string{
		`"none": no vectors`, `"short": chunk 0: vector has 7`, `"nan": chunk 0: vector value 3`,
		`"span": chunk 0 spans bytes 0 to 9 of a text of 1`, `"broken": field text is missing`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Sync: %v\nlacks %s", err, want)
		}
	}
	if docs, _ := x.Len(); docs != 2 {
		t.Errorf("index has %d documents, want the two good ones", docs)
	}
	down := scripted{err: errors.New("connection refused")}
	if _, err := x.Sync(t.Context(), down); !errors.Is(err, down.err) {
		t.Errorf("Sync from a source that is down: %v", err)
	}
}

func TestSearchRefuses(t *testing.T) {
	t.Parallel()
	b := setup()
	b.put(t, storetest.Record("a", "one", 1))
	unit := storetest.Vector("x", 8)
	for _, tt := range []struct {
		query store.Query
		want  string
	}{
		{store.Query{Vector: unit}, "k is 0, want 1 to 1000"},
		{store.Query{Vector: unit, K: 1001}, "k is 1001"},
		{store.Query{K: 1}, "query has no vector"},
		{store.Query{Vector: unit[:7], K: 1}, "7 dimensions, the model has 8"},
		{store.Query{Vector: make(vector.Vector, 8), K: 1}, "length 0"},
	} {
		if _, err := b.Search(t.Context(), tt.query); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Search: %v, want %q", err, tt.want)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Search(ended, store.Query{Vector: unit, K: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("Search after the end: %v", err)
	}
}

func TestSearchOfNothing(t *testing.T) {
	t.Parallel()
	if got := setup().ids(t, "anything", 5); len(got) != 0 {
		t.Errorf("an empty index found %v", got)
	}
}

// TestSearchWhileSyncing is for the race detector; every search must see whole documents.
func TestSearchWhileSyncing(t *testing.T) {
	t.Parallel()
	b := setup()
	b.put(t, storetest.Record("always", "text", 1))
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			for i := range 300 {
				id := fmt.Sprint(rng.IntN(20))
				if rng.IntN(3) == 0 {
					_, _ = b.Delete(t.Context(), "minilm", id, 0)
				} else {
					_, _ = b.Put(t.Context(), storetest.FullRecord(id, fmt.Sprint("some text ", i), int64(i+1)))
				}
				if _, err := b.Sync(t.Context(), b.Memory); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 300 {
				hits, err := b.Search(t.Context(), store.Query{Vector: storetest.Vector("text", 8), K: 3})
				if err != nil || len(hits) == 0 || hits[0].Document.ID != "always" {
					t.Errorf("Search = %v, %v, want the document that is always there", hits, err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkSearch looks at 100,000 documents of one chunk and 384 dimensions.
func BenchmarkSearch(b *testing.B) {
	const n, dim = 100_000, 384
	src := scripted{changes: store.Changes{Last: n}}
	rng := rand.New(rand.NewPCG(1, 2))
	unit := func() vector.Vector {
		v := make(vector.Vector, dim)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		for i, norm := 0, float32(v.Norm()); i < dim; i++ {
			v[i] /= norm
		}
		return v
	}
	for i := range n {
		rec := storetest.Record(fmt.Sprint(i), "text", 1)
		rec.Document.Source = []string{"dart", "news"}[i%2]
		rec.Chunks[0].Vector = unit()
		src.changes.Items = append(src.changes.Items, store.Change{Seq: int64(i + 1), ID: rec.Document.ID, Record: &rec})
	}
	for _, goroutines := range []int{1, 2} {
		x := store.NewIndex("minilm", storetest.SpaceA, &store.IndexOptions{Goroutines: goroutines})
		if _, err := x.Sync(b.Context(), onePage(src)); err != nil {
			b.Fatal(err)
		}
		for name, q := range map[string]store.Query{
			"all":      {Vector: unit(), K: 10},
			"filtered": {Vector: unit(), K: 10, Filter: store.Filter{Equal: map[string][]string{"source": {"dart"}}}},
		} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", name, goroutines), func(b *testing.B) {
				for b.Loop() {
					if hits, err := x.Search(b.Context(), q); err != nil || len(hits) != 10 {
						b.Fatal(hits, err)
					}
				}
			})
		}
	}
}

// onePage makes a scripted source return its changes once.
func onePage(s scripted) store.Source { return &paged{s} }

type paged struct{ scripted }

func (p *paged) Changes(_ context.Context, c store.Cursor) (store.Changes, error) {
	rest := p.changes.Items[c.Seq:]
	return store.Changes{Items: rest[:min(c.Limit, len(rest))], Last: p.changes.Last}, nil
}
