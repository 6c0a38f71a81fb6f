package store

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/embedfleet/embedfleet/vector"
)

// A Place is a document with the one vector that stands for all of it. Both are the index's own: they are shared,
// not copied, so they are to be read and not to be changed.
type Place struct {
	Document vector.Document // without its text
	Snippet  string          // the beginning of its text
	Vector   vector.Vector   // of unit length: the direction of the mean of its chunks
}

// Place returns where the document of id lies. The error wraps [ErrNotFound] if the index has none.
func (x *Index) Place(id string) (Place, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	i, ok := x.places[id]
	if !ok {
		return Place{}, fmt.Errorf("looking up %q among %d documents: %w", id, len(x.entries), ErrNotFound)
	}
	return x.entries[i].place(x.dim), nil
}

// Newest returns the n documents published last, newest first, those without a time of publication behind all
// others. It copies no vector of a document of one chunk, and stops searches and Sync for no longer than it takes
// to copy a pointer per document.
func (x *Index) Newest(n int) []Place {
	x.mu.RLock()
	entries, dim := slices.Clone(x.entries), x.dim
	x.mu.RUnlock()
	slices.SortFunc(entries, func(a, b *entry) int {
		return cmp.Or(b.doc.PublishedAt.Compare(a.doc.PublishedAt), cmp.Compare(b.doc.ID, a.doc.ID))
	})
	places := make([]Place, min(n, len(entries)))
	for i := range places {
		places[i] = entries[i].place(dim)
	}
	return places
}

// Last returns the number of the last change that was entered; two equal ones mean the same documents.
func (x *Index) Last() int64 { return x.place() }

// place returns the entry's place in an index of dim dimensions.
func (e *entry) place(dim int) Place {
	p := Place{Document: e.doc, Snippet: e.snippets[0], Vector: e.vectors[:dim]}
	if len(e.start) == 1 {
		return p
	}
	mean := make(vector.Vector, dim)
	for i, v := range e.vectors {
		mean[i%dim] += v
	}
	length := float32(mean.Norm())
	if length == 0 {
		return p // chunks that cancel each other out: the first is as good as any
	}
	for i := range mean {
		mean[i] /= length
	}
	p.Vector = mean
	return p
}
