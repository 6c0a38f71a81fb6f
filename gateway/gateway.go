// Package gateway is HTTP in, queue out: it turns requests into searches and look-ups and errors into
// statuses. It has no state of its own, so that any number of gateways serve one fleet.
//
// Routes (JSON in and out, errors as {"error":{"code","message"}}):
//
//	GET  /v1/search?q=TEXT&k=5&filter=field=value   filter may be repeated
//	POST /v1/search {"text","k","filter":["field=value"]}
//	GET  /v1/documents/{id}?vectors=true            what the store holds of one document
//	GET  /v1/status                                 the lanes, the workers and the counts
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	maxBody  = 2 << 20 // bytes of a request, twice the largest text
	defaultK = 5
)

// A Searcher finds documents by a text; search.Service is one.
type Searcher interface {
	Search(ctx context.Context, text string, k int, filter store.Filter) (search.Result, error)
}

// A Documents looks up one document. Its error wraps store.ErrNotFound if there is none.
type Documents interface {
	Get(ctx context.Context, id string) (vector.Record, error)
}

// Parts are what the gateway works with. All are needed.
type Parts struct {
	Search    Searcher
	Documents Documents
	Status    func(ctx context.Context) (any, error) // anything that JSON can carry
}

// New returns the handler of all routes.
func New(log *slog.Logger, p Parts) http.Handler {
	g := &gateway{log: log, Parts: p}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/search", g.route(g.searchByURL))
	mux.Handle("POST /v1/search", g.route(g.searchByBody))
	mux.Handle("GET /v1/documents/{id...}", g.route(g.document))
	mux.Handle("GET /v1/status", g.route(func(r *http.Request) (any, error) { return g.Status(r.Context()) }))
	mux.Handle("/", g.route(func(r *http.Request) (any, error) {
		return nil, &requestError{http.StatusNotFound, "not_found", fmt.Sprintf("no route %s %s; there are /v1/search, /v1/documents/ID and /v1/status", r.Method, r.URL.Path)}
	}))
	return mux
}

type gateway struct {
	log *slog.Logger
	Parts
}

// A requestError is an error with a status and a code of its own.
type requestError struct {
	status  int
	code    string
	message string
}

func (e *requestError) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &requestError{http.StatusBadRequest, "bad_request", fmt.Sprintf(format, args...)}
}

// route answers a request with what f returns.
func (g *gateway) route(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := f(r)
		status := http.StatusOK
		if err != nil {
			e := describe(err)
			if status = e.status; status >= http.StatusInternalServerError {
				g.log.WarnContext(r.Context(), "request failed", "path", r.URL.Path, "status", status, "err", err)
			}
			answer = map[string]any{"error": map[string]string{"code": e.code, "message": e.message}}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			g.log.DebugContext(r.Context(), "answer was not sent", "err", err)
		}
	})
}

// describe is the one table from error to status.
func describe(err error) *requestError {
	var (
		own        *requestError
		tooLarge   *http.MaxBytesError
		permanent  interface{ Permanent() bool }
		overloaded interface{ Overloaded() bool }
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &tooLarge):
		return &requestError{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the request is larger than %d bytes", tooLarge.Limit)}
	case errors.Is(err, store.ErrNotFound):
		return &requestError{http.StatusNotFound, "not_found", err.Error()}
	case errors.Is(err, search.ErrNoAnswer):
		return &requestError{http.StatusServiceUnavailable, "no_worker", err.Error()}
	case errors.As(err, &overloaded) && overloaded.Overloaded():
		return &requestError{http.StatusServiceUnavailable, "overloaded", err.Error()}
	case errors.As(err, &permanent) && permanent.Permanent():
		return &requestError{http.StatusUnprocessableEntity, "invalid", err.Error()}
	case errors.Is(err, context.Canceled):
		return &requestError{499, "cancelled", "the caller went away"} // nginx's number; nobody reads it
	default:
		return &requestError{http.StatusInternalServerError, "internal", "the request failed; the server's log says why"}
	}
}

// A searchRequest is the body of POST /v1/search.
type searchRequest struct {
	Text   string   `json:"text"`
	K      int      `json:"k"`
	Filter []string `json:"filter"`
}

func (g *gateway) searchByBody(r *http.Request) (any, error) {
	var q searchRequest
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, err
		}
		return nil, badRequest("reading the body: %v", err)
	}
	return g.search(r.Context(), q)
}

func (g *gateway) searchByURL(r *http.Request) (any, error) {
	values := r.URL.Query()
	q := searchRequest{Text: values.Get("q"), Filter: values["filter"]}
	if s := values.Get("k"); s != "" {
		k, err := strconv.Atoi(s)
		if err != nil || k < 1 {
			return nil, badRequest("k is %q, want a number from 1 to %d", s, store.MaxK)
		}
		q.K = k
	}
	return g.search(r.Context(), q)
}

func (g *gateway) search(ctx context.Context, q searchRequest) (any, error) {
	if q.K == 0 {
		q.K = defaultK
	}
	if q.K < 1 || q.K > store.MaxK {
		return nil, badRequest("k is %d, want a number from 1 to %d", q.K, store.MaxK)
	}
	filter, err := store.ParseFilter(q.Filter...)
	if err != nil {
		return nil, badRequest("filter: %v", err)
	}
	result, err := g.Search.Search(ctx, q.Text, q.K, filter)
	if err != nil {
		return nil, err
	}
	return NewSearchAnswer(result), nil
}

func (g *gateway) document(r *http.Request) (any, error) {
	rec, err := g.Documents.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	answer := NewDocumentAnswer(rec)
	if r.URL.Query().Get("vectors") != "true" {
		answer = answer.WithoutVectors()
	}
	return answer, nil
}
