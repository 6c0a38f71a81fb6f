package asynqmon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/monitoring/asynqmon"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// mount serves the page over a Redis of its own, in which texts wait in the live lane.
func mount(t *testing.T, opts *asynqmon.Options, texts ...string) *httptest.Server {
	t.Helper()
	rdb := testkit.Redis(t)
	var batch []tasks.Task
	for i, text := range texts {
		doc := vector.Document{ID: fmt.Sprintf("dart:%d", i), Text: text, Title: "분기보고서", Source: "dart", StockCodes: []string{"005930"}}
		task, err := tasks.New("minilm", tasks.Live, doc, nil)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, task)
	}
	if _, err := queue.NewClient(rdb, nil).Enqueue(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	at := rdb.Options()
	clients := func() any { return redis.NewClient(&redis.Options{Network: at.Network, Addr: at.Addr}) }
	h, err := asynqmon.New(testkit.Logger(t), clients, opts)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// request asks for a path below /queues, as "METHOD path".
func request(t *testing.T, s *httptest.Server, what string, headers ...string) (*http.Response, string) {
	t.Helper()
	method, path, _ := strings.Cut(what, " ")
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/queues"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := *s.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// everyone may act, or nobody by the header.
func everyone(r *http.Request) (string, bool) { return "kim", r.Header.Get("Viewer") == "" }

func TestWhatIsAnswered(t *testing.T) {
	t.Parallel()
	locked := mount(t, nil, "one", "two")
	open := mount(t, &asynqmon.Options{Operator: everyone}, "one", "two")
	const live = "/api/queues/embed:minilm:live"
	for _, tt := range []struct {
		name    string
		server  *httptest.Server
		what    string
		headers []string
		status  int
		want    string // in the body
	}{
		{"page", locked, "GET /", nil, 200, `FLAG_READ_ONLY="true"`},
		{"page of an address made in the browser", locked, "GET /queues/embed:minilm:live", nil, 200, `id="root"`},
		{"page for an operator", open, "GET /", nil, 200, `FLAG_READ_ONLY="false"`},
		{"page for a viewer beside operators", open, "GET /", []string{"Viewer", "1"}, 200, `FLAG_READ_ONLY="true"`},
		{"queues", locked, "GET /api/queues", nil, 200, `"queue":"embed:minilm:live"`},
		{"unknown address", locked, "GET /api/nothing", nil, 404, "no such address"},
		{"no Prometheus", locked, "GET /api/metrics", nil, 404, "no such address"},
		{"traversal", locked, "GET /static/%2e%2e/%2e%2e/index.html", nil, 301, ""},
		{"traversal by backslash", locked, "GET /static/..%5c..%5cindex.html", nil, 404, ""},
		{"no such file", locked, "GET /static/js/nothing.js", nil, 404, "not found"},
		{"source maps", locked, "GET /static/js/main.5adda2da.chunk.js.map", nil, 404, "not found"},
		{"icon", locked, "GET /favicon.ico", nil, 200, ""},
		{"posting the page", locked, "POST /", nil, 405, "only GET"},
		{"read-only by default", locked, "POST " + live + ":pause", nil, 405, "read-only"},
		{"deleting by default", locked, "DELETE " + live + "/pending_tasks:delete_all", nil, 405, "read-only"},
		{"viewer", open, "POST " + live + ":pause", []string{"Viewer", "1"}, 405, "read-only"},
		{"operator", open, "POST " + live + ":pause", nil, 204, ""},
		{"operator's page of this site", open, "POST " + live + ":resume", []string{"Sec-Fetch-Site", "same-origin"}, 204, ""},
		{"another site", open, "POST " + live + ":resume", []string{"Sec-Fetch-Site", "cross-site"}, 403, "cross-origin"},
		{"another origin", open, "POST " + live + ":resume", []string{"Origin", "https://evil.example"}, 403, "cross-origin"},
		{"archiving all", open, "POST " + live + "/pending_tasks:archive_all", nil, 403, "would lose tasks"},
		{"no such queue", locked, "GET /api/queues/nothing/pending_tasks", nil, 404, "queue not found"},
	} {
		// One after the other: pausing comes before resuming.
		resp, body := request(t, tt.server, tt.what, tt.headers...)
		if resp.StatusCode != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %.300s, want %d with %q", tt.name, resp.StatusCode, body, tt.status, tt.want)
		}
		if got := resp.Header.Get("X-Frame-Options"); got != "DENY" {
			t.Errorf("%s: X-Frame-Options is %q", tt.name, got)
		}
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("%s: other sites may read: %q", tt.name, got)
		}
	}
}

// TestRedisIsAway: the answer says so, and not where Redis is.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	clients := func() any {
		return redis.NewClient(&redis.Options{Network: "unix", Addr: "/nowhere/hunter2", MaxRetries: -1})
	}
	h, err := asynqmon.New(testkit.Logger(t), clients, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	s := httptest.NewServer(h)
	defer s.Close()
	if resp, body := request(t, s, "GET /api/queues"); resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(body, "hunter2") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, _ := request(t, s, "GET /"); resp.StatusCode != http.StatusOK {
		t.Errorf("the page itself: %d", resp.StatusCode)
	}
}

// TestNothingIsLoadedFromElsewhere reads the page as a browser would.
func TestNothingIsLoadedFromElsewhere(t *testing.T) {
	t.Parallel()
	resp, body := request(t, mount(t, nil), "GET /")
	if found := regexp.MustCompile(`(?:href|src)="[^"]*//[^"]*"`).FindAllString(body, -1); len(found) > 0 {
		t.Errorf("the page names other hosts: %q", found)
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "'sha256-"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy lacks %q: %s", want, policy)
		}
	}
	if strings.Contains(policy, "http") || regexp.MustCompile(`script-src[^;]*unsafe`).MatchString(policy) {
		t.Errorf("the policy lets in too much: %s", policy)
	}
	if strings.Count(body, "<script>") != strings.Count(policy, "'sha256-") {
		t.Error("not every inline script has its digest in the policy")
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="(/queues/[^"]+)"`).FindAllStringSubmatch(body, -1) {
		resp, _ := request(t, mount(t, nil), "GET "+strings.TrimPrefix(m[1], "/queues"))
		if resp.StatusCode != http.StatusOK || strings.Contains(resp.Header.Get("Content-Type"), "html") {
			t.Errorf("%s: %s of type %s", m[1], resp.Status, resp.Header.Get("Content-Type"))
		}
	}
}

// TestListsAreBounded asks for more than there may be in one answer.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	texts := make([]string, 130)
	for i := range texts {
		texts[i] = fmt.Sprintf("text %d %s", i, strings.Repeat("가나다 ", 100))
	}
	s := mount(t, nil, texts...)
	for query, want := range map[string]int{
		"": 20, "?size=7": 7, "?size=1000000": 100, "?size=-5": 1, "?size=many": 20,
		"?size=100&page=2": 30, "?size=100&page=-9": 100, "?size=100&page=99999999999999": 0,
	} {
		_, body := request(t, s, "GET /api/queues/embed:minilm:live/pending_tasks"+query)
		var got struct {
			Tasks []struct{ Payload string } `json:"tasks"`
			Stats struct{ Pending int }      `json:"stats"`
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v in %.200s", query, err, body)
		}
		if len(got.Tasks) != want || got.Stats.Pending != len(texts) {
			t.Errorf("%s: %d tasks of %d, want %d", query, len(got.Tasks), got.Stats.Pending, want)
		}
		for _, task := range got.Tasks {
			if !strings.HasPrefix(task.Payload, `{"lane":"live","kind":"embed:document","model":"minilm","document":"dart:`) || len(task.Payload) > 1000 {
				t.Fatalf("payload of %d bytes: %s", len(task.Payload), task.Payload)
			}
		}
	}
}

func TestPayload(t *testing.T) {
	t.Parallel()
	big, err := tasks.New("m", tasks.Live, vector.Document{ID: "news:1", Text: strings.Repeat("환율이 올랐다. ", 5000)}, &tasks.Options{Version: 7})
	if err != nil {
		t.Fatal(err)
	}
	query, err := tasks.NewQuery("m", "<금리>", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, kind string
		payload    []byte
		want       string
		never      string
	}{
		{"compressed document", "embed:document", big.Payload, `"document":"news:1","version":7,"text":"환율이 올랐다. `, strings.Repeat("환율이 올랐다. ", 20)},
		{"its size", "embed:document", big.Payload, `"text_bytes":105000`, ""},
		{"query", "embed:query", query.Payload, `"text":"<금리>"`, `"document"`},
		{"cut payload", "embed:document", big.Payload[:100], `"problem":"`, ""},
		{"not ours", "email:send", []byte(`{"password":"hunter2"}`), "not a task of this fleet: its 22 bytes are not shown", "hunter2"},
		{"refused by workers", "embed:document", []byte(`{"v":1,"model":"m","version":1,"document":{"id":"a","text":" "}}`), `"document":"a"`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := asynqmon.Payload(tt.kind, tt.payload)
			if !json.Valid([]byte(got)) || !strings.Contains(got, tt.want) || tt.never != "" && strings.Contains(got, tt.never) {
				t.Errorf("%s\nwant %s, never %.60s", got, tt.want, tt.never)
			}
		})
	}
}

func TestResult(t *testing.T) {
	t.Parallel()
	v := make(vector.Vector, 384)
	v[0], v[1] = 0.6, -0.8
	text, err := json.Marshal(vector.Embedding{Vector: v, Tokens: 3})
	if err != nil {
		t.Fatal(err)
	}
	const described = `"vector":{"dim":384,"norm":1`
	for _, tt := range []struct {
		name   string
		result []byte
		want   string
	}{
		{"vector in JSON", text, described},
		{"vector in bytes", v.Bytes(), described},
		{"text", []byte("done"), "done"},
		{"long text", []byte(strings.Repeat("x", 5000)), strings.Repeat("x", 120) + "…"},
		{"nonsense", []byte{0, 1, 2}, "3 bytes that are neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := asynqmon.Result("embed:query", tt.result); !strings.Contains(got, tt.want) || len(got) > 400 {
				t.Errorf("%d bytes: %.300s, want %s", len(got), got, tt.want)
			}
		})
	}
}
