package news

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/tasks"
)

// A fakeFleet is memory, queue, store and states in one.
type fakeFleet struct {
	mu     sync.Mutex
	seen   map[string]bool
	states map[string]string
	recall map[string]string
	tasks  []tasks.Task
	fail   error // of Enqueue
}

func newFleet() *fakeFleet {
	return &fakeFleet{seen: map[string]bool{}, states: map[string]string{}, recall: map[string]string{}}
}

func (f *fakeFleet) Seen(_ context.Context, names []string) ([]bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := make([]bool, len(names))
	for i, n := range names {
		known[i] = f.seen[n]
	}
	return known, nil
}

func (f *fakeFleet) Mark(_ context.Context, marks []scheduler.Mark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range marks {
		for _, n := range m.Names {
			f.seen[n] = true
		}
	}
	return nil
}

func (f *fakeFleet) Enqueue(_ context.Context, list []tasks.Task) ([]error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	f.tasks = append(f.tasks, list...)
	return make([]error, len(list)), nil
}

func (*fakeFleet) TextHashes(_ context.Context, _ string, ids []string) ([]string, error) {
	return make([]string, len(ids)), nil
}

func (f *fakeFleet) Feeds(context.Context) (map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]string{}
	maps.Copy(out, f.states)
	return out, nil
}

func (f *fakeFleet) Recall(_ context.Context, name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.recall[name], nil
}

func (f *fakeFleet) SetFeed(_ context.Context, name, state, recall string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states[name] = state
	if recall != "" {
		f.recall[name] = recall
	}
	return nil
}

func (f *fakeFleet) outbox(t *testing.T) scheduler.Outbox {
	return scheduler.Outbox{Log: testkit.Logger(t), Alias: "m", Lane: tasks.Live, Memory: f, Queue: f, Store: f}
}

type fixed []Feed

func (f fixed) Feeds() ([]Feed, error) { return f, nil }

type tripper func(*http.Request) *http.Response

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := f(r)
	if resp == nil {
		return nil, errors.New("dial tcp: refused")
	}
	resp.Request = r
	return resp, nil
}

func reply(code int, body []byte, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(bytes.NewReader(body))}
}

func tickNow() scheduler.Tick { return scheduler.Tick{Now: time.Now()} }

// TestConditionalGetAndOneStory: what a server gave is sent back verbatim, a story in two feeds is handed in
// once, and the second time nothing is.
func TestConditionalGetAndOneStory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(fetched))
		inflight, most := 0, 0
		client := &http.Client{Transport: tripper(func(r *http.Request) *http.Response {
			inflight++
			most = max(most, inflight)
			time.Sleep(time.Second)
			inflight--
			if r.Header.Get("If-None-Match") == `W/"x"` && r.Header.Get("If-Modified-Since") == "Wed, 07 Oct 2026 07:00:00 +0900" {
				return reply(304, nil)
			}
			if r.Header.Get("User-Agent") != "embedfleet/1 (+https://e.example)" {
				t.Errorf("agent %q", r.Header.Get("User-Agent"))
			}
			name := "rss_utf8.xml"
			if r.URL.Path == "/other" {
				name = "rss_mk_style.xml"
			}
			return reply(200, fixture(t, name), "ETag", `W/"x"`, "Last-Modified", "Wed, 07 Oct 2026 07:00:00 +0900")
		})}
		fleet := newFleet()
		c := New(testkit.Logger(t), Parts{
			Feeds:  fixed{{Name: "a", URL: "https://one.example/a"}, {Name: "b", URL: "https://one.example/b"}, {Name: "c", URL: "https://one.example/other"}},
			States: fleet, Outbox: fleet.outbox(t), HTTP: client, Agent: "embedfleet/1 (+https://e.example)",
		})
		r, err := c.Run(t.Context(), tickNow())
		// Three items of six are one story each, one is it a second time, two are unusable; mk has two.
		if err != nil || r.New != 5 || r.Requests != 3 || r.Dropped != 4 || most != 1 {
			t.Errorf("%+v, %v, %d requests at once", r, err, most)
		}
		r, err = c.Run(t.Context(), tickNow())
		if want := (scheduler.Report{Requests: 3}); err != nil || !reflect.DeepEqual(r, want) {
			t.Errorf("the second time %+v, %v", r, err)
		}
	})
}

// TestAFaultBehindAFeedKeepsItsItems: what could not be handed in is asked for again, without a condition.
func TestAFaultBehindAFeedKeepsItsItems(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: tripper(func(r *http.Request) *http.Response {
			if r.Header.Get("If-None-Match") != "" {
				return reply(304, nil)
			}
			return reply(200, fixture(t, "rss_mk_style.xml"), "ETag", `"1"`)
		})}
		fleet := newFleet()
		fleet.fail = errors.New("redis is away")
		c := New(testkit.Logger(t), Parts{Feeds: fixed{{Name: "a", URL: "https://one.example/a"}}, States: fleet, Outbox: fleet.outbox(t), HTTP: client})
		if _, err := c.Run(t.Context(), tickNow()); !errors.Is(err, fleet.fail) {
			t.Errorf("%v", err)
		}
		fleet.fail = nil
		if r, err := c.Run(t.Context(), tickNow()); err != nil || r.New != 2 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestAFailingFeedIsLeftAlone for ever longer times, and is not the others' affair.
func TestAFailingFeedIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // hosts are asked side by side
		asked := map[string]int{}
		client := &http.Client{Transport: tripper(func(r *http.Request) *http.Response {
			mu.Lock()
			asked[r.URL.Host]++
			mu.Unlock()
			switch r.URL.Host {
			case "busy.example":
				return reply(429, nil, "Retry-After", "7200")
			case "wall.example":
				return reply(403, fixture(t, "rss_cloudflare_block.html"))
			case "down.example":
				return nil
			default:
				return reply(200, fixture(t, "rss_euckr.xml"))
			}
		})}
		fleet := newFleet()
		c := New(testkit.Logger(t), Parts{
			Feeds:  fixed{{Name: "busy", URL: "https://busy.example/"}, {Name: "wall", URL: "https://wall.example/"}, {Name: "down", URL: "https://down.example/"}, {Name: "ok", URL: "https://ok.example/"}},
			States: fleet, Outbox: fleet.outbox(t), HTTP: client,
		})
		for range 7 { // an hour
			if _, err := c.Run(t.Context(), tickNow()); err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Minute)
		}
		if asked["busy.example"] != 1 || asked["wall.example"] != 2 || asked["down.example"] != 3 || asked["ok.example"] != 7 {
			t.Errorf("asked %v", asked)
		}
		if s := fleet.states["wall"]; !strings.Contains(s, "firewall") {
			t.Errorf("state %s", s)
		}
		all := New(testkit.Logger(t), Parts{Feeds: fixed{{Name: "x", URL: "https://down.example/"}}, States: fleet, Outbox: fleet.outbox(t), HTTP: client})
		if _, err := all.Run(t.Context(), tickNow()); err == nil {
			t.Error("a run in which no feed answered is a success")
		}
	})
}

func TestTheListIsReadAgain(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "feeds.json")
	write := func(s string, at time.Time) {
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	l := NewList(name)
	if feeds, err := l.Feeds(); err == nil || len(feeds) > 0 {
		t.Errorf("without a file: %v, %v", feeds, err)
	}
	at := time.Now().Add(-time.Hour)
	write(`[{"name":"a","url":"https://a.kr/rss"},{"name":"b","url":"http://b.kr/rss","off":true}]`, at)
	if feeds, err := l.Feeds(); err != nil || len(feeds) != 1 {
		t.Errorf("%v, %v", feeds, err)
	}
	write(`[{"name":"a","url":"ftp://a.kr/rss"},{"name":"a","url":"http://b.kr/rss"}]`, at.Add(time.Minute))
	if feeds, err := l.Feeds(); len(feeds) != 1 || err == nil || strings.Count(err.Error(), "feed") != 2 {
		t.Errorf("of a bad list: %v, %v", feeds, err)
	}
	write(`[{"name":"c","url":"https://c.kr/rss"},{"name":"d","url":"https://d.kr/rss"}]`, at.Add(2*time.Minute))
	if feeds, err := l.Feeds(); err != nil || len(feeds) != 2 {
		t.Errorf("%v, %v", feeds, err)
	}
}

func naver(t *testing.T, shape Shape, fleet *fakeFleet, f tripper) *Naver {
	t.Helper()
	n, err := NewNaver(testkit.Logger(t), fleet.outbox(t), NaverOptions{
		Shape: shape, ID: "the-id", Secret: "the-secret", Queries: []string{"가상전자", "공시"}, HTTP: &http.Client{Transport: f},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNaverNews(t *testing.T) {
	t.Parallel()
	for shape, header := range map[Shape][2]string{
		Legacy: {"X-Naver-Client-Id", "X-Naver-Client-Secret"}, Hub: {"X-NCP-APIGW-API-KEY-ID", "X-NCP-APIGW-API-KEY"},
	} {
		fleet := newFleet()
		n := naver(t, shape, fleet, func(r *http.Request) *http.Response {
			q := r.URL.Query()
			if r.Header.Get(header[0]) != "the-id" || r.Header.Get(header[1]) != "the-secret" || q.Get("sort") != "date" || q.Get("display") != "100" {
				t.Errorf("%s: %v %v", shape, r.Header, q)
			}
			if q.Get("query") == "공시" {
				return reply(200, fixture(t, "naver_news_empty.json"))
			}
			return reply(200, fixture(t, "naver_news_ok.json"))
		})
		r, err := n.Run(t.Context(), scheduler.Tick{Now: fetched})
		if err != nil || r.New != 3 || r.Requests != 2 {
			t.Errorf("%s: %+v, %v", shape, r, err)
		}
		r, err = n.Run(t.Context(), scheduler.Tick{Now: fetched})
		if err != nil || r.New != 0 {
			t.Errorf("%s, again: %+v, %v", shape, r, err)
		}
	}
	entries, dropped, err := ParseNaver(fixture(t, "naver_news_ok.json"), fetched)
	want := `가상전자, 3분기 영업이익 "어닝 서프라이즈"…전년比 274%↑ | 가상전자가 3분기 연결 기준 영업이익 9조1천억원을 기록했다고 7일 공시했다. 시장 컨센서스를 웃도는 수준으로 R&D 투자도 확대할 계획이... | https://www.hankyung.com/article/2026100700001 | 2026-10-06T23:47:00Z feed
[특징주] 가상전자, 외국인 매수에 강세... | <연합뉴스> 가상전자 주가가 장 초반 강세다.... | http://www.mk.co.kr/news/stock/11000001?utm_source=naver&amp;ref=naver | 2026-10-07T00:05:00Z feed
가상전자 노조 '임금 교섭' 재개 |  | https://n.news.naver.com/mnews/article/001/0014900001?sid=102 | 2026-10-06T14:59:59Z feed
`
	if got := lines(entries); err != nil || dropped != 0 || got != want {
		t.Errorf("%v, got\n%swant\n%s", err, got, want)
	}
	if c, err := Canonical(entries[1].Link); err != nil || c != "https://mk.co.kr/news/stock/11000001" {
		t.Errorf("canonical %s, %v", c, err)
	}
}

// TestNaverErrors has each error of the fixtures, whose names carry HTTP's status.
func TestNaverErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		code int
		kind string
	}{
		"naver_err_400_SE01.json":   {400, "request"},
		"naver_err_400_SE02.json":   {400, "request"},
		"naver_err_400_SE03.json":   {400, "request"},
		"naver_err_401_024.json":    {401, "credentials"},
		"naver_err_429_010.json":    {429, "quota"},
		"naver_err_429_012.json":    {429, "speed"},
		"naver_err_500_SE99.json":   {500, "server"},
		"naverhub_err_401_200.json": {401, "credentials"},
		"naverhub_err_401_210.json": {401, "credentials"},
		"naverhub_err_429_400.json": {429, "quota"},
		"naverhub_err_429_410.json": {429, "speed"},
		"naverhub_err_429_420.json": {429, "speed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var e *NaverError
			if err := naverError(tt.code, fixture(t, name)); !errors.As(err, &e) || e.Kind() != tt.kind {
				t.Fatalf("%v, want kind %s", err, tt.kind)
			}
			n := naver(t, Legacy, newFleet(), func(*http.Request) *http.Response { return reply(tt.code, fixture(t, name)) })
			_, err := n.Run(t.Context(), scheduler.Tick{Now: fetched})
			var pause *scheduler.PauseError
			if errors.As(err, &pause) != (tt.kind == "quota" || tt.kind == "credentials") || (err == nil) != (tt.kind == "request") {
				t.Errorf("%s: %v", tt.kind, err)
			}
			if pause != nil && tt.kind == "quota" && pause.Until.Format("01-02 15:04 -0700") != "10-08 00:00 +0900" {
				t.Errorf("until %v", pause.Until)
			}
		})
	}
	var e *NaverError
	if err := naverError(200, []byte(`{"errorCode":24,"errorMessage":"x"}`)); !errors.As(err, &e) || e.Code != "24" {
		t.Errorf("a number as code, with HTTP 200: %v", err)
	}
	n := naver(t, Hub, newFleet(), func(*http.Request) *http.Response {
		return reply(401, []byte(`{"errorCode":"024","errorMessage":"the-secret is wrong for the-id"}`))
	})
	if _, err := n.Run(t.Context(), scheduler.Tick{Now: fetched}); err == nil || strings.Contains(err.Error(), "the-secret") || strings.Contains(err.Error(), "the-id") {
		t.Errorf("%v", err)
	}
}

func FuzzNaver(f *testing.F) {
	f.Add(fixture(f, "naver_news_ok.json"), 200)
	f.Add(fixture(f, "naverhub_err_429_410.json"), 429)
	f.Fuzz(func(_ *testing.T, b []byte, code int) {
		_ = naverError(code, b)
		entries, _, _ := ParseNaver(b, fetched)
		for _, e := range entries {
			e.Item("query", "q")
		}
	})
}
