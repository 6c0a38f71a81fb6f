package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
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

func handler() http.Handler {
	invalid := &tasks.InvalidError{Field: "text", Reason: tasks.Empty, Detail: "is empty"}
	return gateway.New(slog.New(slog.DiscardHandler), gateway.Parts{
		Search: searcher{
			"":       fmt.Errorf("checking the search text: %w", invalid),
			"nobody": fmt.Errorf("embedding: %w", search.ErrNoAnswer),
			"broken": errors.New("redis at 10.0.0.1 with password hunter2"),
			"gone":   context.Canceled,
		},
		Documents: documents{"dart:1/2": {
			Document: vector.Document{ID: "dart:1/2", Text: "t", PublishedAt: time.Unix(0, 0).UTC()},
			Chunks:   []vector.Chunk{{End: 1, Embedding: vector.Embedding{Vector: vector.Vector{1}, Tokens: 3}}},
		}},
		Status: func(context.Context) (any, error) { return map[string]int{"pending": 1}, nil },
	})
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
		{"POST /v1/search", `{"txet":"rates"}`, 400, "txet"},
		{"POST /v1/search", `{`, 400, "reading the body"},
		{"POST /v1/search", `{"text":"` + strings.Repeat("x", 3<<20) + `"}`, 413, "too_large"},
		{"POST /v1/search", `{"text":"rates","k":1001}`, 400, "1 to 1000"},
		{"GET /v1/search?q=rates&k=many", "", 400, `k is \"many\"`},
		{"GET /v1/search?q=rates&filter=source", "", 400, "filter"},
		{"GET /v1/search", "", 422, "text: is empty"},
		{"GET /v1/search?q=nobody", "", 503, "no_worker"},
		{"GET /v1/search?q=broken", "", 500, "log says why"},
		{"GET /v1/search?q=gone", "", 499, "went away"},
		{"GET /v1/documents/dart:1/2", "", 200, `"dim":1}`},
		{"GET /v1/documents/dart:1/2?vectors=true", "", 200, `"vector":[1]`},
		{"GET /v1/documents/other", "", 404, "not found"},
		{"GET /v1/status", "", 200, `{"pending":1}`},
		{"GET /v2", "", 404, "/v1/search"},
		{"DELETE /v1/search", "", 404, "no route DELETE"},
	} {
		t.Run(tt.request, func(t *testing.T) {
			t.Parallel()
			method, target, _ := strings.Cut(tt.request, " ")
			w := httptest.NewRecorder()
			handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(tt.body)))
			body, err := io.ReadAll(w.Result().Body)
			if err != nil || w.Code != tt.status || !strings.Contains(string(body), tt.want) || !json.Valid(body) {
				t.Errorf("%d %s %v, want %d with %s", w.Code, body, err, tt.status, tt.want)
			}
			if strings.Contains(string(body), "hunter2") {
				t.Error("the answer tells what only the log may")
			}
		})
	}
}
