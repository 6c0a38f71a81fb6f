package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A monitor is the program under test, in this process.
type monitor struct {
	t            *testing.T
	page, probes string // addresses
	logs         *notice
}

var probesAddress = regexp.MustCompile(`msg=serving page=\S+ probes=(\S+)`)

// start runs the program until the test's end.
func start(t *testing.T, args ...string) *monitor {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	m := &monitor{t: t, logs: &notice{found: make(chan string, 1)}}
	args = append([]string{"--http", "127.0.0.1:0", "--probes", "127.0.0.1:0"}, args...)
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, args, streams{in: strings.NewReader(""), out: io.Discard, err: m.logs, getenv: nothing})
	}()
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			t.Errorf("the monitor ended with status %d", code)
		}
		if t.Failed() {
			t.Logf("monitor:\n%s", m.logs)
		}
	})
	select {
	case m.page = <-m.logs.found:
	case code := <-ended:
		ended <- code
		t.Fatalf("the monitor ended with status %d: %s", code, m.logs)
	}
	m.probes = "http://" + probesAddress.FindStringSubmatch(m.logs.String())[1]
	return m
}

// get returns the answer's status and text, and how long it took.
func (m *monitor) get(address string) (status int, body string, took time.Duration) {
	m.t.Helper()
	begin := time.Now()
	r, err := http.Get(address)
	if err != nil {
		m.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return r.StatusCode, string(b), time.Since(begin)
}

// eventually waits until the page holds a text.
func (m *monitor) eventually(path, want string) string {
	m.t.Helper()
	var body string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, body, _ = m.get(m.page + path); strings.Contains(body, want) {
			return body
		}
	}
	m.t.Fatalf("%s does not say %q: %s", path, want, regexp.MustCompile(`\s*<[^>]*>\s*`).ReplaceAllString(body, " "))
	return ""
}

var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`)

// order presses the button of a page before an order.
func (m *monitor) order(address string) {
	m.t.Helper()
	_, form, _ := m.get(m.page + "/act?" + address)
	values := url.Values{}
	for _, f := range hidden.FindAllStringSubmatch(form, -1) {
		values.Set(f[1], f[2])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := client.PostForm(m.page+"/act", values)
	if err != nil {
		m.t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusSeeOther {
		b, _ := io.ReadAll(r.Body)
		m.t.Fatalf("order %s: %s: %s", address, r.Status, b)
	}
}

// enqueue puts n texts into a lane of the model minilm.
func enqueue(t *testing.T, rdb redis.UniversalClient, lane tasks.Lane, n int) {
	t.Helper()
	var list []tasks.Task
	for i := range n {
		task, err := tasks.New(alias, lane, vector.Document{ID: fmt.Sprintf("%s-%d", lane, i), Text: "a text to embed"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, task)
	}
	receipts, err := queue.NewClient(rdb, nil).Enqueue(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		if !r.State.Accepted() {
			t.Fatalf("task %s: %v", r.ID, r.Err)
		}
	}
}

// field is how a figure stands in the page.
func field(name, value string) string {
	return fmt.Sprintf(`data-field=%q>%s<`, name, value)
}

// TestMonitor shows the page over a real Redis: what it says is what is there, what is pressed is done and noted,
// and a Redis that goes away and comes back is told.
func TestMonitor(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	rdb := server.Client()
	enqueue(t, rdb, tasks.Live, 1234)
	m := start(t, "--redis-url", server.URL())

	m.eventually("/", field("pending", "1,234"))
	if status, body, _ := m.get(m.probes + "/readyz"); status != 200 {
		t.Errorf("not ready: %s", body)
	}
	m.order("do=pause-lane&model=minilm&lane=live")
	m.eventually("/", "Lane live of minilm is paused")
	if got := laneStatus(t, rdb, tasks.Live); !got.Paused {
		t.Error("the lane is not paused in Redis")
	}
	m.order("do=resume-lane&model=minilm&lane=live")
	m.eventually("/", "No worker of the model is alive")
	if got := laneStatus(t, rdb, tasks.Live); got.Paused {
		t.Error("the lane is still paused in Redis")
	}
	m.order("do=pause-source&source=dart")
	if s, err := ledger.New(rdb).Job(t.Context(), "dart", "dart"); err != nil || s.Paused != "by hand, by local" {
		t.Errorf("the source: %+v, %v", s, err)
	}
	m.order("do=run-slot&source=dart&job=dart")
	m.eventually("/", "failed: no scheduler keeps job dart of dart")
	keeper := ledger.New(rdb)
	if err := keeper.Announce(t.Context(), []scheduler.Schedule{{Job: "dart", Source: "dart", Cron: []string{"*/5 * * * *"}}}); err != nil {
		t.Fatal(err)
	}
	m.order("do=run-slot&source=dart&job=dart")
	m.eventually("/", "Asked for;")
	if by, ok, err := keeper.Asked(t.Context(), "dart", "dart"); by != "local" || !ok || err != nil {
		t.Errorf("a slot was asked for by %q, %v, %v", by, ok, err)
	}
	events, err := registry.NewEvents(rdb).List(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	var noted []string
	for _, e := range slices.Backward(events) {
		noted = append(noted, e.Who+": "+e.What+": "+e.About)
	}
	if got, want := strings.Join(noted, "; "), "local: lane paused: live; local: lane resumed: live; local: source paused: dart"; got != want {
		t.Errorf("noted are %q, want %q", got, want)
	}
	m.eventually("/", "source paused")
	m.checkMetrics(1234)

	server.Kill()
	m.eventually("/", "Redis does not answer")
	status, body, took := m.get(m.page + "/")
	if status != 200 || !strings.Contains(body, field("pending", "1,234")) || took > 5*time.Second {
		t.Errorf("without Redis: status %d after %v", status, took)
	}
	if status, _, took := m.get(m.page + "/dead?model=minilm"); status != 503 || took > 2*patience {
		t.Errorf("dead letters without Redis: status %d after %v", status, took)
	}
	if status, body, _ := m.get(m.probes + "/livez"); status != 200 {
		t.Errorf("not alive without Redis: %s", body)
	}
	server.Start()
	m.eventually("/", "wait and no worker serves them")
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, body, _ := m.get(m.page + "/"); !strings.Contains(body, "Redis does not answer") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the page does not see that Redis is back")
		}
	}
}

func laneStatus(t *testing.T, rdb redis.UniversalClient, lane tasks.Lane) queue.LaneStatus {
	t.Helper()
	list, err := queue.NewLanes(rdb).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(l queue.LaneStatus) bool { return l.Model == alias && l.Lane == lane })
	if i < 0 {
		t.Fatalf("no lane %s", lane)
	}
	return list[i]
}

// checkMetrics reads the series as data.
func (m *monitor) checkMetrics(pending float64) {
	m.t.Helper()
	_, body, _ := m.get(m.probes + "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range []string{"embed_build_info", "embed_queue_up", "embed_monitor_snapshot_age_seconds", "embed_monitor_orders_total", "go_goroutines"} {
		if families[name] == nil {
			m.t.Errorf("no series %s", name)
		}
	}
	found := -1.0
	for _, metric := range families["embed_queue_tasks"].GetMetric() {
		labels := map[string]string{}
		for _, l := range metric.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if labels["lane"] == "live" && labels["state"] == "pending" {
			found = metric.GetGauge().GetValue()
		}
	}
	if found != pending {
		m.t.Errorf("embed_queue_tasks of live is %v, want %v", found, pending)
	}
}

// TestDeadLettersByHand replays one cause and drops another.
func TestDeadLettersByHand(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	rdb := server.Client()
	bury(t, rdb, 40)
	m := start(t, "--redis-url", server.URL())
	m.eventually("/", field("dead", `<a href="/dead?model=minilm&amp;lane=live">40</a>`)[:20])
	body := m.eventually("/dead?model=minilm", "40 letters of minilm")
	if got := strings.Count(body, `<span class="mono">live-`); got != 40 {
		t.Errorf("%d letters are listed, want 40", got)
	}
	m.order("do=replay-dead&model=minilm&lane=live")
	m.eventually("/", "40 letters replayed.")
	if got := laneStatus(t, rdb, tasks.Live); got.Dead != 0 || got.Pending != 40 {
		t.Errorf("after the replay: %d dead, %d pending", got.Dead, got.Pending)
	}
	m.order("do=drop-dead&model=minilm&lane=live")
	m.eventually("/", "failed: no letter fits")
}

// bury makes dead letters the way they come about: a server runs tasks whose handler refuses them.
func bury(t *testing.T, rdb *redis.Client, n int) {
	t.Helper()
	enqueue(t, rdb, tasks.Live, n)
	server, err := consumer.New(rdb, alias, []tasks.Lane{tasks.Live}, refusing{}, &consumer.Options{Logger: testkit.Logger(t), Concurrency: 8})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(patience); laneStatus(t, rdb, tasks.Live).Dead < int64(n); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d died", laneStatus(t, rdb, tasks.Live).Dead, n)
		}
	}
}

// TestSlowRedis puts 200 ms between the monitor and Redis: the page answers at once, and what it shows is fresh.
func TestSlowRedis(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	enqueue(t, server.Client(), tasks.Live, 77)
	m := start(t, "--redis-url", "redis://"+detour(t, server.Addr, 100*time.Millisecond))
	m.eventually("/", field("pending", "77"))
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		status, body, took := m.get(m.page + "/")
		if status != 200 || took > 2*time.Second {
			t.Errorf("status %d after %v", status, took)
		}
		if strings.Contains(body, "Redis does not answer") {
			t.Error("a Redis that is slow is taken for one that is away")
		}
	}
}

// detour is a way to an address on which each direction takes a while.
func detour(t *testing.T, to string, delay time.Duration) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(group.Wait)
	t.Cleanup(func() { _ = l.Close() })
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	carry := func(from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := from.Read(buf)
			time.Sleep(delay)
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	group.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
			_ = stop
			group.Go(func() { carry(in, out) })
			group.Go(func() { carry(out, in) })
		}
	})
	return l.Addr().String()
}

// refusing is a handler that no task pleases.
type refusing struct{}

func (refusing) HandleBatch(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
	for i := range items {
		report([]tasks.Result{{Index: i, Err: refusal{}}})
	}
}

type refusal struct{}

func (refusal) Error() string   { return "refused by the test" }
func (refusal) Permanent() bool { return true }

// TestDoor is the table of who is served: which addresses with which login.
func TestDoor(t *testing.T) {
	t.Parallel()
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("proxy * viewer\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		change  func(*settings)
		role    login.Role // of somebody who has not signed in
		local   bool
		problem []string
	}{
		{"default", func(*settings) {}, login.Operator, true, nil},
		{"localhost", func(s *settings) { s.http = "localhost:80" }, login.Operator, true, nil},
		{"IPv6", func(s *settings) { s.http = "[::1]:80" }, login.Operator, true, nil},
		{"everywhere", func(s *settings) { s.http = ":80" }, "", false, []string{"--http :80", "--users", "--insecure"}},
		{"one address", func(s *settings) { s.http = "10.0.0.1:80" }, "", false, []string{"without a login"}},
		{"insecure", func(s *settings) { s.http, s.insecure = "0.0.0.0:80", true }, login.Viewer, false, nil},
		{"users", func(s *settings) { s.http, s.users = "0.0.0.0:80", users }, "", false, nil},
		{"users on this machine", func(s *settings) { s.users = users }, "", false, nil},
		{"proxy header for all", func(s *settings) { s.users, s.proxyUser = users, "X-User" }, "", false, []string{"--trusted-proxies"}},
		{"proxies", func(s *settings) {
			s.users, s.proxyUser, s.proxies = users, "X-User", []string{"10.0.0.0/8", "192.0.2.1"}
		}, "", false, nil},
		{"bad network", func(s *settings) { s.proxies = []string{"10.0.0.0/99", "x"} }, "", false, []string{"10.0.0.0/99", `"x"`}},
		{"short key", func(s *settings) { s.sessionKey = short }, "", false, []string{"5 bytes", "32"}},
		{"no key", func(s *settings) { s.sessionKey = short + "x" }, "", false, []string{"--session-key"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := settings{http: "127.0.0.1:8084"}
			tt.change(&s)
			opts, err := s.door()
			if (err != nil) != (tt.problem != nil) {
				t.Fatalf("error = %v", err)
			}
			for _, want := range tt.problem {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if err == nil && (opts.Anonymous != tt.role || opts.LocalOnly != tt.local) {
				t.Errorf("anonymous %q, local only %v", opts.Anonymous, opts.LocalOnly)
			}
		})
	}
}

func TestWrongCommandLines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		says []string
	}{
		{[]string{"--http", "0.0.0.0:0"}, []string{"--insecure"}},
		{[]string{"--users", "/nowhere/users"}, []string{"--users", "/nowhere/users"}},
		{[]string{"--redis-url", "mysql://x", "--models", "A B", "--tls-cert", "x"}, []string{"--redis-url", "--models", "--tls-key"}},
		{[]string{"extra"}, []string{"extra"}},
		{[]string{"password", "ann", "boss"}, []string{`"boss"`}},
		{[]string{"password", "ann", "viewer"}, []string{"0 characters"}},
		{[]string{"token", "a b"}, []string{`"a b"`}},
	} {
		var errs bytes.Buffer
		code := run(t.Context(), tt.args, streams{in: strings.NewReader(""), out: io.Discard, err: &errs, getenv: nothing})
		if code != boot.StatusUsage {
			t.Errorf("%q: status %d", tt.args, code)
		}
		for _, want := range tt.says {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%q: %q does not say %q", tt.args, errs.String(), want)
			}
		}
	}
}

// TestAccounts makes a user and a token and hands them to the parser of the file.
func TestAccounts(t *testing.T) {
	t.Parallel()
	var lines, token bytes.Buffer
	for _, args := range [][]string{{"password", "ann", "operator"}, {"token", "ci"}} {
		st := streams{in: strings.NewReader("correct horse battery\r\n"), out: &lines, err: &token, getenv: nothing}
		if code := run(t.Context(), args, st); code != 0 {
			t.Fatalf("%q: status %d: %s", args, code, &token)
		}
	}
	if _, err := login.ParseUsers(lines.String()); err != nil {
		t.Errorf("%v in %s", err, &lines)
	}
	if !strings.HasPrefix(lines.String(), "user ann operator $argon2id$") || !strings.Contains(lines.String(), "\ntoken ci viewer sha256:") {
		t.Errorf("lines: %s", &lines)
	}
	if secret := strings.TrimSpace(token.String()); !strings.HasPrefix(secret, "efm_") || strings.Contains(lines.String(), secret) {
		t.Errorf("the token is %q", secret)
	}
}

func TestNobodyListensTwice(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var errs bytes.Buffer
	st := streams{in: strings.NewReader(""), out: io.Discard, err: &errs, getenv: nothing}
	if code := run(t.Context(), []string{"--http", l.Addr().String()}, st); code != 1 || !strings.Contains(errs.String(), "in use") {
		t.Errorf("status %d: %s", code, &errs)
	}
}
