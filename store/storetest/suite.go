package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// Run checks that the stores that open returns do what a store must. Each test gets its own, empty one.
func Run(t *testing.T, open func(t *testing.T) Store) {
	tests := map[string]func(*testing.T, Store){
		"round trip":              testRoundTrip,
		"not found":               testNotFound,
		"put twice":               testPutTwice,
		"higher version wins":     testVersions,
		"newer text replaces all": testReplace,
		"no vectors":              testNoVectors,
		"put many":                testPutMany,
		"refresh":                 testRefresh,
		"refresh many":            testRefreshMany,
		"older text on its way":   testOlderTextOnItsWay,
		"delete":                  testDelete,
		"changes":                 testChanges,
		"claim":                   testClaim,
		"put claims":              testPutClaims,
		"re-embed":                testReEmbed,
		"stats":                   testStats,
		"aliases are apart":       testAliases,
		"answers":                 testAnswers,
		"many answers":            testAnswerMany,
		"answer to nobody":        testNoAnswer,
		"concurrent writers":      testConcurrent,
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tests[name](t, open(t))
		})
	}
}

func testRoundTrip(t *testing.T, s Store) {
	for _, rec := range []vector.Record{
		FullRecord("dart:20220103000001", "매출액 또는 손익구조 30% 이상 변경", Version),
		Record("x", "a", 1),
		Record("id with spaces / :doc: {braces} 'quotes' 한글", "tab\t, line\n, \u0301 alone, \u2028", Version+1),
		Record("long", string(make([]byte, 100_000)), Version), // a store does not judge texts
	} {
		if stored := put(t, s, rec); !stored {
			t.Errorf("Put %q of a new document = false, want true", rec.Document.ID)
		}
		if got := get(t, s, rec.Document.ID); !reflect.DeepEqual(got, rec) {
			t.Errorf("Get after Put:\n got %+v\nwant %+v", got, rec)
		}
	}
}

func testNotFound(t *testing.T, s Store) {
	if _, err := s.Get(t.Context(), "minilm", "nobody"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of an unknown document: %v, want ErrNotFound", err)
	}
	if deleted, err := s.Delete(t.Context(), "minilm", "nobody", 0); deleted || err != nil {
		t.Errorf("Delete of an unknown document = %v, %v, want false, nil", deleted, err)
	}
}

func testPutTwice(t *testing.T, s Store) {
	rec := FullRecord("d", "same text", Version)
	put(t, s, rec)
	once := stateOf(t, s)
	if stored := put(t, s, rec); stored {
		t.Error("second Put of a record = true, want false")
	}
	once.equal(t, stateOf(t, s))
}

// testVersions checks that the order of arrival does not decide, also for versions that differ by less
// than a float64 can hold, and for equal ones.
func testVersions(t *testing.T, s Store) {
	low, high := Record("", "older", Version), Record("", "newer", Version+1)
	a, b := Record("", "one", Version), Record("", "two", Version)
	if a.TextHash > b.TextHash {
		a, b = b, a
	}
	for name, tt := range map[string]struct{ first, second, want vector.Record }{
		"rising":        {low, high, high},
		"falling":       {high, low, high},
		"longer":        {Record("", "nine", 9), Record("", "ten", 10), Record("", "ten", 10)},
		"equal":         {a, b, b},
		"equal swapped": {b, a, b},
	} {
		id := "versions " + name
		tt.first.Document.ID, tt.second.Document.ID, tt.want.Document.ID = id, id, id
		put(t, s, tt.first)
		wrote := put(t, s, tt.second)
		if want := reflect.DeepEqual(tt.second, tt.want); wrote != want {
			t.Errorf("%s: second Put = %v, want %v", name, wrote, want)
		}
		if got := get(t, s, id); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: stored is version %d %q, want %d %q", name,
				got.Version, got.Document.Text, tt.want.Version, tt.want.Document.Text)
		}
	}
}

func testReplace(t *testing.T, s Store) {
	put(t, s, FullRecord("d", "a long text of three chunks", Version))
	newer := Record("d", "short", Version+1) // without any metadata, with fewer chunks
	put(t, s, newer)
	if got := get(t, s, "d"); !reflect.DeepEqual(got, newer) {
		t.Errorf("after a newer record:\n got %+v\nwant %+v", got, newer)
	}
}

func testNoVectors(t *testing.T, s Store) {
	rec := Record("d", "text", Version)
	rec.Chunks = nil
	if _, err := s.Put(t.Context(), rec); err == nil {
		t.Error("Put of a record without vectors succeeded")
	}
}

func testRefresh(t *testing.T, s Store) {
	rec := Record("d", "text", Version)
	if refresh(t, s, rec) {
		t.Error("Refresh of an unknown document = true, want false")
	}
	put(t, s, rec)
	before := stateOf(t, s)
	if !refresh(t, s, rec) {
		t.Error("Refresh of a stored record = false, want true")
	}
	before.equal(t, stateOf(t, s)) // nothing newer, nothing written

	if refresh(t, s, Record("d", "newer text", Version+1)) {
		t.Error("Refresh with a newer text = true, want false")
	}
	if !refresh(t, s, Record("d", "older text", Version-1)) {
		t.Error("Refresh with an older text = false, want true: it is out of date")
	}
	before.equal(t, stateOf(t, s))

	newer := FullRecord("d", "text", Version+2) // same text, newer metadata
	if !refresh(t, s, newer) {
		t.Error("Refresh with newer metadata = false, want true")
	}
	newer.Chunks = rec.Chunks
	if got := get(t, s, "d"); !reflect.DeepEqual(got, newer) {
		t.Errorf("after Refresh with newer metadata:\n got %+v\nwant %+v", got, newer)
	}
}

// testOlderTextOnItsWay: text A is stored; B was enqueued, then A again. A's second task finds its vectors
// and must still keep B, which is slow, from winning.
func testOlderTextOnItsWay(t *testing.T, s Store) {
	put(t, s, Record("d", "A", Version))
	refresh(t, s, Record("d", "A", Version+2))
	if put(t, s, Record("d", "B", Version+1)) {
		t.Error("Put of an older text = true, want false")
	}
	if got := get(t, s, "d").Document.Text; got != "A" {
		t.Errorf("stored is %q, want the newest text A", got)
	}
}

func testDelete(t *testing.T, s Store) {
	put(t, s, FullRecord("d", "some text", Version))
	if deleted, err := s.Delete(t.Context(), "minilm", "d", 0); !deleted || err != nil {
		t.Fatalf("Delete = %v, %v, want true, nil", deleted, err)
	}
	if _, err := s.Get(t.Context(), "minilm", "d"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after Delete: %v, want ErrNotFound", err)
	}
	got := stats(t, s)[SpaceA]
	if want := (store.Stats{TextsTotal: 1, TokensTotal: 10}); got != want {
		t.Errorf("stats after Delete = %+v, want %+v", got, want)
	}
	// A task that was on its way when the document was deleted does not bring it back, a later one does.
	if put(t, s, Record("d", "older", Version)) || !refresh(t, s, Record("d", "older", Version)) {
		t.Error("Put of an older version after Delete, or Refresh wants it embedded")
	}
	later := time.Now().Add(time.Minute).UnixNano()
	if refresh(t, s, Record("d", "newer", later)) || !put(t, s, Record("d", "newer", later)) {
		t.Error("Put of a newer version after Delete = false, want true")
	}
	if deleted, err := s.Delete(t.Context(), "minilm", "d", later-1); deleted || err != nil {
		t.Errorf("Delete of a version that gave way = %v, %v, want false", deleted, err)
	}
	if !put(t, s, Record("d", "newest", later+1)) {
		t.Error("a version that was deleted once is refused for ever")
	}
	if deleted, err := s.Delete(t.Context(), "minilm", "never", 5); deleted || err != nil || put(t, s, Record("never", "x", 5)) || !put(t, s, Record("never", "x", 6)) {
		t.Errorf("Delete of a document that is on its way = %v, %v: version 5 is not refused, or 6 is", deleted, err)
	}
}

func testChanges(t *testing.T, s Store) {
	if c := changes(t, s, 0, 10); len(c.Items) != 0 || c.Last != 0 {
		t.Errorf("changes of an empty store = %+v", c)
	}
	for i, id := range []string{"a", "b", "c", "d"} {
		put(t, s, Record(id, "text "+id, Version+int64(i)))
	}
	put(t, s, Record("b", "newer", Version+9)) // moves to the end
	if _, err := s.Delete(t.Context(), "minilm", "c", 0); err != nil {
		t.Fatal(err)
	}
	all := changes(t, s, 0, 10)
	var got []string
	for i, c := range all.Items {
		got = append(got, fmt.Sprintf("%s %v", c.ID, c.Record != nil))
		if i > 0 && c.Seq <= all.Items[i-1].Seq || c.Err != nil {
			t.Errorf("change %d: number %d, error %v", i, c.Seq, c.Err)
		}
	}
	if want := []string{"a true", "d true", "b true", "c false"}; !slices.Equal(got, want) {
		t.Errorf("changes = %v, want %v", got, want)
	}
	if want := all.Items[3].Seq; all.Last != want {
		t.Errorf("last number %d, want %d", all.Last, want)
	}
	page := changes(t, s, all.Items[0].Seq, 2)
	if !slices.EqualFunc(page.Items, all.Items[1:3], sameChange) {
		t.Errorf("second page:\n got %+v\nwant %+v", page.Items, all.Items[1:3])
	}
}

func sameChange(a, b store.Change) bool {
	return a.Seq == b.Seq && a.ID == b.ID && errors.Is(a.Err, b.Err) && reflect.DeepEqual(a.Record, b.Record)
}

func testClaim(t *testing.T, s Store) {
	if space, err := s.Space(t.Context(), "minilm"); space != "" || err != nil {
		t.Errorf("space of an unknown alias = %q, %v", space, err)
	}
	for range 2 {
		if err := s.ClaimSpace(t.Context(), "minilm", SpaceA, store.Keep); err != nil {
			t.Errorf("claiming: %v", err)
		}
	}
	err := s.ClaimSpace(t.Context(), "minilm", SpaceB, store.Keep)
	want := store.SpaceError{Model: "minilm", Current: SpaceA, Wanted: SpaceB}
	if got := (*store.SpaceError)(nil); !errors.As(err, &got) || *got != want {
		t.Errorf("claiming another space: %v, want %v", err, &want)
	}
	if space, _ := s.Space(t.Context(), "minilm"); space != SpaceA {
		t.Errorf("space after a refused claim = %q", space)
	}
}

func testPutClaims(t *testing.T, s Store) {
	put(t, s, Record("d", "text", Version))
	if space, err := s.Space(t.Context(), "minilm"); space != SpaceA || err != nil {
		t.Errorf("space after the first Put = %q, %v, want %q", space, err, SpaceA)
	}
}

// testReEmbed changes the model under an alias: workers of the old space are refused at once, documents of
// it stay readable, and each gives way to its successor, which has the same text and version.
func testReEmbed(t *testing.T, s Store) {
	old := Record("d", "text", Version)
	put(t, s, old)
	put(t, s, Record("untouched", "text", Version))
	if err := s.ClaimSpace(t.Context(), "minilm", SpaceB, store.ReEmbed); err != nil {
		t.Fatalf("taking over: %v", err)
	}
	if got := get(t, s, "d"); !reflect.DeepEqual(got, old) {
		t.Error("a document of the old space is not readable any more")
	}
	if _, err := s.Put(t.Context(), Record("e", "text", Version)); !isSpaceError(err) {
		t.Errorf("Put of the old space: %v, want a SpaceError", err)
	}
	if _, err := s.Refresh(t.Context(), old); !isSpaceError(err) {
		t.Errorf("Refresh of the old space: %v, want a SpaceError", err)
	}
	successor := old
	successor.Space = SpaceB
	if refresh(t, s, successor) {
		t.Error("Refresh of a document of the old space = true, want false")
	}
	if !put(t, s, successor) {
		t.Error("Put of the successor = false, want true")
	}
	if got := get(t, s, "d"); !reflect.DeepEqual(got, successor) {
		t.Errorf("stored is\n     %+v\nwant %+v", got, successor)
	}
	st := stats(t, s)
	if st[SpaceA].Documents != 1 || st[SpaceB].Documents != 1 {
		t.Errorf("documents = %d old, %d new, want 1 and 1", st[SpaceA].Documents, st[SpaceB].Documents)
	}
	for _, c := range changes(t, s, 0, 10).Items { // asked for the old space
		if want := c.ID == "untouched"; (c.Record != nil) != want {
			t.Errorf("change of %q has a record: %v, want %v", c.ID, c.Record != nil, want)
		}
	}
}

func testStats(t *testing.T, s Store) {
	put(t, s, FullRecord("a", "nine char", Version)) // 3 chunks, 3 + 3 + 4 tokens
	put(t, s, Record("b", "five5", Version))
	put(t, s, Record("b", "three", Version-1)) // too late
	put(t, s, Record("b", "sixsix", Version+1))
	want := map[vector.Space]store.Stats{SpaceA: {
		Documents: 2, Chunks: 4, Tokens: 16,
		TextsTotal: 3, TokensTotal: 21,
	}}
	if got := stats(t, s); !reflect.DeepEqual(got, want) {
		t.Errorf("stats = %+v, want %+v", got, want)
	}
	none := Record("b", "an embedder that does not count", Version+2)
	none.Chunks[0].Tokens = 0
	put(t, s, none)
	put(t, s, Record("b", "five5", Version+3))
	st := want[SpaceA]
	st.Tokens, st.TextsTotal, st.TokensTotal = 15, 5, 26
	if got := stats(t, s)[SpaceA]; got != st {
		t.Errorf("stats after a text of no tokens = %+v, want %+v", got, st)
	}
}

func testAliases(t *testing.T, s Store) {
	put(t, s, Record("d", "text", Version))
	other := Record("d", "other", Version-1)
	other.Model, other.Space = "bge-m3", SpaceB
	if !put(t, s, other) {
		t.Error("Put under another alias = false, want true")
	}
	if got := get(t, s, "d").Document.Text; got != "text" {
		t.Errorf("a document changed to %q with one of another alias", got)
	}
}

func testAnswers(t *testing.T, s Store) {
	e := vector.Embedding{Vector: vector.Vector{1, -0.5, 0}, Tokens: 7, Truncated: true}
	if err := s.Answer(t.Context(), "q1", vector.Embedding{Vector: vector.Vector{9}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Answer(t.Context(), "q1", e, nil); err != nil { // the query ran twice
		t.Fatal(err)
	}
	if got, err := s.Await(t.Context(), "q1"); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("Await = %+v, %v, want %+v", got, err, e)
	}
	go func() {
		_ = s.Answer(t.Context(), "q2", vector.Embedding{}, coded{"text is empty"}) // Await shows it
	}()
	_, err := s.Await(t.Context(), "q2")
	want := store.RefusedError{Reason: "bad_thing", Message: "text is empty"}
	if got := (*store.RefusedError)(nil); !errors.As(err, &got) || *got != want {
		t.Errorf("Await of a refusal: %v, want %v", err, &want)
	}
}

func testNoAnswer(t *testing.T, s Store) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Await(ctx, "nobody"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Await of nothing: %v, want the deadline", err)
	}
}

// testConcurrent lets writers put the versions of a few documents in any order.
func testConcurrent(t *testing.T, s Store) {
	const writers, docs, versions = 8, 3, 20
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for _, n := range rand.Perm(docs * versions) {
				id, v := fmt.Sprint("d", n%docs), int64(n/docs+1)
				if _, err := s.Put(t.Context(), Record(id, fmt.Sprint("text ", v), v)); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for i := range docs {
		id := fmt.Sprint("d", i)
		if got, want := get(t, s, id), Record(id, fmt.Sprint("text ", versions), versions); !reflect.DeepEqual(got, want) {
			t.Errorf("stored of %s is version %d, want %d", id, got.Version, versions)
		}
	}
	if got := stats(t, s)[SpaceA]; got.Documents != docs || got.Chunks != docs {
		t.Errorf("stats = %+v, want %d documents and chunks", got, docs)
	}
}

// coded is an error with a code.
type coded struct{ message string }

func (c coded) Error() string { return c.message }
func (c coded) Code() string  { return "bad_thing" }

func isSpaceError(err error) bool {
	var e *store.SpaceError
	return errors.As(err, &e)
}

func put(t *testing.T, s Store, rec vector.Record) bool {
	t.Helper()
	stored, err := s.Put(t.Context(), rec)
	if err != nil {
		t.Fatalf("Put %q: %v", rec.Document.ID, err)
	}
	return stored
}

func refresh(t *testing.T, s Store, rec vector.Record) bool {
	t.Helper()
	current, err := s.Refresh(t.Context(), rec)
	if err != nil {
		t.Fatalf("Refresh %q: %v", rec.Document.ID, err)
	}
	return current
}

func get(t *testing.T, s Store, id string) vector.Record {
	t.Helper()
	rec, err := s.Get(t.Context(), "minilm", id)
	if err != nil {
		t.Fatalf("Get %q: %v", id, err)
	}
	return rec
}

func stats(t *testing.T, s Store) map[vector.Space]store.Stats {
	t.Helper()
	st, err := s.Stats(t.Context(), "minilm")
	if err != nil {
		t.Fatalf("Stats: %v", err)
	}
	return st
}

func changes(t *testing.T, s Store, since int64, limit int) store.Changes {
	t.Helper()
	c, err := s.Changes(t.Context(), store.Cursor{Model: "minilm", Space: SpaceA, Seq: since, Limit: limit})
	if err != nil {
		t.Fatalf("Changes: %v", err)
	}
	return c
}
