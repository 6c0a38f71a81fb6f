// Package gateway is HTTP in, queue out: it turns requests into tasks, searches and look-ups and errors into
// statuses. It has no state of its own, so that any number of gateways serve one fleet. It knows neither
// Redis nor models; both are behind its seams.
//
// Its routes are in [New], and in openapi.json with what they take and answer. Errors are
// {"error":{"message","type","param","code"}}, as OpenAI's, and on the routes of text-embeddings-inference
// {"error","error_type"}. A lane without room answers 429, a fleet without room or without a worker 503, both with
// Retry-After. Each answer has the request's id, which is in the log line of a failure too.
//
// A request is read first (body.go, params.go), which is bounded by bytes and not by places; then it is admitted (serve.go),
// does its work, and lets its place go; then the answer is written, which is bounded by bytes again (room.go). So
// neither a caller that writes slowly nor one that reads slowly keeps others out.
package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

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

// A Searcher finds documents of one model; search.Service is one.
type Searcher interface {
	// Search finds by a text, Like by a document, whose error wraps store.ErrNotFound if there is none.
	Search(ctx context.Context, text string, k int, filter store.Filter) (search.Result, error)
	Like(ctx context.Context, id string, k int, filter store.Filter) (search.Result, error)
	// List returns a page of those that pass a filter.
	List(ctx context.Context, l store.Listing) (search.Page, error)
}

// A Documents keeps the documents of one model. Its errors wrap store.ErrNotFound if there is none of an id.
type Documents interface {
	Get(ctx context.Context, id string) (vector.Record, error)
	// Delete removes a document up to a version, 0 for now, and reports whether it was there.
	Delete(ctx context.Context, id string, version int64) (bool, error)
	// Update stores what rec has beside its text, and reports false if the text is not the one that is stored any more.
	Update(ctx context.Context, rec vector.Record) (bool, error)
}

// An Exporter reads all documents of one model.
type Exporter interface {
	// Export calls each with every document, until it returns an error. Documents that change meanwhile may come twice.
	Export(ctx context.Context, each func(vector.Record) error) error
}

// A Receipt tells what became of one task: State is a word for people, Err says why the task is not in the
// queue, nil if it is. ID is the one under which the queue knows it.
type Receipt struct {
	ID    string
	State string
	Err   error
}

// A Queue takes tasks and returns one receipt per task, in their order. The error says that Redis failed; then
// everything may be enqueued again.
type Queue interface {
	Enqueue(ctx context.Context, list []tasks.Task) ([]Receipt, error)
}

// A Waiter waits for tasks of one lane. It returns when all are done or dead, or when ctx ends, with how they stand then:
// "done", "dead" or "waiting", and what killed them.
type Waiter interface {
	Wait(ctx context.Context, model string, lane tasks.Lane, ids []string) ([]TaskState, error)
}

// A TaskState is how a task stands.
type TaskState struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Error string `json:"error,omitempty"`
}

// Answers brings the outcome of a query task. Await returns when it is there, or with ctx's error.
type Answers interface {
	Await(ctx context.Context, id string) (vector.Embedding, error)
}

// RefuseIDs is a model's setting that refuses token ids.
const RefuseIDs = "refuse"

// A Model is one alias, what finds its documents, and how its texts are treated where a request does not say.
type Model struct {
	Alias      string
	Search     Searcher
	Documents  Documents
	Exporter   Exporter
	Truncate   bool   // cut texts that are longer than the model reads, instead of refusing them
	Prompt     string // as tasks.Options has it
	Dimensions []int  // shorter ones that the model was trained for
	TokenIDs   string // vocabulary of token ids, RefuseIDs, or "" for OpenAI's embeddings'
}

// Parts are what the gateway works with. All but the last three are needed.
type Parts struct {
	Models  []Model // at least one
	Queue   Queue
	Waiter  Waiter
	Answers Answers
	Status  func(ctx context.Context) (any, error) // anything that JSON can carry
	Batches Batches                                // nil: no Batch API
	Meter   Meter                                  // nil: nothing is counted
	Metrics http.Handler                           // nil: no /metrics
}

// Options are a gateway's settings; nil is for tests and for this machine only.
type Options struct {
	Tokens   []Token      // who may call; empty is everybody whom web lets through
	Hosts    []string     // names by which it may be asked without tokens, beside addresses and names without a dot
	Origins  []string     // whose pages may call and read, "*" for all
	Requests int          // worked on at a time, by default 256
	Each     int          // of one token, by default three quarters of Requests
	Zone     string       // of days in filters, by default store.DefaultZone
	Version  string       // of the program
	Ready    func() error // why it is not ready; nil: it always is
	// Unavailable reports whether an error is of what stands behind the gateway and is away: such a request is answered
	// with 503 and Retry-After. Nil: none is.
	Unavailable func(error) bool
}

type gateway struct {
	log *slog.Logger
	Parts
	opts   Options
	web    *web
	places *places
	bodies atomic.Int64 // bytes of all bodies under way
	mails  *mailroom
	large  chan struct{} // places of documents that are made ready
}

// New returns the handler of all routes. The error is of the options.
func New(log *slog.Logger, p Parts, o *Options) (http.Handler, error) {
	g := &gateway{log: log, Parts: p, mails: newMailroom(), large: make(chan struct{}, 8)}
	if o != nil {
		g.opts = *o
	}
	g.opts.Requests = cmp.Or(g.opts.Requests, 256)
	g.opts.Each = cmp.Or(g.opts.Each, max(1, g.opts.Requests*3/4))
	g.opts.Zone = cmp.Or(g.opts.Zone, store.DefaultZone)
	g.places = newPlaces(g.opts.Requests, g.opts.Each)
	var err error
	if g.web, err = newWeb(g.opts); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	g.routeEmbeddings(mux)
	g.routeDocuments(mux)
	if p.Batches != nil {
		g.routeBatches(mux)
	}
	g.routePapers(mux)
	mux.Handle("/", g.route(operation{read: func(r *http.Request) (job, error) {
		return job{}, &requestError{status: http.StatusNotFound, code: "not_found", message: fmt.Sprintf(
			"no route %s %s; there are /v1/embeddings, /v1/models, /embed, /v1/documents, /v1/search and /v1/status, and all others in /docs", r.Method, r.URL.Path)}
	}}))
	return g.front(mux), nil
}

// routeEmbeddings are the interfaces to vectors.
func (g *gateway) routeEmbeddings(mux *http.ServeMux) {
	tei := (*requestError).tei
	g.handle(mux, "/v1/embeddings", methods{http.MethodPost: {read: g.embeddings(func(m *Model) string { return m.Prompt }), limit: maxBatch}})
	g.handle(mux, "/v1/models", methods{http.MethodGet: {read: now(g.models)}})
	g.handle(mux, "/v1/models/{id}", methods{http.MethodGet: {read: g.oneModel}})
	g.handle(mux, "/v1/embed", methods{http.MethodPost: {read: g.cohere(1), limit: maxBatch}})
	g.handle(mux, "/v2/embed", methods{http.MethodPost: {read: g.cohere(2), limit: maxBatch}})
	g.handle(mux, "/embed", methods{http.MethodPost: {read: g.teiEmbed, limit: maxBatch, explain: tei}})
	g.handle(mux, "/{$}", methods{http.MethodPost: {read: g.teiEmbed, limit: maxBatch, explain: tei}})
	g.handle(mux, "/embeddings", methods{http.MethodPost: {read: g.embeddings(plain), limit: maxBatch}})
	g.handle(mux, "/info", methods{http.MethodGet: {read: g.teiInfoOf, explain: tei}})
	g.handle(mux, "/health", methods{http.MethodGet: {read: now(g.health), open: true}})
}

// routeDocuments are documents and the search among them.
func (g *gateway) routeDocuments(mux *http.ServeMux) {
	g.handle(mux, "/v1/documents", methods{http.MethodPost: {read: g.handIn, limit: maxBatch}, http.MethodGet: {read: g.list}})
	g.handle(mux, "/v1/documents/{id}", methods{http.MethodGet: {read: g.document}, http.MethodDelete: {read: g.remove}, http.MethodPatch: {read: g.update}})
	g.handle(mux, "/v1/similar/{id}", methods{http.MethodGet: {read: g.similar}})
	g.handle(mux, "/v1/export", methods{http.MethodGet: {read: g.export}})
	g.handle(mux, "/v1/tasks/{id}", methods{http.MethodGet: {read: g.task}})
	g.handle(mux, "/v1/search", methods{http.MethodGet: {read: g.searchByURL}, http.MethodPost: {read: g.searchByBody}})
	g.handle(mux, "/v1/status", methods{http.MethodGet: {read: now(g.Status)}})
	g.handle(mux, "/v1/usage", methods{http.MethodGet: {read: now(g.usage)}})
}

// withID are the routes that end in a document's id, which may have slashes: the router would take them for its own.
var withID = []string{"/v1/documents/", "/v1/similar/", "/v1/tasks/", "/v1/models/"}

// front gives each request its id, answers preflights, and keeps ids whole.
func (g *gateway) front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(requestHeader, requestID(r))
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // of the connection's last answer
		if g.web.cors(w, r) {
			return
		}
		path := r.URL.EscapedPath()
		for _, prefix := range withID {
			rest, ok := strings.CutPrefix(path, prefix)
			if !ok || rest == "" {
				continue
			}
			if id, err := url.PathUnescape(rest); err == nil {
				r.URL.Path, r.URL.RawPath = prefix+id, prefix+strings.ReplaceAll(url.PathEscape(id), ".", "%2E")
			}
		}
		next.ServeHTTP(w, r)
	})
}

// NewServer returns a server for h that no caller keeps busy for long: what a request's body and answer may take, h says.
func NewServer(log *slog.Logger, h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
