package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// searcher answers with what it was asked, or with a failure named by the text.
type searcher map[string]error

func (s searcher) Like(_ context.Context, id string, k int, filter store.Filter) (search.Result, error) {
	return s.Search(context.Background(), id, k, filter)
}

func (s searcher) List(_ context.Context, l store.Listing) (search.Page, error) {
	doc := vector.Document{ID: fmt.Sprint(l.Order, l.Offset, "+", l.Limit), Source: "news"}
	if !l.Filter.Match(&doc) {
		return search.Page{Space: "s"}, nil
	}
	return search.Page{Space: "s", Total: 1, Documents: []store.Listed{{Document: doc, Snippet: "sn", Chunks: 2}}}, nil
}

func (s searcher) Search(_ context.Context, text string, k int, filter store.Filter) (search.Result, error) {
	if err := s[text]; err != nil {
		return search.Result{}, err
	}
	doc := vector.Document{ID: "a", Title: text, Source: "news"}
	if !filter.Match(&doc) {
		return search.Result{Space: "s"}, nil
	}
	return search.Result{Hits: []store.Hit{{Document: doc, Score: 0.5, Chunk: k}}, Space: "s", Documents: 9}, nil
}

type documents map[string]vector.Record

func (d documents) Get(_ context.Context, id string) (vector.Record, error) {
	rec, ok := d[id]
	if !ok {
		return rec, fmt.Errorf("looking up %q: %w", id, store.ErrNotFound)
	}
	return rec, nil
}

func (d documents) Delete(_ context.Context, id string, _ int64) (bool, error) {
	_, ok := d[id]
	return ok, nil
}

func (d documents) Update(_ context.Context, rec vector.Record) (bool, error) {
	return rec.Document.Title != "raced", nil
}

func (d documents) Export(_ context.Context, each func(vector.Record) error) error {
	for _, id := range slices.Sorted(maps.Keys(d)) {
		if err := each(d[id]); err != nil {
			return err
		}
	}
	return nil
}

// full is what a queue without room says.
type full struct{ after time.Duration }

func (f full) Error() string             { return "lane query of m has no room" }
func (f full) Overloaded() bool          { return true }
func (f full) RetryAfter() time.Duration { return f.after }

// overloaded has no idea when there will be room.
type overloaded struct{}

func (overloaded) Error() string    { return "too much at once" }
func (overloaded) Overloaded() bool { return true }

// A fleet embeds what it is handed: a vector that begins with the text's length. Texts that name a failure fail.
type fleet struct {
	mu      sync.Mutex
	answers map[string]string // task id -> text
	taken   []tasks.Task
}

func (f *fleet) Enqueue(_ context.Context, list []tasks.Task) ([]gateway.Receipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]gateway.Receipt, len(list))
	for i, t := range list {
		f.taken = append(f.taken, t)
		text := string(t.Payload)
		if t.Kind == tasks.EmbedQuery {
			q, err := tasks.DecodeQuery(t.Payload)
			if err != nil {
				return nil, err
			}
			text = q.Text
			if q.Prompt == tasks.AsDocument {
				text = "passage: " + text
			}
			if q.Prompt == "" && strings.HasPrefix(text, "prompted") {
				text = "query: " + text
			}
		}
		f.answers[t.ID] = text
		out[i].ID = t.ID
		switch {
		case strings.Contains(text, "redis is away"):
			return nil, errors.New("dial tcp 10.0.0.1: hunter2")
		case strings.Contains(text, "no room"):
			out[i] = gateway.Receipt{ID: t.ID, State: "full", Err: full{7500 * time.Millisecond}}
		case strings.Contains(text, "crowd"):
			out[i] = gateway.Receipt{ID: t.ID, State: "full", Err: overloaded{}}
		default:
			out[i] = gateway.Receipt{ID: t.ID, State: "enqueued"}
		}
	}
	return out, nil
}

func (f *fleet) Await(_ context.Context, id string) (vector.Embedding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := f.answers[id]
	switch text {
	case "nobody":
		return vector.Embedding{}, context.DeadlineExceeded
	case "poison":
		return vector.Embedding{}, &store.RefusedError{Reason: "invalid", Message: "it is poison"}
	}
	e := vector.Embedding{Vector: vector.Vector{float32(len(text)), 0.5}, Tokens: 3, Truncated: text == "long", Space: "s"}
	if e.Truncated {
		e.TokensIn = 5
	}
	if text == "other space" {
		e.Space = "t"
	}
	return e, nil
}

// Wait says that tasks of the live lane are done, and of backfill wait.
func (f *fleet) Wait(_ context.Context, _ string, lane tasks.Lane, ids []string) ([]gateway.TaskState, error) {
	states := make([]gateway.TaskState, len(ids))
	for i, id := range ids {
		states[i] = gateway.TaskState{ID: id, State: "done"}
		if lane == tasks.Backfill {
			states[i].State = "waiting"
		}
	}
	return states, nil
}

func handler() http.Handler { return with(nil) }

// with returns a gateway of models m and, if named, n.
func with(o *gateway.Options, more ...string) http.Handler {
	f := &fleet{answers: map[string]string{}}
	invalid := &tasks.InvalidError{Field: "text", Reason: tasks.Empty, Detail: "is empty"}
	docs := documents{
		"dart:1/2": {
			Document: vector.Document{ID: "dart:1/2", Text: "t", PublishedAt: time.Unix(0, 0).UTC()},
			Chunks:   []vector.Chunk{{End: 1, Embedding: vector.Embedding{Vector: vector.Vector{1}, Tokens: 3}}},
		},
		"https://example.com//a?b=c": {Document: vector.Document{ID: "https://example.com//a?b=c", Text: "u", Source: "news"}, Chunks: []vector.Chunk{{End: 1}}},
	}
	s := searcher{
		"":         fmt.Errorf("checking the search text: %w", invalid),
		"nobody":   fmt.Errorf("embedding: %w", search.ErrNoAnswer),
		"broken":   errors.New("redis at 10.0.0.1 with password hunter2"),
		"gone":     context.Canceled,
		"misspelt": &store.FilterError{Detail: "no document has a field"},
	}
	p := gateway.Parts{
		Models: []gateway.Model{{Alias: "m", Search: s, Documents: docs, Exporter: docs, Dimensions: []int{1}}},
		Queue:  f, Answers: f, Waiter: f,
		Status: func(context.Context) (any, error) { return map[string]int{"pending": 1}, nil },
	}
	for _, alias := range more {
		p.Models = append(p.Models, gateway.Model{Alias: alias, Search: s, Documents: docs, Exporter: docs, Truncate: true, Prompt: tasks.AsDocument, TokenIDs: gateway.RefuseIDs})
	}
	h, err := gateway.New(slog.New(slog.DiscardHandler), p, o)
	if err != nil {
		panic(err)
	}
	return h
}

// units writes the vectors [n,0.5] of the fake fleet as answers have them: of length 1.
func units(want string) string {
	return regexp.MustCompile(`\[(\d+),0\.5\]`).ReplaceAllStringFunc(want, func(s string) string {
		var v [2]float32
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			panic(err)
		}
		norm := math.Sqrt(float64(v[0])*float64(v[0]) + float64(v[1])*float64(v[1]))
		b, err := json.Marshal([2]float32{float32(float64(v[0]) / norm), float32(float64(v[1]) / norm)})
		if err != nil {
			panic(err)
		}
		return string(b)
	})
}

// ask asks h as a program of this machine does.
func ask(t *testing.T, h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8090"
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		request, body string
		status        int
		want          string // in the answer
	}{
		{"GET /v1/search?q=rates", "", 200, `"id":"a","score":0.5,"title":"rates","snippet":"","source":"news","chunk":5,`},
		{"GET /v1/search?q=rates&k=7&filter=source=news", "", 200, `"chunk":7`},
		{"GET /v1/search?q=rates&filter=source=dart", "", 200, `"hits":[]`},
		{"POST /v1/search", `{"text":"rates","k":2,"filter":["source=news"]}`, 200, `"chunk":2`},
		{"POST /v1/search", `{"txet":"rates"}`, 400, `"param":"txet","code":"unknown_field"`},
		{"POST /v1/search", `{`, 400, "reading the body"},
		{"POST /v1/search", `{"text":"` + strings.Repeat("x", 3<<20) + `"}`, 413, "too_large"},
		{"POST /v1/search", `{"text":"rates","k":1001}`, 400, "1 to 1000"},
		{"GET /v1/search?q=rates&k=many", "", 400, `k is \"many\"`},
		{"GET /v1/search?q=rates&filter=source", "", 400, "filter"},
		{"GET /v1/search", "", 400, "text: is empty"},
		{"GET /v1/search?q=nobody", "", 503, "no_worker"},
		{"GET /v1/search?q=broken", "", 500, "log says why"},
		{"GET /v1/search?q=gone", "", 499, "went away"},
		{"GET /v1/documents/dart:1/2", "", 200, `"dim":1}`},
		{"GET /v1/documents/dart:1/2?vectors=true", "", 200, `"vector":[1]`},
		{"GET /v1/documents/other", "", 404, "not found"},
		{"GET /v1/status", "", 200, `{"pending":1}`},
		{"GET /v2", "", 404, "/v1/search"},
		{"DELETE /v1/search", "", 405, "GET, POST"},
		{"PUT /v1/embeddings", "", 405, `"code":"method_not_allowed"`},
		{"POST /v1/search", `{"text":"rates"} {"text":"more"}`, 400, "something behind"},
		{"POST /v1/search", `{"text":"rates"}x`, 400, "reading the body"},
		{"POST /v1/search", `{"text":"rates"}` + "\n\n ", 200, `"id":"a"`},
		{"GET /v1/models", "", 200, `{"id":"m","object":"model","created":0,"owned_by":"embedfleet"}`},

		{"POST /v1/embeddings", `{"model":"m","input":"four"}`, 200, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[4,0.5]}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}`},
		{"POST /v1/embeddings", `{"model":"m","input":["a","bc"],"encoding_format":"float","user":"u"}`, 200, `{"object":"embedding","index":1,"embedding":[2,0.5]}],"model":"m","usage":{"prompt_tokens":6`},
		{"POST /v1/embeddings", `{"model":"m","input":"four","encoding_format":"base64"}`, 200, `"embedding":"7AV+P+wF/j0="`},
		{"POST /v1/embeddings", `{"model":"m","input":"four","dimensions":2}`, 200, `[4,0.5]`},
		{"POST /v1/embeddings", `{"model":"m","input":"four","dimensions":3}`, 400, `"param":"dimensions","code":"dimensions_not_supported"`},
		{"POST /v1/embeddings", `{"model":"m","input":"four","dimensions":0}`, 400, `"param":"dimensions"`},
		{"POST /v1/embeddings", `{"model":"m","input":"four","encoding_format":"int8"}`, 400, `"param":"encoding_format"`},
		{"POST /v1/embeddings", `{"model":"m","input":[9906, 1917]}`, 200, `"embedding":[11,0.5]`},
		{"POST /v1/embeddings", `{"model":"m","input":[[9906],[9906,1917]]}`, 200, `"index":1,"embedding":[11,0.5]`},
		{"POST /v1/embeddings", `{"model":"m","input":["a",null]}`, 400, `input[1] is null`},
		{"POST /v1/embeddings", `{"model":"m","input":{"a":1}}`, 400, `"param":"input"`},
		{"POST /v1/embeddings", `{"model":"m","input":[]}`, 400, "1 to 2048"},
		{"POST /v1/embeddings", `{"model":"m"}`, 400, "1 to 2048"},
		{"POST /v1/embeddings", `{"model":"m","input":["` + strings.Repeat(`a","`, 2048) + `a"]}`, 400, "more than 2048 texts"},
		{"POST /v1/embeddings", `{"model":"m","input":""}`, 400, "input[0]: text: has no character"},
		{"POST /v1/embeddings", `{"model":"gpt","input":"a"}`, 404, `"param":"model","code":"model_not_found"`},
		{"POST /v1/embeddings", `{"model":"m","input":["a","long"]}`, 400, `"code":"context_length_exceeded"`},
		{"POST /v1/embeddings", `{"model":"m","input":"poison"}`, 422, "it is poison"},
		{"POST /v1/embeddings", `{"model":"m","input":"nobody"}`, 503, `"type":"server_error","param":null,"code":"no_worker"`},
		{"POST /v1/embeddings", `{"model":"m","input":"no room"}`, 429, `"type":"rate_limit_error","param":null,"code":"no_room"`},
		{"POST /v1/embeddings", `{"model":"m","input":"crowd"}`, 503, `"code":"overloaded"`},
		{"POST /v1/embeddings", `{"model":"m","input":["a","other space"]}`, 503, `"code":"model_changes"`},
		{"POST /v1/embeddings", `{"model":"m","input":"redis is away"}`, 500, "log says why"},
		{"POST /v1/embeddings", `{"model":"m","input":"a"}]`, 400, "reading the body"},

		{"POST /embed", `{"inputs":"four"}`, 200, `[[4,0.5]]`},
		{"POST /embed", `{"inputs":["a","bc"],"normalize":true}`, 200, `[[1,0.5],[2,0.5]]`},
		{"POST /embed", `{"inputs":"long","truncate":true}`, 200, `[[4,0.5]]`},
		{"POST /embed", `{"inputs":"long"}`, 422, `"error_type":"Validation"`},
		{"POST /embed", `{"inputs":"four","normalize":false}`, 200, `[[4,0.5]]` + "\n"},
		{"POST /embed", `{"inputs":"no room"}`, 429, `"error_type":"Overloaded"`},
		{"POST /embed", `{"inputs":"redis is away"}`, 500, `"error_type":"Backend"`},

		{"POST /v1/documents", `{"documents":[{"id":"d1","text":"t"},{"id":"d2","text":""}]}`, 200, `"accepted":1,"refused":1,"receipts":[{"index":0,"id":"d1","task":"`},
		{"POST /v1/documents", `{"documents":[{"id":"d1","text":""}]}`, 400, "documents[0]: text: has no character"},
		{"POST /v1/documents", `{"documents":[{"id":"d1","text":"no room"}],"lane":"backfill"}`, 429, "no_room"},
		{"POST /v1/documents", `{"documents":[{"id":"d1","text":"a"}],"lane":"query"}`, 400, `"param":"lane"`},
		{"POST /v1/documents", `{"documents":[]}`, 400, "want 1 to"},
		{"POST /v1/documents", `{"documents":[{"id":"d1","txt":"a"}]}`, 400, "documents[0].txt is no field"},
	} {
		t.Run(tt.request, func(t *testing.T) {
			t.Parallel()
			method, target, _ := strings.Cut(tt.request, " ")
			if !strings.Contains(tt.body, `"normalize":false`) {
				tt.want = units(tt.want)
			}
			w := ask(t, handler(), method, target, tt.body)
			body, err := io.ReadAll(w.Result().Body)
			if err != nil || w.Code != tt.status || !strings.Contains(string(body), tt.want) || !json.Valid(body) {
				t.Errorf("%d %s %v, want %d with %s", w.Code, body, err, tt.status, tt.want)
			}
			if (w.Code == 429 || w.Code == 503) != (w.Header().Get("Retry-After") != "") {
				t.Errorf("%d with Retry-After %q", w.Code, w.Header().Get("Retry-After"))
			}
			if strings.Contains(string(body), "hunter2") {
				t.Error("the answer tells what only the log may")
			}
		})
	}
}

// TestRetryAfterIsTheDrainRates: whole seconds, rounded up.
func TestRetryAfterIsTheDrainRates(t *testing.T) {
	t.Parallel()
	w := ask(t, handler(), http.MethodPost, "/v1/embeddings", `{"model":"m","input":"no room"}`)
	if got := w.Header().Get("Retry-After"); got != "8" {
		t.Errorf("Retry-After is %q, want 8 for 7.5 s", got)
	}
	w = ask(t, handler(), http.MethodPut, "/v1/documents/a", "")
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "DELETE, GET, PATCH" {
		t.Errorf("PUT answers %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	list, err := gateway.ReadTokens(strings.NewReader("# people\n\n0123456789abcdef\n another-token-of-mine \n"))
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	for _, bad := range []string{"", "# nobody\n", "short", "0123456789 abcdef"} {
		if _, err := gateway.ReadTokens(strings.NewReader(bad)); err == nil || bad == "short" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	h := with(&gateway.Options{Tokens: list})
	for header, want := range map[string]int{
		"": 401, "Bearer": 401, "Bearer ": 401, "Bearer 0123456789abcdeX": 401, "Basic 0123456789abcdef": 401,
		"Bearer 0123456789abcdef": 200, "bearer another-token-of-mine": 200,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/status", http.NoBody)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || want == 401 && (w.Header().Get("WWW-Authenticate") == "" || !strings.Contains(w.Body.String(), `"authentication_error"`)) {
			t.Errorf("%q: %d %s", header, w.Code, w.Body)
		}
	}
}

// FuzzEmbeddings: any body gets an answer in JSON, and no panic.
func FuzzEmbeddings(f *testing.F) {
	for _, body := range []string{`{"model":"m","input":"a"}`, `{"model":"m","input":[[1]]}`, `{"input":[""]}`, `[]`, `{"model":"m","input":["a"`, "\x00"} {
		f.Add(body)
	}
	h := handler()
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/v1/embeddings", "/embed", "/v1/documents", "/v1/search"} {
			w := ask(t, h, http.MethodPost, path, body)
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	})
}
