package searchpage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A full lane, as package queue says it.
type full struct{}

func (full) Error() string    { return "lane query of minilm has no room" }
func (full) Overloaded() bool { return true }

// A library answers with the documents that pass the filter, or with the failure that the text names.
type library struct {
	docs   []vector.Document
	recent func(n int) (search.Recent, error)
}

func (l *library) Search(_ context.Context, text string, k int, filter store.Filter) (search.Result, error) {
	invalid := &tasks.InvalidError{Field: "text", Reason: tasks.Empty, Detail: "is empty"}
	switch text {
	case "nobody":
		return search.Result{}, fmt.Errorf("embedding: %w", search.ErrNoAnswer)
	case "busy":
		return search.Result{}, fmt.Errorf("enqueuing: %w", full{})
	case "away":
		return search.Result{}, errors.New("dial tcp 10.0.0.1:6379: password hunter2")
	case "odd":
		return search.Result{}, fmt.Errorf("checking: %w", invalid)
	case "left":
		return search.Result{}, context.Canceled
	}
	r, err := l.Like(context.Background(), "", k, filter)
	r.Embedding = 3 * time.Millisecond
	return r, err
}

func (l *library) Like(_ context.Context, id string, k int, filter store.Filter) (search.Result, error) {
	if id == "gone" {
		return search.Result{}, store.ErrNotFound
	}
	r := search.Result{Documents: len(l.docs), Scan: time.Millisecond}
	for i, d := range l.docs {
		if d.ID != id && filter.Match(&d) && len(r.Hits) < k {
			text := d.Text
			d.Text = ""
			r.Hits = append(r.Hits, store.Hit{Document: d, Snippet: text, Score: 0.9 - float64(i)/10})
		}
	}
	return r, nil
}

func (l *library) Recent(_ context.Context, n int) (search.Recent, error) {
	if l.recent == nil {
		return search.Recent{Space: "a"}, nil
	}
	return l.recent(n)
}

// shelf is a few documents with everything that a page must get right.
func shelf() *library {
	return &library{docs: []vector.Document{
		{ID: "dart:1", Title: "유상증자결정 <b>", Text: "삼성전자는 반도체 수출이 늘었다.", Source: "dart", URL: "https://dart.example/1?a=1&b=2",
			PublishedAt: time.Date(2022, 1, 3, 15, 30, 0, 0, time.UTC), StockCodes: []string{"005930"}},
		{ID: "news/2 ü&", Text: "Water at the <script>alert(1)</script> gate", Source: "news", URL: "javascript:alert(1)",
			PublishedAt: time.Date(2022, 1, 4, 15, 0, 0, 0, time.UTC), Fields: map[string]string{"near_duplicate_of": "dart:1", "near_duplicate_score": "0.983"}},
		{ID: "bare", Text: "no more than a text"},
	}}
}

type site struct {
	*Page
	t *testing.T
}

func setup(t *testing.T, l *library, models func(context.Context) ([]string, error), opts *Options) site {
	t.Helper()
	f, err := frame.New(&frame.Options{Logger: testkit.Logger(t), Assets: map[string]fs.FS{"search": Assets()}})
	if err != nil {
		t.Fatal(err)
	}
	if models == nil {
		models = func(context.Context) ([]string, error) { return []string{"minilm"}, nil }
	}
	p, err := New(testkit.Logger(t), Parts{Frame: f, Models: models, Open: func(string) Searcher { return l }}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return site{p, t}
}

func (s site) get(address string, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, address, http.NoBody)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	t.Parallel()
	s := setup(t, shelf(), nil, &Options{Zone: time.FixedZone("KST", 9*3600)})
	for _, tt := range []struct {
		address string
		status  int
		want    []string
		never   []string
	}{
		{"/search", 200, []string{`name="q"`, `id="map"`, `data-model="minilm"`, "autofocus"}, []string{"hits-title", "Clear filters"}},
		{"/search?q=반도체를", 200, []string{
			`value="반도체를"`, "3 of 3 documents", "0.900", `<mark>반도체</mark> 수출`, "text embedded in 3 ms",
			`href="https://dart.example/1?a=1&amp;b=2" rel="noopener noreferrer"`, "유상증자결정 &lt;b&gt;", "2022-01-04 00:30 KST",
			`href="/search?like=dart%3A1&amp;model=minilm"`, `href="/search?model=minilm&amp;q=%EB%B0%98%EB%8F%84%EC%B2%B4%EB%A5%BC&amp;stock=005930"`,
			`like=news%2F2&#43;%C3%BC%26`, `data-hits="[&#34;dart:1&#34;`,
		}, []string{"<b>", "href=\"javascript", "<script>alert", "More results"}},
		{"/search?q=x", 200, []string{"2022-01-05</time>", `near-duplicate of dart:1 (0.983)</a>`}, nil}, // midnight of the zone is a day without a time
		{"/search?q=water at", 200, []string{"<mark>Water</mark> at the"}, nil},
		{"/search?q=x&source=dart", 200, []string{"1 of 3 documents", "Clear filters"}, []string{"news/2"}},
		{"/search?q=x&source=dart,+news&stock=", 200, []string{"2 of 3 documents"}, nil},
		{"/search?q=x&stock=000000", 200, []string{"Nothing was found among 3 documents that pass the filters", "Search without filters"}, nil},
		{"/search?q=x&from=2022-01-05", 200, []string{"1 of 3 documents", "near-duplicate"}, nil},
		{"/search?q=x&to=2022-01-04", 200, []string{"1 of 3 documents", "유상증자결정"}, nil},
		{"/search?q=x&k=2", 200, []string{"2 of 3 documents", `href="/search?k=50&amp;model=minilm&amp;q=x">More results`}, nil},
		{"/search?like=dart:1", 200, []string{"Like <code>dart:1</code>", "2 of 3 documents"}, []string{"embedded in"}},
		{"/search?like=gone", 404, []string{"not stored any more"}, []string{"hits-title"}},
		{"/search?q=nobody", 503, []string{"No worker answered", "Try again", `role="alert"`, `id="map"`}, nil},
		{"/search?q=busy", 503, []string{"query lane is busy"}, nil},
		{"/search?q=away", 503, []string{"store can&#39;t be reached"}, []string{"hunter2", "10.0.0.1"}},
		{"/search?q=odd", 422, []string{"text: is empty"}, nil},
		{"/search?q=left", 499, nil, nil},
		{"/search?q=" + strings.Repeat("가", 2001), 400, []string{"2001 characters"}, nil},
		{"/search?q=x&k=0", 400, []string{"1 to 200"}, nil},
		{"/search?q=x&k=many", 400, []string{"&#34;many&#34;"}, nil},
		{"/search?q=x&from=yesterday", 400, []string{"first day", `value="yesterday"`}, nil},
		{"/search?q=x&to=31.12.2021", 400, []string{"last day"}, nil},
		{"/search?q=x&from=2022-01-05&to=2022-01-04", 400, []string{"Exchange them"}, nil},
		{"/search?q=x&source=" + strings.Repeat("s", 1001), 400, []string{"too long"}, nil},
		{"/search?q=x&model=other", 404, []string{"no model other"}, []string{"data-model"}},
		{"/search/nothing", 404, []string{"no such page"}, nil},
	} {
		t.Run(tt.address, func(t *testing.T) {
			t.Parallel()
			w := s.get(strings.ReplaceAll(tt.address, " ", "%20"))
			body := w.Body.String()
			if w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
			for _, want := range tt.want {
				if !strings.Contains(body, want) {
					t.Errorf("no %q in %s", want, body)
				}
			}
			for _, never := range tt.never {
				if strings.Contains(body, never) {
					t.Errorf("%q in %s", never, body)
				}
			}
		})
	}
}

func TestMethodsAndWaits(t *testing.T) {
	t.Parallel()
	s := setup(t, shelf(), nil, nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/search", strings.NewReader("q=x")))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
	if got := s.get("/search?q=busy").Header().Get("Retry-After"); got != "5" {
		t.Errorf("Retry-After is %q", got)
	}
}

// TestModels: the page works before there is a model, with several, and with a Redis that goes away.
func TestModels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var models []string
		failed := errors.New("the fault")
		s := setup(t, shelf(), func(context.Context) ([]string, error) { return models, failed }, nil)
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = s.Run(ctx) }()
		defer synctest.Wait()
		defer stop()
		later := func(address string) *httptest.ResponseRecorder {
			time.Sleep(time.Minute)
			s.get(address) // has the models read anew
			synctest.Wait()
			return s.get(address)
		}
		if w := s.get("/search"); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "the fault") {
			t.Errorf("unreadable: %d %s", w.Code, w.Body)
		}
		failed = nil
		if w := s.get("/search"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "No model is known yet") {
			t.Errorf("none: %d %s", w.Code, w.Body)
		}
		models = []string{"e5", "minilm"}
		if body := later("/search?model=minilm&q=x").Body.String(); !strings.Contains(body, `<option selected>minilm</option>`) || !strings.Contains(body, `data-model="minilm"`) {
			t.Errorf("two: %s", body)
		}
		models, failed = nil, errors.New("the fault")
		if w := later("/search?q=x"); w.Code != http.StatusOK {
			t.Errorf("gone later: %d %s", w.Code, w.Body)
		}
	})
}

func TestMarked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, query, want string }{
		{"The cat sat", "CAT", "The [cat] sat"},
		{"water at", "at", "water [at]"},
		{"the cat of the harbour", "cat of the harbour", "the [cat] of the [harbour]"},
		{"반도체를 수출", "반도체는", "[반도체]를 수출"},
		{"대반도체", "반도체", "대[반도체]"},
		{"a b", "a b", "a b"}, // single letters mark too much
		{"x", "", "x"},
		{"", "x", ""},
		{"İstanbul cat", "cat", "İstanbul [cat]"},
		{"3분기 실적, 3분기", "3분기!", "[3분기] 실적, [3분기]"},
		{"유상증자결정", "유상증자 결정", "[유상증자][결정]"},
	} {
		var got strings.Builder
		for _, s := range marked(tt.text, termsOf(tt.query)) {
			if s.Mark {
				s.Text = "[" + s.Text + "]"
			}
			got.WriteString(s.Text)
		}
		if got.String() != tt.want {
			t.Errorf("%q in %q: %s, want %s", tt.query, tt.text, got.String(), tt.want)
		}
	}
}

func FuzzMarked(f *testing.F) {
	f.Add("반도체를 수출", "반도체는 수출")
	f.Add("İ\xff", "i\xff\xffaa")
	f.Fuzz(func(t *testing.T, text, query string) {
		var got strings.Builder
		for _, s := range marked(text, termsOf(query)) {
			if s.Text == "" {
				t.Error("an empty span")
			}
			got.WriteString(s.Text)
		}
		if got.String() != text {
			t.Errorf("%q became %q", text, got.String())
		}
	})
}
