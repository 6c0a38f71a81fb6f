package search_test

import (
	"errors"
	"testing"

	"github.com/embedfleet/embedfleet/store"
)

func TestLikeNeedsNoWorker(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "alpha one", "alpha two", "beta one")
	f.silent = true
	s := f.service(t, nil)
	r, err := s.Like(t.Context(), "alpha one", 2, store.Filter{})
	if err != nil || len(r.Hits) != 2 || r.Hits[0].Document.ID == "alpha one" || r.Hits[1].Document.ID == "alpha one" {
		t.Errorf("like alpha one: %s, %v", ids(r), err)
	}
	if r.Documents != 3 || r.Space != "s1" {
		t.Errorf("%d documents of %s", r.Documents, r.Space)
	}
	filter, err := store.ParseFilter("source=b")
	if err != nil {
		t.Fatal(err)
	}
	if r, err = s.Like(t.Context(), "alpha one", 2, filter); err != nil || ids(r) != "beta one " {
		t.Errorf("like alpha one of source b: %s, %v", ids(r), err)
	}
	if r, err = s.Like(t.Context(), "alpha one", store.MaxK, store.Filter{}); err != nil || len(r.Hits) != 2 {
		t.Errorf("as many as there may be: %s, %v", ids(r), err)
	}
	if _, err := s.Like(t.Context(), "gamma", 2, store.Filter{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("like nothing: %v", err)
	}
}

func TestRecent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "alpha", "beta", "gamma")
	s := f.service(t, nil)
	first, err := s.Recent(t.Context(), 2)
	if err != nil || len(first.Places) != 2 || first.Documents != 3 || first.Space != "s1" {
		t.Errorf("%v, %v", first, err)
	}
	again, err := s.Recent(t.Context(), 2)
	if err != nil || again.Last != first.Last {
		t.Errorf("nothing changed, but the number: %d, then %d, %v", first.Last, again.Last, err)
	}
	f.put(t, "s1", "delta")
	if again, err = s.Recent(t.Context(), 9); err != nil || again.Last == first.Last || len(again.Places) != 4 {
		t.Errorf("after a new document: %v, %v", again, err)
	}
	f.broken = errors.New("the fault")
	if _, err := f.service(t, nil).Recent(t.Context(), 9); !errors.Is(err, f.broken) {
		t.Errorf("a store that is away: %v", err)
	}
}
