package gateway

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// lenient reads raw into v as far as it goes.
func lenient(raw jsontext.Value, v any) error {
	return jsonv2.Unmarshal(raw, v, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// The orders of hits.
const (
	byScore  = "score"
	byNewest = "newest"
	byOldest = "oldest"
)

// A searchRequest is the body of POST /v1/search, and what GET has in its parameters.
type searchRequest struct {
	model, text, sort, zone string
	k, offset               int
	filters                 []string
}

func (q *searchRequest) members() members {
	return members{
		"model": into(&q.model), "text": into(&q.text), "sort": into(&q.sort), "zone": into(&q.zone),
		"k": into(&q.k), "offset": into(&q.offset), "filter": into(&q.filters),
	}
}

// searchParams are the parameters that all searches have.
var searchParams = []string{"model", "k", "offset", "sort", "zone", "filter..."}

func (q *searchRequest) params(p *params) {
	q.model, q.zone, q.filters = p.text("model"), p.text("zone"), p.list("filter")
	q.k, q.offset = p.number("k", defaultK, 1, store.MaxK), p.number("offset", 0, 0, store.MaxK)
	q.sort = p.choice("sort", byScore, byNewest, byOldest)
}

func (g *gateway) searchByBody(r *http.Request) (job, error) {
	var q searchRequest
	if err := noParams(r); err != nil {
		return job{}, err
	}
	if err := readObject(r.Body, q.members()); err != nil {
		return job{}, err
	}
	return g.search(q)
}

func (g *gateway) searchByURL(r *http.Request) (job, error) {
	var q searchRequest
	p := readParams(r, append([]string{"q"}, searchParams...)...)
	q.text = p.text("q")
	if q.params(p); p.err != nil {
		return job{}, p.err
	}
	return g.search(q)
}

// check readies what all searches have.
func (g *gateway) check(q *searchRequest) (*Model, store.Filter, error) {
	q.k, q.sort = cmp.Or(q.k, defaultK), cmp.Or(q.sort, byScore)
	m, err := g.model(q.model)
	if err != nil {
		return nil, store.Filter{}, err
	}
	if q.k < 1 || q.offset < 0 || q.k+q.offset > store.MaxK {
		return nil, store.Filter{}, wrongParam("k", "bad_request", "k is %d and offset %d, want a number from 1 to %d, both together at most that", q.k, q.offset, store.MaxK)
	}
	if !slices.Contains([]string{byScore, byNewest, byOldest}, q.sort) {
		return nil, store.Filter{}, wrongParam("sort", "bad_request", "sort is %q, want %s, %s or %s", q.sort, byScore, byNewest, byOldest)
	}
	filter, err := store.ParseFilterIn(cmp.Or(q.zone, g.opts.Zone), q.filters...)
	return m, filter, err
}

func (g *gateway) search(q searchRequest) (job, error) {
	m, filter, err := g.check(&q)
	if err != nil {
		return job{}, err
	}
	return job{texts: 1, bytes: int64(len(q.text)), run: func(ctx context.Context) (any, error) {
		result, err := m.Search.Search(ctx, q.text, q.depth(), filter)
		return q.answer(result, err)
	}}, nil
}

// similar is GET /v1/similar/{id}: what is like a stored document.
func (g *gateway) similar(r *http.Request) (job, error) {
	var q searchRequest
	p := readParams(r, searchParams...)
	if q.params(p); p.err != nil {
		return job{}, p.err
	}
	m, filter, err := g.check(&q)
	if err != nil {
		return job{}, err
	}
	return job{run: func(ctx context.Context) (any, error) {
		result, err := m.Search.Like(ctx, r.PathValue("id"), q.depth(), filter)
		return q.answer(result, err)
	}}, nil
}

// depth is how many hits are needed: by date, the best of all are put into order.
func (q *searchRequest) depth() int {
	if q.sort != byScore {
		return store.MaxK
	}
	return q.k + q.offset
}

// answer takes the page out of what was found.
func (q *searchRequest) answer(r search.Result, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if q.sort != byScore {
		slices.SortStableFunc(r.Hits, func(a, b store.Hit) int {
			ta, tb := a.Document.PublishedAt, b.Document.PublishedAt
			switch {
			case ta.IsZero() && tb.IsZero():
				return 0
			case ta.IsZero(): // those without a time come last
				return 1
			case tb.IsZero():
				return -1
			case q.sort == byNewest:
				return tb.Compare(ta)
			default:
				return ta.Compare(tb)
			}
		})
	}
	r.Hits = r.Hits[min(q.offset, len(r.Hits)):min(q.offset+q.k, len(r.Hits))]
	return NewSearchAnswer(r), nil
}

// A listAnswer is a page of documents.
type listAnswer struct {
	Total     int      `json:"total"` // that pass the filter
	Offset    int      `json:"offset"`
	Space     string   `json:"space"`
	Documents []listed `json:"documents"`
}

type listed struct {
	ID          string            `json:"id"`
	Title       string            `json:"title,omitempty"`
	Snippet     string            `json:"snippet"`
	Source      string            `json:"source,omitempty"`
	URL         string            `json:"url,omitempty"`
	PublishedAt time.Time         `json:"published_at,omitzero"`
	StockCodes  []string          `json:"stock_codes,omitempty"`
	Fields      map[string]string `json:"fields,omitempty"`
	Chunks      int               `json:"chunks"`
}

// list is GET /v1/documents.
func (g *gateway) list(r *http.Request) (job, error) {
	p := readParams(r, "model", "limit", "offset", "sort", "zone", "filter...")
	l := store.Listing{Limit: p.number("limit", 20, 1, store.MaxK), Offset: p.number("offset", 0, 0, store.MaxOffset), Order: p.choice("sort", store.ByID, store.Newest, store.Oldest)}
	m, err := g.modelOf(p)
	if err != nil {
		return job{}, err
	}
	if l.Filter, err = store.ParseFilterIn(cmp.Or(p.text("zone"), g.opts.Zone), p.list("filter")...); err != nil {
		return job{}, err
	}
	return job{run: func(ctx context.Context) (any, error) {
		page, err := m.Search.List(ctx, l)
		if err != nil {
			return nil, err
		}
		a := listAnswer{Total: page.Total, Offset: l.Offset, Space: string(page.Space), Documents: make([]listed, 0, len(page.Documents))}
		for _, d := range page.Documents {
			doc := d.Document
			a.Documents = append(a.Documents, listed{doc.ID, doc.Title, d.Snippet, doc.Source, doc.URL, doc.PublishedAt, doc.StockCodes, doc.Fields, d.Chunks})
		}
		return a, nil
	}}, nil
}

// export is GET /v1/export: all documents that pass a filter, one a line.
func (g *gateway) export(r *http.Request) (job, error) {
	p := readParams(r, "model", "vectors", "format", "zone", "filter...")
	e := &exported{vectors: p.yes("vectors"), format: p.choice("format", "jsonl", "parquet")}
	m, err := g.modelOf(p)
	if err != nil {
		return job{}, err
	}
	if e.filter, err = store.ParseFilterIn(cmp.Or(p.text("zone"), g.opts.Zone), p.list("filter")...); err != nil {
		return job{}, err
	}
	e.from = m.Exporter
	return light(func(context.Context) (any, error) { return e, nil })
}

// exported is the answer of an export.
type exported struct {
	from    Exporter
	filter  store.Filter
	vectors bool
	format  string
}

func (e *exported) size() int64 { return 1 << 20 } // what is read ahead

func (e *exported) kind() string {
	if e.format == "parquet" {
		return "application/vnd.apache.parquet"
	}
	return "application/jsonl"
}

func (e *exported) write(ctx context.Context, w *bufio.Writer) error {
	if e.format == "parquet" {
		return writeParquet(ctx, w, e)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return e.each(ctx, func(rec vector.Record) error {
		a := NewDocumentAnswer(rec)
		if !e.vectors {
			a = a.WithoutVectors()
		}
		return enc.Encode(a)
	})
}

// each calls f with every document that is wanted.
func (e *exported) each(ctx context.Context, f func(vector.Record) error) error {
	return e.from.Export(ctx, func(rec vector.Record) error {
		if !e.filter.Match(&rec.Document) {
			return nil
		}
		return f(rec)
	})
}
