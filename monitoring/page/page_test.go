package page_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/monitoring/fleet"
	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/monitoring/page"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A board is a fleet that a test sets.
type board struct {
	mu      sync.Mutex
	now     *fleet.Snapshot
	changed chan struct{}
}

func (b *board) Snapshot() (*fleet.Snapshot, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now, b.changed
}

func (b *board) show(s *fleet.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Number = b.now.Number + 1
	b.now = s
	close(b.changed)
	b.changed = make(chan struct{})
}

// snapshot is a fleet that was read a moment ago.
func snapshot() *fleet.Snapshot {
	s := &fleet.Snapshot{Since: time.Now().Add(-time.Hour), Parts: map[string]fleet.Part{}, Trends: map[fleet.Lane]fleet.Trend{}}
	for _, name := range []string{fleet.PartLanes, fleet.PartWorkers, fleet.PartEvents, fleet.PartCauses, fleet.PartSources} {
		s.Parts[name] = fleet.Part{At: time.Now()}
	}
	s.Lanes = []queue.LaneStatus{
		{Model: "minilm", Lane: tasks.Query}, {Model: "minilm", Lane: tasks.Live, Pending: 1234, Active: 7, Retry: 2, Scheduled: 1, Dead: 3, Tokens: 45000},
		{Model: "minilm", Lane: tasks.Backfill, Pending: 9, Paused: true}, {Model: "minilm", Lane: tasks.Quarantine},
	}
	s.Workers = []registry.Worker{{ID: "w1", Name: "worker-1", Host: "node", Model: "minilm", State: registry.StateBusy, Since: time.Now().Add(-time.Minute),
		Lanes: tasks.Lanes, Device: "cpu", Precision: "fp32", InUse: 7, TokenRate: 7400, Memory: registry.Memory{Private: 212e6}, Crashes: 2}}
	s.Causes = []fleet.Cause{{Model: "minilm", CauseCount: upkeep.CauseCount{Code: "timeout", Letters: 3}}}
	s.Events = []registry.Event{{At: time.Now(), What: registry.EventReady, Who: "worker-1", Model: "minilm", Text: "<script>alert(1)</script>"}}
	s.Sources = []ledger.SourceStatus{{Source: "dart", Jobs: []ledger.Job{{Job: "dart", Kept: true, Cron: []string{"*/5 * * * *"}, Next: time.Now().Add(time.Minute), LastSlot: time.Now()}}}}
	return s
}

// letters is a list of dead letters, and may be slow.
type letters struct {
	list []upkeep.Letter
	hang bool
}

func (l letters) List(ctx context.Context, model string, f upkeep.DeadFilter, limit int) (out []upkeep.Letter, err error) {
	if l.hang {
		return nil, context.DeadlineExceeded
	}
	for _, one := range l.list {
		fits := one.Model == model && slices.Contains(f.Lanes, one.Lane) && (f.Before.IsZero() || one.Last.Before(f.Before)) &&
			(len(f.Codes) == 0 || slices.Contains(f.Codes, one.Code)) && (len(f.IDs) == 0 || slices.Contains(f.IDs, one.ID))
		if fits && len(out) < limit {
			out = append(out, one)
		}
	}
	return out, ctx.Err()
}

// desk carries nothing out and remembers what it was asked.
type desk struct {
	mu     sync.Mutex
	orders []page.Order
	err    error
	hold   chan struct{} // if not nil, orders wait for it
}

func (d *desk) Do(ctx context.Context, o page.Order, progress func(string)) (string, error) {
	d.mu.Lock()
	d.orders = append(d.orders, o)
	d.mu.Unlock()
	if d.hold != nil {
		progress("1 of 2 replayed")
		select {
		case <-d.hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return "Well done.", d.err
}

func (d *desk) asked() []page.Order {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.orders)
}

// A site is the page behind a guard.
type site struct {
	t *testing.T
	*board
	desk   *desk
	line   *line
	server *httptest.Server
}

func newSite(t *testing.T, role login.Role, list letters) *site {
	t.Helper()
	s := &site{t: t, board: &board{now: snapshot(), changed: make(chan struct{})}, desk: &desk{}, line: &line{n: 1234}}
	f, err := frame.New(&frame.Options{Logger: testkit.Logger(t), Assets: map[string]fs.FS{"page": page.Assets()}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := page.New(page.Parts{Frame: f, Fleet: s.board, Letters: list, Histories: history{}, Waiting: s.line, Controls: s.desk}, &page.Options{Logger: testkit.Logger(t), Handbook: []byte("# Book\n\n## A lane is late\n\nWait.\n")})
	if err != nil {
		t.Fatal(err)
	}
	g, err := login.New(f, &login.Options{Anonymous: role, LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	inner := http.NewServeMux()
	p.Routes(inner, g.Operator)
	outer := http.NewServeMux()
	outer.Handle("/", g.Wrap(inner))
	outer.Handle("GET /static/", f.Static())
	s.server = httptest.NewServer(frame.Headers(outer))
	t.Cleanup(s.server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// get returns the status and the text of a page.
func (s *site) get(path string) (status int, body string) {
	s.t.Helper()
	r, err := s.server.Client().Get(s.server.URL + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// post sends the form of a page before an order, filled in, and returns the answer without following it.
func (s *site) post(address string, fill url.Values) (status int, to, body string) {
	s.t.Helper()
	_, form := s.get(address)
	values := url.Values{}
	for _, m := range regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`).FindAllStringSubmatch(form, -1) {
		values.Set(m[1], strings.ReplaceAll(m[2], "&amp;", "&"))
	}
	maps.Copy(values, fill)
	client := *s.server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r, err := client.PostForm(s.server.URL+"/act", values)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("Location"), string(b)
}

// plain is the text of a page without its tags, with single blanks.
func plain(html string) string {
	return strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(html, " ")), " ")
}

func TestThePageTells(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	status, html := s.get("/")
	if status != 200 {
		t.Fatalf("status %d: %s", status, plain(html))
	}
	all := plain(html)
	for _, want := range []string{
		"Working, 1 thing to watch", "1,243 texts waiting", "Lane backfill of minilm is paused", "live working 1,234", "7.4 k", "212 MB",
		"cpu · fp32", "timeout", "worker ready", "&lt;script&gt;", "dart",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, bad := range []string{"<script>alert", "ZgotmplZ", "style=", "onclick", "http://", "https://", "%!"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	for _, id := range []string{"lane-minilm-live", "worker-w1", "source-dart", "verdict", "tiles", "causes", "events"} {
		if n := strings.Count(html, `id="`+id+`"`); n != 1 {
			t.Errorf("id %s is there %d times", id, n)
		}
	}
}

func TestEveryAssetIsThere(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Viewer, letters{})
	_, html := s.get("/")
	found := regexp.MustCompile(`"(/static/[^"]+)"`).FindAllStringSubmatch(html, -1)
	if len(found) < 5 {
		t.Fatalf("the page names %d static files", len(found))
	}
	for _, m := range found {
		r, err := s.server.Client().Get(s.server.URL + m[1])
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK || !strings.Contains(r.Header.Get("Cache-Control"), "immutable") || r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %s, %v", m[1], r.Status, r.Header)
		}
	}
}

// TestViewersSeeNoButtons, and get none of what is behind them.
func TestViewersSeeNoButtons(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Viewer, letters{list: many(60)})
	for _, path := range []string{"/", "/dead"} {
		if _, html := s.get(path); strings.Contains(html, "/act") {
			t.Errorf("%s leads a viewer to an action", path)
		}
	}
	if status, _ := s.get("/act?do=pause-lane&model=minilm&lane=live"); status != 403 {
		t.Errorf("the page before an order: %d", status)
	}
	if status, _, _ := s.post("/", url.Values{"do": {page.PauseLane}, "model": {"minilm"}, "lane": {"live"}}); status != 403 {
		t.Errorf("an order: %d", status)
	}
	if n := len(s.desk.asked()); n > 0 {
		t.Errorf("%d orders were carried out", n)
	}
}

// TestOrders gives each kind of order through its page.
func TestOrders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		address string
		fill    url.Values
		says    string // on the page before
		want    page.Order
	}{
		{"do=pause-lane&model=minilm&lane=live", url.Values{"reason": {"new tokenizer"}}, "Pause lane live of minilm", page.Order{Do: page.PauseLane, Model: "minilm", Lane: tasks.Live, Reason: "new tokenizer"}},
		{"do=resume-lane&model=minilm&lane=backfill", nil, "Resume lane backfill", page.Order{Do: page.ResumeLane, Model: "minilm", Lane: tasks.Backfill}},
		{"do=set-limits&model=minilm", url.Values{"concurrency": {"64"}, "access_timeout": {"30s"}}, "all workers of minilm", page.Order{Do: page.SetLimits, Model: "minilm",
			Settings: registry.Settings{Concurrency: 64, AccessTimeout: registry.Seconds(30 * time.Second)}}},
		{"do=set-limits&worker=w1", url.Values{"max_access": {"9"}}, "worker w1", page.Order{Do: page.SetLimits, Worker: "w1", Settings: registry.Settings{MaxAccess: 9}}},
		{"do=reset-limits&model=minilm", nil, "Take limits of all workers of minilm back", page.Order{Do: page.ResetLimits, Model: "minilm"}},
		{"do=drain-worker&worker=w1", nil, "finishes what it has in hand", page.Order{Do: page.DrainWorker, Worker: "w1"}},
		{"do=replay-dead&model=minilm&cause=timeout", nil, "Replay dead letters of minilm, cause timeout", page.Order{Do: page.ReplayDead, Model: "minilm", Cause: "timeout"}},
		{"do=drop-dead&model=minilm&lane=live&id=abc", nil, "can&#39;t be undone", page.Order{Do: page.DropDead, Model: "minilm", Lane: tasks.Live, ID: "abc"}},
		{"do=pause-source&source=dart", url.Values{"for": {"2h"}}, "Pause source dart", page.Order{Do: page.PauseSource, Source: "dart", For: 2 * time.Hour}},
		{"do=resume-source&source=dart", nil, "Resume source dart", page.Order{Do: page.ResumeSource, Source: "dart"}},
		{"do=run-slot&source=dart&job=dart-wide", nil, "Run job dart-wide of dart now", page.Order{Do: page.RunSlot, Source: "dart", Job: "dart-wide"}},
	} {
		t.Run(tt.address, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, login.Operator, letters{})
			if status, html := s.get("/act?" + tt.address); status != 200 || !strings.Contains(plain(html), tt.says) {
				t.Fatalf("the page before: %d, %s", status, plain(html))
			}
			status, to, body := s.post("/act?"+tt.address, tt.fill)
			if status != http.StatusSeeOther || to != "/" {
				t.Fatalf("the answer: %d to %q: %s", status, to, plain(body))
			}
			tt.want.By = "local"
			if got := s.desk.asked(); len(got) != 1 || got[0] != tt.want {
				t.Errorf("asked %+v, want %+v", got, tt.want)
			}
			if _, html := s.get("/"); !strings.Contains(plain(html), "Well done.") {
				t.Error("the page does not say what came of it")
			}
		})
	}
}

func TestOrdersThatCanNotBeGiven(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	for address, want := range map[string]int{
		"do=nonsense": 404, "do=pause-lane&model=minilm": 400, "do=pause-lane&model=minilm&lane=express": 400, "do=pause-lane&model=../x&lane=live": 400,
		"do=drain-worker": 400, "do=replay-dead": 400, "do=pause-source&source={x}": 400, "do=run-slot&source=dart": 400,
	} {
		if status, html := s.get("/act?" + address); status != want {
			t.Errorf("%s: %d, want %d: %s", address, status, want, plain(html))
		}
	}
	status, _, body := s.post("/act?do=set-limits&model=minilm", url.Values{"concurrency": {"70000"}})
	if status != http.StatusUnprocessableEntity || !strings.Contains(plain(body), "concurrency 70000, want 1 to") || !strings.Contains(body, `value="70000"`) {
		t.Errorf("a limit out of bounds: %d, %s", status, plain(body))
	}
	if status, _, body := s.post("/act?do=pause-source&source=dart", url.Values{"for": {"soon"}}); status != 422 || !strings.Contains(body, "soon") {
		t.Errorf("no length of time: %d, %s", status, plain(body))
	}
	if status, _, _ := s.post("/act?do=resume-source&source=dart", url.Values{"csrf": {"forged"}}); status != 403 {
		t.Errorf("a forged token: %d", status)
	}
	if n := len(s.desk.asked()); n > 0 {
		t.Errorf("%d orders were carried out", n)
	}
}

func TestAFailedOrderIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	s.desk.err = errors.New("connection refused")
	s.post("/act?do=resume-lane&model=minilm&lane=live", nil)
	if _, html := s.get("/"); !strings.Contains(plain(html), "failed: connection refused") {
		t.Error("the page does not tell of the failure")
	}
}

// TestALongOrder is answered before it is done, and the page shows how far it is.
func TestALongOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	s.desk.hold = make(chan struct{})
	status, to, _ := s.post("/act?do=replay-dead&model=minilm&back=%2Fdead%3Fmodel%3Dminilm", nil)
	if status != 303 || to != "/dead?model=minilm" {
		t.Errorf("the answer: %d to %q", status, to)
	}
	if _, html := s.get(to); !strings.Contains(plain(html), "under way: 1 of 2 replayed") {
		t.Error("the page does not show how far it is")
	}
	close(s.desk.hold)
}

func TestBackLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	for _, to := range []string{"https://evil.example", "//evil.example", "/deadly", "javascript:alert(1)"} {
		if _, got, _ := s.post("/act?do=resume-source&source=dart&back="+url.QueryEscape(to), nil); got != "/" {
			t.Errorf("back to %q leads to %q", to, got)
		}
	}
}

// many returns n letters, most of which died in the same few milliseconds, the latest first.
func many(n int) (list []upkeep.Letter) {
	at := time.Now().Truncate(time.Millisecond)
	for i := range n {
		lane := tasks.Live
		if i >= n*2/3 {
			lane = tasks.Backfill
		}
		list = append(list, upkeep.Letter{ID: fmt.Sprintf("id%06d", i), Model: "minilm", Lane: lane, Code: []string{"timeout", "poison"}[i%2], Message: "it <b>failed</b>",
			Document: fmt.Sprintf("doc%06d.", i), First: at.Add(-time.Hour), Last: at.Add(-time.Duration(i/40) * time.Millisecond)})
	}
	return list
}

// TestDeadLettersArePaged walks over all pages and counts each letter once.
func TestDeadLettersArePaged(t *testing.T) {
	t.Parallel()
	const n = 333
	s := newSite(t, login.Operator, letters{list: many(n)})
	seen := map[string]int{}
	path, pages := "/dead?model=minilm", 0
	for path != "" {
		status, html := s.get(path)
		if status != 200 {
			t.Fatalf("%s: %d", path, status)
		}
		for _, doc := range regexp.MustCompile(`<span class="mono">(doc\d+)\.`).FindAllStringSubmatch(html, -1) {
			seen[doc[1]]++
		}
		if strings.Contains(html, "<b>failed") {
			t.Fatal("a message is taken for HTML")
		}
		path = ""
		if m := regexp.MustCompile(`href="([^"]+)" rel="next"`).FindStringSubmatch(html); m != nil {
			path = strings.ReplaceAll(m[1], "&amp;", "&")
		}
		if pages++; pages > n {
			t.Fatal("the pages do not end")
		}
	}
	if len(seen) != n || pages != (n+49)/50 {
		t.Errorf("%d of %d letters on %d pages", len(seen), n, pages)
	}
	for doc, times := range seen {
		if times != 1 {
			t.Errorf("%s is shown %d times", doc, times)
		}
	}
}

func TestDeadLettersAreChosen(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{list: many(30)})
	_, html := s.get("/dead?model=minilm&cause=poison&lane=live")
	if got := strings.Count(html, `class="mono"`); got != 10 {
		t.Errorf("%d letters of cause poison in live, want 10", got)
	}
	if !strings.Contains(html, "do=replay-dead&amp;cause=poison&amp;lane=live&amp;model=minilm") {
		t.Error("the button does not replay what is shown")
	}
	for path, want := range map[string]int{"/dead?model=..%2Fx": 400, "/dead?model=minilm&lane=x": 400, "/dead?model=minilm&from=junk": 200} {
		if status, _ := s.get(path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	slow := newSite(t, login.Operator, letters{hang: true})
	if status, html := slow.get("/dead"); status != 503 || !strings.Contains(html, "did not answer in time") {
		t.Errorf("a Redis that hangs: %d", status)
	}
}

func TestRunbook(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Viewer, letters{})
	if _, html := s.get("/runbook"); !strings.Contains(html, `<h2 id="a-lane-is-late">A lane is late</h2>`) {
		t.Error("the handbook has no section to link to")
	}
}

// swap is one piece of a message.
type swap struct{ ID, HTML string }

// A stream reads server-sent events.
type stream struct {
	t    *testing.T
	scan *bufio.Scanner
}

func (s *site) stream() stream {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.server.URL+"/live", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := s.server.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = answer.Body.Close() })
	if got := answer.Header.Get("Content-Type"); got != "text/event-stream" {
		s.t.Fatalf("content type %q", got)
	}
	scan := bufio.NewScanner(answer.Body)
	scan.Buffer(nil, 16<<20)
	return stream{s.t, scan}
}

// next returns the next event of a name.
func (s stream) next(name string) []byte {
	s.t.Helper()
	for s.scan.Scan() {
		if s.scan.Text() != "event: "+name {
			continue
		}
		s.scan.Scan()
		return []byte(strings.TrimPrefix(s.scan.Text(), "data: "))
	}
	s.t.Fatalf("the stream ended: %v", s.scan.Err())
	return nil
}

func (s stream) swaps() (list []swap) {
	s.t.Helper()
	if err := json.Unmarshal(s.next("swap"), &list); err != nil {
		s.t.Fatal(err)
	}
	return list
}

// TestLive changes one lane and sees that only what is about it is sent.
func TestLive(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Viewer, letters{})
	stream := s.stream()
	first := stream.swaps()
	if len(first) != 8 {
		t.Fatalf("at first %d pieces are sent, want all 8", len(first))
	}
	next := snapshot()
	next.Lanes[1].Pending = 999_777
	s.show(next)
	for deadline := time.Now().Add(20 * time.Second); ; {
		var model string
		ids := map[string]bool{}
		for _, part := range stream.swaps() {
			ids[part.ID] = true
			if part.ID == "model-minilm" {
				model = part.HTML
			}
		}
		if ids["lanes"] || ids["workers"] {
			t.Errorf("a whole table is sent for one row: %v", ids)
		}
		if strings.Contains(model, "999,777") {
			if !strings.HasPrefix(model, `<tbody id="model-minilm">`) {
				t.Errorf("the piece begins with %.40q", model)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the change was not sent")
		}
	}
	gone := snapshot()
	gone.Workers = nil
	s.show(gone)
	for deadline := time.Now().Add(20 * time.Second); ; {
		list := stream.swaps()
		i := slices.IndexFunc(list, func(p swap) bool { return p.ID == "workers" })
		if i >= 0 && strings.Contains(list[i].HTML, "No worker is alive") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the lost worker was not told")
		}
	}
}

func TestLiveTellsThatItIsStale(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Viewer, letters{})
	old := snapshot()
	for name := range old.Parts {
		old.Parts[name] = fleet.Part{At: time.Now().Add(-time.Minute), Err: "connection refused"}
	}
	s.show(old)
	if got := string(s.stream().next("state")); !strings.Contains(got, `"state":"stale"`) || !strings.Contains(got, "stale since") {
		t.Errorf("the sign says %s", got)
	}
	_, html := s.get("/")
	if !strings.Contains(plain(html), "Redis does not answer: what is shown of lanes, workers") || !strings.Contains(html, "1,234") {
		t.Error("the page does not say that it is old, or shows nothing")
	}
}

// TestManyLanes shows 100 lanes, 60 workers and 50 causes within a bound of time and size.
func TestManyLanes(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	big := snapshot()
	big.Lanes, big.Workers, big.Causes = nil, nil, nil
	points := make([]float64, 120)
	for i := range points {
		points[i] = float64(i * 37 % 1000)
	}
	for m := range 25 {
		model := fmt.Sprintf("model-%02d", m)
		for i, lane := range tasks.Lanes {
			l := queue.LaneStatus{Model: model, Lane: lane}
			if i < 2 && m%2 == 0 {
				l.Pending, l.Dead = 100_000, 4000
				big.Trends[fleet.Lane{Model: model, Lane: lane}] = fleet.Trend{End: time.Now(), Pending: points, Rate: points, Dead: points}
			}
			big.Lanes = append(big.Lanes, l)
		}
		for _, code := range []string{"timeout", "poison"} {
			big.Causes = append(big.Causes, fleet.Cause{Model: model, CauseCount: upkeep.CauseCount{Code: code, Letters: 2000}})
		}
	}
	for i := range 60 {
		big.Workers = append(big.Workers, registry.Worker{ID: fmt.Sprint("w", i), Name: fmt.Sprint("worker-", i), Model: fmt.Sprintf("model-%02d", i%25), State: registry.StateZombie, Reason: "stuck"})
	}
	s.show(big)
	begin := time.Now()
	_, html := s.get("/")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the page took %v", took)
	}
	if len(html) > 600_000 {
		t.Errorf("the page has %d bytes", len(html))
	}
	if got := strings.Count(html, `<tr id="lane-`); got != 26 || !strings.Contains(html, "74 idle lanes hidden") {
		t.Errorf("%d lanes are shown, want the 26 that are not idle", got)
	}
	if got := strings.Count(html, `<tr id="worker-`); got != 60 {
		t.Errorf("%d workers", got)
	}
	if !strings.Contains(html, `<details id="more-findings">`) {
		t.Error("sixty findings are not folded")
	}
	if _, html := s.get("/?idle=show"); strings.Count(html, `<tr id="lane-`) != 100 {
		t.Error("idle lanes can't be shown")
	}
}

func TestEmptyFleet(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	empty := snapshot()
	empty.Lanes, empty.Workers, empty.Causes, empty.Events, empty.Sources = nil, nil, nil, nil, nil
	s.show(empty)
	_, html := s.get("/")
	for _, want := range []string{"Healthy", "No lane yet", "No worker is alive", "No crawler has reported", "None. A text", "Nothing yet"} {
		if !strings.Contains(plain(html), want) {
			t.Errorf("the empty page does not say %q", want)
		}
	}
	unread := &fleet.Snapshot{Since: time.Now(), Parts: map[string]fleet.Part{}}
	s.show(unread)
	if _, html := s.get("/"); !strings.Contains(plain(html), "Waiting for the first answer of Redis") {
		t.Error("a page before the first reading says that there is nothing")
	}
	if _, html := s.get("/dead"); !strings.Contains(plain(html), "There are none") {
		t.Error("no dead letters, and the page does not say so")
	}
}
