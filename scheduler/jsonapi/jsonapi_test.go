package jsonapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A fleet is memory, queue and store in one.
type fleet struct {
	seen   map[string]bool
	recall string
	docs   []vector.Document
	fail   error
}

func (f *fleet) Seen(_ context.Context, names []string) ([]bool, error) {
	known := make([]bool, len(names))
	for i, n := range names {
		known[i] = f.seen[n]
	}
	return known, nil
}

func (f *fleet) Mark(_ context.Context, marks []scheduler.Mark) error {
	for _, m := range marks {
		for _, n := range m.Names {
			f.seen[n] = true
		}
	}
	return nil
}

func (f *fleet) Enqueue(_ context.Context, list []tasks.Task) ([]error, error) {
	if f.fail != nil {
		return nil, f.fail
	}
	for _, t := range list {
		p, err := tasks.DecodeDocument(t.Payload)
		if err != nil {
			return nil, err
		}
		f.docs = append(f.docs, p.Document)
	}
	return make([]error, len(list)), nil
}

func (*fleet) TextHashes(_ context.Context, _ string, ids []string) ([]string, error) {
	return make([]string, len(ids)), nil
}
func (f *fleet) Recall(context.Context, string) (string, error) { return f.recall, nil }
func (f *fleet) SetRecall(_ context.Context, _, recall string) error {
	f.recall = recall
	return nil
}

// now is the time of the tests' runs.
var now = time.Date(2026, 11, 28, 6, 0, 0, 0, time.UTC)

func crawler(t *testing.T, f *fleet, server *httptest.Server, c Config) *Crawler {
	t.Helper()
	c.URL = server.URL + c.URL
	client := server.Client()
	t.Cleanup(client.CloseIdleConnections)
	out := scheduler.Outbox{Log: testkit.Logger(t), Alias: "m", Lane: tasks.Live, Memory: f, Queue: f, Store: f}
	crawl, err := New(testkit.Logger(t), "acme", c, Parts{Outbox: out, Memory: f, HTTP: client, Agent: "embedfleet/1"})
	if err != nil {
		t.Fatal(err)
	}
	return crawl
}

func run(t *testing.T, c *Crawler) scheduler.Report {
	t.Helper()
	r, err := c.Run(t.Context(), scheduler.Tick{Schedule: scheduler.Schedule{Window: c.shape.window}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// notices serve n items in pages, in four ways.
func notices(n int, asked *[]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL.RequestURI())
		q := r.URL.Query()
		size, from := 3, 0
		if p, err := strconv.Atoi(q.Get("page")); err == nil {
			from = (p - 1) * size
		}
		if o, err := strconv.Atoi(q.Get("offset")); err == nil {
			from = o
		}
		if c, err := strconv.Atoi(strings.TrimPrefix(q.Get("after"), "c/")); err == nil {
			from = c
		}
		items := []any{}
		for i := from; i < min(from+size, n); i++ {
			items = append(items, map[string]any{
				"no": i, "t": map[string]any{"ko": fmt.Sprintf("공지 <b>%d</b>호 &amp; 안내", i)}, "at": "2026년 11월 28일 오후 2:00", "href": fmt.Sprintf("https://acme.example/n/%d", i),
				"codes": []string{"005930", "0068Y0"}, "a/b": "값",
			})
		}
		body := map[string]any{"data": map[string]any{"items": items}}
		if from+size < n {
			body["next"] = fmt.Sprintf("c/%d", from+size)
			body["link"] = fmt.Sprintf("/v1?after=c/%d", from+size)
		}
		_ = json.NewEncoder(w).Encode(body)
	}
}

var notice = Config{Items: "/data/items", ID: "/no", Title: "/t/ko", Text: Texts{"/t/ko"}, When: "/at", Link: "/href", Codes: "/codes", Fields: map[string]string{"x": "/a~1b"}}

func TestPagesOfAnyKind(t *testing.T) {
	t.Parallel()
	for address, tt := range map[string]struct {
		pages    Pages
		requests int
	}{
		"/v1?page={page}&from={from}": {Pages{First: 1}, 4}, // the last is empty
		"/v1?page={page}":             {Pages{First: 1, Size: 3}, 3},
		"/v1?offset={offset}&to={to}": {Pages{Size: 3}, 3},
		"/v1?after={cursor}":          {Pages{Next: "/next"}, 3},
		"/v1":                         {Pages{Next: "/link"}, 3},
	} {
		var asked []string
		server := httptest.NewServer(notices(8, &asked))
		f := &fleet{seen: map[string]bool{}}
		c := notice
		c.URL, c.Pages = address, tt.pages
		crawl := crawler(t, f, server, c)
		r := run(t, crawl)
		if r.New != 8 || r.Requests != tt.requests || len(f.docs) != 8 {
			t.Errorf("%s: %+v, asked %v", address, r, asked)
			server.Close()
			continue
		}
		if d := f.docs[7]; d.ID != "acme:7" || d.Text != "공지 7호 & 안내" || d.URL != "https://acme.example/n/7" || d.PublishedAt.Format(time.RFC3339) != "2026-11-28T05:00:00Z" ||
			d.StockCodes[1] != "0068Y0" || d.Fields["x"] != "값" || d.Source != "acme" || d.Fields["published_from"] != "item" {
			t.Errorf("%+v", d)
		}
		if strings.Contains(address, "{from}") && !strings.Contains(asked[0], "from=2026-11-25") {
			t.Errorf("asked %s", asked[0])
		}
		if r := run(t, crawl); r.New+r.Updated+r.Repeated != 0 || r.Items != 8 {
			t.Errorf("%s again: %+v", address, r)
		}
		server.Close()
	}
}

// TestWhatIsUnusableCostsItself, and what has changed is an update.
func TestWhatIsUnusableCostsItself(t *testing.T) {
	t.Parallel()
	body := `[{"id":"a","text":"하나"},{"id":"","text":"x"},{"text":"x"},{"id":"b"},{"id":["c"],"text":{"x":1}},3,{"id":7,"text":"일곱","time":"soon"}]`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
	defer server.Close()
	f := &fleet{seen: map[string]bool{}}
	c := crawler(t, f, server, Config{URL: "/", ID: "/id", Text: Texts{"/text"}, When: "/time"})
	if r := run(t, c); r.Items != 7 || r.New != 2 || r.Dropped != 5 || r.Reasons["dropped/no_id"] != 3 || r.Reasons["dropped/no_text"] != 2 {
		t.Errorf("%+v", r)
	}
	if d := f.docs[1]; d.ID != "acme:7" || d.Fields["published_from"] != "first_seen" {
		t.Errorf("%+v", d)
	}
	body = strings.Replace(body, "하나", "하나, 고침", 1)
	if r := run(t, c); r.New != 0 || r.Updated != 1 || f.docs[2].Text != "하나, 고침" {
		t.Errorf("%+v", r)
	}
	f.fail = errors.New("redis is away")
	body = strings.Replace(body, "고침", "또 고침", 1)
	if _, err := c.Run(t.Context(), scheduler.Tick{Now: now}); !errors.Is(err, f.fail) {
		t.Error(err)
	}
	f.fail = nil
	if r := run(t, c); r.Updated != 1 {
		t.Errorf("what could not be handed in is forgotten: %+v", r)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	const secret = "AKIA-SECRET-7"
	for body, want := range map[string]string{
		secret: "no JSON", `{"` + secret + `":1}`: "nothing is there", `{"data":{"items":"` + secret + `"}}`: "want a list",
		`{"data":{"items":[{"no":1},` + secret: "no JSON", "": "no JSON",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		c := notice
		c.URL = "/v1?key=" + secret
		r, err := crawler(t, &fleet{seen: map[string]bool{}}, server, c).Run(t.Context(), scheduler.Tick{Now: now})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) || r.Reasons["failed/other_shape"] != 1 {
			t.Errorf("%q: %+v, %v", body, r, err)
		}
		server.Close()
		if _, err = crawler(t, &fleet{seen: map[string]bool{}}, server, c).Run(t.Context(), scheduler.Tick{Now: now}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("of nobody: %v", err)
		}
	}
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer busy.Close()
	c := notice
	_, err := crawler(t, &fleet{seen: map[string]bool{}}, busy, c).Run(t.Context(), scheduler.Tick{Now: now})
	if p, ok := errors.AsType[*scheduler.PauseError](err); !ok || !p.Until.Equal(now.Add(10*time.Minute)) {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{}, {URL: "ftp://a/", ID: "/a", Text: Texts{"/b"}}, {URL: "http://a/{nope}", ID: "/a", Text: Texts{"/b"}}, {URL: "http://a/", ID: "a", Text: Texts{"/b"}},
		{URL: "http://a/", ID: "/a~2", Text: Texts{"/b"}}, {URL: "http://a/", ID: "/a", Text: Texts{""}}, {URL: "http://a/{offset}", ID: "/a", Text: Texts{"/b"}},
		{URL: "http://a/{cursor}", ID: "/a", Text: Texts{"/b"}}, {URL: "http://a/", ID: "/a", Text: Texts{"/b"}, Window: "3 days"},
	} {
		if err := c.Check(); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func FuzzItems(f *testing.F) {
	f.Add([]byte(`{"data":{"items":[{"no":1,"t":{"ko":"x"}}]}}`), "/data/items")
	f.Add([]byte(`[[1],[2]]`), "/1/0")
	f.Fuzz(func(t *testing.T, body []byte, at string) {
		s, err := Config{URL: "http://a/", Items: at, ID: "/no", Text: Texts{"/t/ko"}, Codes: "/c"}.check()
		if err != nil {
			return
		}
		c := &Crawler{name: "x", shape: s}
		var r scheduler.Report
		items, count, _ := c.read(body, now, &r)
		if len(items) > count {
			t.Errorf("%d of %d", len(items), count)
		}
	})
}
