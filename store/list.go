package store

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/embedfleet/embedfleet/vector"
)

// The orders of a list.
const (
	ByID      = "id"
	Newest    = "newest" // published last first, those without a time of publication behind all others
	Oldest    = "oldest" // published first first, those without a time of publication behind all others
	MaxOffset = 1 << 30
)

// A Listing asks for a page of the documents that pass a filter.
type Listing struct {
	Filter Filter
	Order  string // one of the orders above
	Offset int
	Limit  int
}

// A Listed is one document of a page.
type Listed struct {
	Document vector.Document // without its text
	Snippet  string          // the beginning of its text
	Chunks   int
}

// List returns a page of the documents that pass l's filter, and how many do.
func (x *Index) List(l Listing) (page []Listed, total int) {
	x.mu.RLock()
	entries := slices.Clone(x.entries)
	x.mu.RUnlock()
	entries = slices.DeleteFunc(entries, func(e *entry) bool { return !l.Filter.Match(&e.doc) })
	slices.SortFunc(entries, l.compare)
	total = len(entries)
	for _, e := range entries[min(l.Offset, total):min(l.Offset+l.Limit, total)] {
		page = append(page, Listed{e.doc, e.snippets[0], len(e.start)})
	}
	return page, total
}

func (l Listing) compare(a, b *entry) int {
	ta, tb := a.doc.PublishedAt, b.doc.PublishedAt
	order := 0
	if l.Order != ByID {
		if ta.IsZero() != tb.IsZero() {
			order = 1
			if tb.IsZero() {
				order = -1
			}
		} else if order = ta.Compare(tb); l.Order == Newest {
			order = -order
		}
	}
	return cmp.Or(order, cmp.Compare(a.doc.ID, b.doc.ID))
}

// CheckFilter returns a [*FilterError] if f asks for a field that no document has: then nobody will ever learn from an empty
// answer that its name was misspelt. An empty index has nothing to say.
func (x *Index) CheckFilter(f Filter) error {
	names := f.Fields()
	if len(names) == 0 {
		return nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.entries) == 0 {
		return nil
	}
	known := map[string]bool{}
	for _, e := range x.entries {
		for name := range e.doc.Fields {
			known[name] = true
		}
	}
	for _, name := range names {
		if !known[name] {
			there := slices.Sorted(maps.Keys(known))
			return &FilterError{"", fmt.Sprintf("no document has a field %q; there are id, source, stock_code, title, url, published_at and %s",
				name, strings.Join(there[:min(len(there), 30)], ", "))}
		}
	}
	return nil
}
