// Package gateway is HTTP in, queue out: it turns requests into tasks, searches and look-ups and errors into
// statuses. It has no state of its own, so that any number of gateways serve one fleet. It knows neither
// Redis nor models; both are behind its seams.
//
// Routes (JSON in and out):
//
//	POST /v1/embeddings {"model","input"}           as OpenAI's; input is a text or up to 2048 of them
//	GET  /v1/models                                 as OpenAI's: the one model
//	POST /embed {"inputs"}                          as text-embeddings-inference's
//	POST /v1/documents {"documents":[…],"lane"}     hands documents in, to be embedded and stored
//	GET  /v1/documents/{id}?vectors=true            what the store holds of one document
//	GET  /v1/search?q=TEXT&k=5&filter=field=value   filter may be repeated
//	POST /v1/search {"text","k","filter":["field=value"]}
//	GET  /v1/status                                 the lanes, the workers and the counts
//
// Errors are {"error":{"message","type","param","code"}}, as OpenAI's, and on /embed {"error","error_type"}. A
// lane without room answers 429, a fleet without room or without a worker 503, both with Retry-After. Each answer
// has the request's id, which is in the log line of a failure too.
package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	maxBody  = 2 << 20  // bytes of a request for one text, twice the largest
	maxBatch = 64 << 20 // bytes of a request for many
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

// A Receipt tells what became of one task: State is a word for people, Err says why the task is not in the
// queue, nil if it is.
type Receipt struct {
	State string
	Err   error
}

// A Queue takes tasks and returns one receipt per task, in their order. The error says that Redis failed; then
// everything may be enqueued again.
type Queue interface {
	Enqueue(ctx context.Context, list []tasks.Task) ([]Receipt, error)
}

// Answers brings the outcome of a query task. Await returns when it is there, or with ctx's error.
type Answers interface {
	Await(ctx context.Context, id string) (vector.Embedding, error)
}

// Parts are what the gateway works with. All are needed.
type Parts struct {
	Model     string // alias
	Queue     Queue
	Answers   Answers
	Search    Searcher
	Documents Documents
	Status    func(ctx context.Context) (any, error) // anything that JSON can carry
}

// New returns the handler of all routes.
func New(log *slog.Logger, p Parts) http.Handler {
	g := &gateway{log: log, Parts: p}
	mux := http.NewServeMux()
	g.handle(mux, "/v1/embeddings", methods{http.MethodPost: {f: g.embeddings, limit: maxBatch}})
	g.handle(mux, "/v1/models", methods{http.MethodGet: {f: g.models}})
	g.handle(mux, "/embed", methods{http.MethodPost: {f: g.embed, limit: maxBatch, explain: (*requestError).tei}})
	g.handle(mux, "/v1/documents", methods{http.MethodPost: {f: g.handIn, limit: maxBatch}})
	g.handle(mux, "/v1/documents/{id...}", methods{http.MethodGet: {f: g.document}})
	g.handle(mux, "/v1/search", methods{http.MethodGet: {f: g.searchByURL}, http.MethodPost: {f: g.searchByBody}})
	g.handle(mux, "/v1/status", methods{http.MethodGet: {f: func(r *http.Request) (any, error) { return g.Status(r.Context()) }}})
	mux.Handle("/", g.route(operation{f: func(r *http.Request) (any, error) {
		return nil, &requestError{status: http.StatusNotFound, code: "not_found", message: fmt.Sprintf(
			"no route %s %s; there are /v1/embeddings, /v1/models, /embed, /v1/documents, /v1/search and /v1/status", r.Method, r.URL.Path)}
	}}))
	return mux
}

type gateway struct {
	log *slog.Logger
	Parts
}

// An operation is one method of one path.
type operation struct {
	f       func(*http.Request) (any, error)
	limit   int64                   // bytes of the body, 0 for maxBody
	explain func(*requestError) any // an error's body, nil for OpenAI's
}

// methods are the operations of a path.
type methods map[string]operation

// handle serves a path, and refuses the methods that it does not have by naming those it has.
func (g *gateway) handle(mux *http.ServeMux, path string, m methods) {
	var names []string
	for name, op := range m {
		mux.Handle(name+" "+path, g.route(op))
		names = append(names, name)
	}
	slices.Sort(names)
	allowed := strings.Join(names, ", ")
	refuse := g.route(operation{f: func(r *http.Request) (any, error) {
		return nil, &requestError{status: http.StatusMethodNotAllowed, code: "method_not_allowed", message: fmt.Sprintf("%s does not take %s, but %s", r.URL.Path, r.Method, allowed)}
	}})
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allowed)
		refuse.ServeHTTP(w, r)
	})
}

// route answers a request with what the operation returns.
func (g *gateway) route(op operation) http.Handler {
	if op.limit == 0 {
		op.limit = maxBody
	}
	if op.explain == nil {
		op.explain = (*requestError).openAI
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := requestID(r)
		w.Header().Set(requestHeader, id)
		r.Body = http.MaxBytesReader(w, r.Body, op.limit)
		answer, err := op.f(r)
		status := http.StatusOK
		if err != nil {
			e := describe(err)
			if status = e.status; status >= http.StatusInternalServerError {
				g.log.WarnContext(r.Context(), "request failed", "request", id, "path", r.URL.Path, "status", status, "err", err)
			}
			e.retryAfter(w.Header())
			answer = op.explain(e)
		}
		send(w, status, answer)
	})
}

// send writes an answer; a caller that went away is nobody to tell.
func send(w http.ResponseWriter, status int, answer any) {
	body, err := json.Marshal(answer)
	if err != nil { // of a status that JSON can't carry, say a number that is none
		status, body = http.StatusInternalServerError, []byte(`{"error":{"message":"the answer can't be written","type":"server_error","param":null,"code":"internal"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// A searchRequest is the body of POST /v1/search.
type searchRequest struct {
	Text   string   `json:"text"`
	K      int      `json:"k"`
	Filter []string `json:"filter"`
}

func (g *gateway) searchByBody(r *http.Request) (any, error) {
	var q searchRequest
	if err := decodeStrictly(r, &q); err != nil {
		return nil, err
	}
	return g.search(r.Context(), q)
}

func (g *gateway) searchByURL(r *http.Request) (any, error) {
	values := r.URL.Query()
	q := searchRequest{Text: values.Get("q"), Filter: values["filter"]}
	if s := values.Get("k"); s != "" {
		k, err := strconv.Atoi(s)
		if err != nil || k < 1 {
			return nil, wrongParam("k", "bad_request", "k is %q, want a number from 1 to %d", s, store.MaxK)
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
		return nil, wrongParam("k", "bad_request", "k is %d, want a number from 1 to %d", q.K, store.MaxK)
	}
	filter, err := store.ParseFilter(q.Filter...)
	if err != nil {
		return nil, wrongParam("filter", "bad_request", "filter: %v", err)
	}
	result, err := g.Search.Search(ctx, q.Text, q.K, filter)
	if err != nil {
		return nil, err
	}
	return NewSearchAnswer(result), nil
}
