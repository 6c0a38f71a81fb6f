package search

import (
	"context"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// Like returns the k documents nearest to the stored document of id that pass the filter, itself apart. Its
// vector is in the index already, so no worker is asked. The error wraps [store.ErrNotFound] if there is no such
// document in the space that the alias writes now.
func (s *Service) Like(ctx context.Context, id string, k int, filter store.Filter) (Result, error) {
	begun := time.Now()
	index, space, err := s.browse(ctx)
	if err != nil {
		return Result{}, err
	}
	place, err := index.Place(id)
	if err != nil {
		return Result{}, err
	}
	// One more than wanted, since the document is nearest to itself.
	hits, err := index.Search(ctx, store.Query{Vector: place.Vector, K: min(k+1, store.MaxK), Filter: filter})
	if err != nil {
		return Result{}, fmt.Errorf("searching what is like %q: %w", id, err)
	}
	r := Result{Space: space}
	for _, h := range hits {
		if h.Document.ID != id && len(r.Hits) < k {
			r.Hits = append(r.Hits, h)
		}
	}
	if len(r.Hits) == 0 {
		if err := index.CheckFilter(filter); err != nil {
			return r, err
		}
	}
	r.Documents, _ = index.Len()
	r.Scan = time.Since(begun)
	return r, nil
}

// A Page is a part of the documents that pass a filter.
type Page struct {
	Space     vector.Space
	Total     int // that pass
	Documents []store.Listed
}

// List returns a page of the documents in the space that the alias writes now. Errors as of [Service.Search].
func (s *Service) List(ctx context.Context, l store.Listing) (Page, error) {
	index, space, err := s.browse(ctx)
	if err != nil {
		return Page{}, err
	}
	p := Page{Space: space}
	if p.Documents, p.Total = index.List(l); p.Total == 0 {
		return p, index.CheckFilter(l.Filter)
	}
	return p, nil
}

// A Recent is the newest documents of an alias, to be drawn.
type Recent struct {
	Space     vector.Space  // of the vectors
	Last      int64         // number of the last change of the store that is in it
	Documents int           // that there are
	Places    []store.Place // newest first
}

// Recent returns the n documents published last. Two answers with equal Space and Last are equal.
func (s *Service) Recent(ctx context.Context, n int) (Recent, error) {
	index, space, err := s.browse(ctx)
	if err != nil {
		return Recent{}, err
	}
	r := Recent{Space: space, Last: index.Last(), Places: index.Newest(n)}
	r.Documents, _ = index.Len()
	return r, nil
}

// browse returns the index of the space that the alias writes now, up to date with the store.
func (s *Service) browse(ctx context.Context) (*store.Index, vector.Space, error) {
	space, err := s.docs.Space(ctx, s.model)
	if err != nil {
		return nil, "", fmt.Errorf("reading the space of %q: %w", s.model, err)
	}
	index, err := s.current(ctx, space)
	return index, space, err
}
