package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

func testPutMany(t *testing.T, s Store) {
	if stored, errs := s.PutMany(t.Context(), nil); len(stored) != 0 || len(errs) != 0 {
		t.Errorf("PutMany of nothing = %v, %v", stored, errs)
	}
	put(t, s, Record("c", "text", Version))
	stranger, empty := Record("d", "text", Version), Record("e", "text", Version)
	stranger.Space, empty.Chunks = SpaceB, nil
	recs := []vector.Record{
		Record("a", "text", Version),
		FullRecord("b", "a long text", Version),
		Record("c", "older", Version-1),
		stranger,
		empty,
		Record("a", "newer text", Version+1), // a document may be there twice
	}
	for i := range 300 { // more than a script takes
		recs = append(recs, Record(fmt.Sprint("doc ", i), "text", Version))
	}
	stored, errs := s.PutMany(t.Context(), recs)
	if len(stored) != len(recs) || len(errs) != len(recs) {
		t.Fatalf("%d answers and %d errors for %d records", len(stored), len(errs), len(recs))
	}
	for i, rec := range recs {
		want := i != 2 && i != 3 && i != 4
		if stored[i] != want || (errs[i] != nil) != (i == 3 || i == 4) {
			t.Errorf("record %d (%s): %v, %v", i, rec.Document.ID, stored[i], errs[i])
		}
		if want && i > 0 {
			if got := get(t, s, rec.Document.ID); !reflect.DeepEqual(got, rec) {
				t.Errorf("record %d came back as %+v", i, got)
			}
		}
	}
	if !isSpaceError(errs[3]) {
		t.Errorf("another space: %v, want a SpaceError", errs[3])
	}
	if n := stats(t, s)[SpaceA].Documents; n != 303 {
		t.Errorf("%d documents, want 303", n)
	}
}

func testRefreshMany(t *testing.T, s Store) {
	if current, err := s.RefreshMany(t.Context(), nil); err != nil || len(current) != 0 {
		t.Errorf("RefreshMany of nothing = %v, %v", current, err)
	}
	put(t, s, Record("a", "text", Version))
	put(t, s, Record("c", "text", Version))
	for range 2 { // the second time the server knows the script
		current, err := s.RefreshMany(t.Context(), []vector.Record{
			Record("a", "text", Version),
			Record("b", "text", Version),
			Record("c", "text", Version+1),
			Record("c", "other", Version+2),
		})
		if want := []bool{true, false, true, false}; err != nil || !slices.Equal(current, want) {
			t.Errorf("RefreshMany = %v, %v, want %v", current, err, want)
		}
	}
	stranger := Record("a", "text", Version)
	stranger.Space = SpaceB
	if _, err := s.RefreshMany(t.Context(), []vector.Record{stranger}); !isSpaceError(err) {
		t.Errorf("RefreshMany of another space: %v, want a SpaceError", err)
	}
}

func testAnswerMany(t *testing.T, s Store) {
	if errs := s.AnswerMany(t.Context(), nil); len(errs) != 0 {
		t.Errorf("AnswerMany of nothing = %v", errs)
	}
	var list []vector.Answer
	for i := range 100 {
		a := vector.Answer{ID: fmt.Sprint("q", i), Embedding: vector.Embedding{Vector: vector.Vector{float32(i)}, Tokens: i, Space: SpaceA}}
		if i%10 == 3 {
			a.Failure = coded{fmt.Sprint("refused ", i)}
		}
		list = append(list, a)
	}
	for range 2 { // the queries ran twice
		if errs := s.AnswerMany(t.Context(), list); len(errs) != len(list) || errors.Join(errs...) != nil {
			t.Fatalf("AnswerMany = %v", errs)
		}
	}
	for i, a := range list {
		got, err := s.Await(t.Context(), a.ID)
		refused := (*store.RefusedError)(nil)
		switch {
		case a.Failure == nil && (err != nil || !reflect.DeepEqual(got, a.Embedding)):
			t.Errorf("answer %d = %+v, %v, want %+v", i, got, err, a.Embedding)
		case a.Failure != nil && (!errors.As(err, &refused) || refused.Message != a.Failure.Error() || refused.Reason != "bad_thing"):
			t.Errorf("answer %d = %+v, %v, want the refusal %q", i, got, err, a.Failure)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for i, err := range s.AnswerMany(over, list[:2]) {
		if err == nil {
			t.Errorf("answer %d was left under a context that has ended", i)
		}
	}
}
