package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/internal/trace/tracetest"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const key = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"

// A buffer may be written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A stage is a Redis, an imitation of OpenDART over TLS, and a command's environment.
type stage struct {
	t    *testing.T
	env  map[string]string
	rdb  *testkit.Server
	dart *httptest.Server

	tracer *trace.Tracer // of the commands; nil is as the flags say
	errs   buffer        // of all commands
}

// newStage serves the real day, moved to yesterday, so that all of it is published.
func newStage(t *testing.T) *stage {
	t.Helper()
	return newStageAt(t, time.Now().Add(-24*time.Hour), nil)
}

// newStageAt serves the real day as that of day, as far as it is published by now.
func newStageAt(t *testing.T, day time.Time, now func() time.Time) *stage {
	t.Helper()
	redis := testkit.RedisServer(t)
	config, _, err := imitation.RSAOnly()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := imitation.RealDay(day)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(imitation.NewDART(rows, &imitation.Options{Key: key, Now: now}))
	server.Listener.Close()
	server.Listener, server.TLS = listener, config
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[0]})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return &stage{t: t, rdb: redis, dart: server, env: map[string]string{
		"REDIS_URL": redis.URL(), "OPENDART_API_KEY": key, "EMBEDFLEET_DART_URL": server.URL + "/api", "EMBEDFLEET_DART_CA": ca,
		"EMBEDFLEET_ALIAS": "m", "EMBEDFLEET_HTTP": "127.0.0.1:0",
	}}
}

func (s *stage) call(ctx context.Context, args ...string) (status int, out string) {
	var b bytes.Buffer
	status = run(ctx, args, streams{out: &b, err: &s.errs, tracer: s.tracer,
		getenv: func(k string) (string, bool) { v, ok := s.env[k]; return v, ok }})
	return status, b.String()
}

// unfinished counts tasks that wait or are under way: a server takes many before it handles them.
func (s *stage) unfinished(lane tasks.Lane) int64 {
	s.t.Helper()
	list, err := queue.NewLanes(s.rdb.Client()).Status(s.t.Context(), "m")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range list {
		if l.Lane == lane {
			return l.Pending + l.Active
		}
	}
	return 0
}

func TestCommands(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	if status, out := s.call(t.Context(), "run", "dart-wide"); status != 0 || !strings.Contains(out, `"new":502`) {
		t.Fatalf("run: %d %s %s", status, out, s.errs.String())
	}
	if n := s.unfinished(tasks.Live); n != 502 {
		t.Errorf("%d tasks are queued, want 502", n)
	}
	if status, out := s.call(t.Context(), "run", "dart", "--at", time.Now().Add(-24*time.Hour).In(scheduler.KST).Format("2006-01-02T15:04")); status != 0 || !strings.Contains(out, `"new":0`) {
		t.Errorf("run of yesterday's slot: %d %s", status, out)
	}
	if status, out := s.call(t.Context(), "run", "dart-companies"); status != 0 || !strings.Contains(out, `"requests":1`) {
		t.Errorf("run of the companies: %d %s", status, out)
	}
	if status, out := s.call(t.Context(), "next", "-n", "2"); status != 0 || strings.Count(out, "dart-wide:") != 2 || !strings.Contains(out, "960h0m0s") {
		t.Errorf("next: %d %s", status, out)
	}
	if status, _ := s.call(t.Context(), "pause", "dart", "--reason", "tea"); status != 0 {
		t.Errorf("pause: %d", status)
	}
	if status, out := s.call(t.Context(), "status"); status != 0 || strings.Count(out, "tea") != 3 {
		t.Errorf("status: %d %s", status, out)
	}
	if status, out := s.call(t.Context(), "resume", "dart"); status != 0 || out != "" {
		t.Errorf("resume: %d %s", status, out)
	}
	if _, out := s.call(t.Context(), "resume", "dart"); !strings.Contains(out, "was not paused") {
		t.Errorf("resume again: %s", out)
	}
	day := time.Now().Add(-24 * time.Hour).In(scheduler.KST).Format(time.DateOnly)
	if status, _ := s.call(t.Context(), "backfill", "dart", "--from", day, "--to", day, "--every", "1ms"); status != 0 {
		t.Errorf("backfill: %d %s", status, s.errs.String())
	}
	if n := s.unfinished(tasks.Backfill); n != 0 {
		t.Errorf("the backfill queued %d tasks of filings that are known", n)
	}
	if strings.Contains(s.errs.String(), key) {
		t.Error("the key is in the log")
	}
}

// TestOneTraceFromTheCrawlToTheTask: what a run brings is within its span on the queue.
func TestOneTraceFromTheCrawlToTheTask(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	tracer, spans := tracetest.New()
	s.tracer = tracer
	if status, out := s.call(t.Context(), "run", "dart-wide"); status != 0 {
		t.Fatalf("run: %d %s %s", status, out, s.errs.String())
	}
	crawl, ok := spans.Find("crawl dart-wide")
	if !ok || crawl.Attributes["new"] != "502" {
		t.Fatalf("%+v", crawl)
	}
	got := make(chan string, 502)
	server, err := consumer.New(s.rdb.Client(), "m", []tasks.Lane{tasks.Live}, eachDone(func(t tasks.Task) { got <- t.Trace }), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	if parent := <-got; parent != "00-"+crawl.Trace+"-"+crawl.ID+"-01" {
		t.Errorf("the task's trace is %q, the crawl's span %+v", parent, crawl)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// eachDone is a handler that has done a task when it has looked at it.
type eachDone func(tasks.Task)

func (f eachDone) HandleBatch(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
	for i, item := range items {
		f(item.Task)
		report([]tasks.Result{{Index: i}})
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	s := &stage{t: t, env: map[string]string{"EMBEDFLEET_ALIAS": "m"}}
	for _, args := range [][]string{
		{"--dart-key", "short"}, {"--naver", "hub"}, {"--alias", "{"}, {"--dart-classes", "YZ"}, {"--dart-ca", "/nonexistent"},
		{"run", "dart"}, {"run", "nope", "--at", "noon"}, {"pause", "moon"}, {"backfill", "news", "--from", "2021-01-01"},
		{"backfill", "dart", "--from", "2021-01-02", "--to", "2021-01-01"}, {"backfill", "dart", "--from", "x"}, {"--unknown"}, {"extra"},
	} {
		if status, out := s.call(t.Context(), args...); status != 2 {
			t.Errorf("%v: status %d, %s", args, status, out)
		}
	}
}

// TestServe runs the daemon, kills its Redis for a moment, and stops it.
func TestServe(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		status, _ := s.call(ctx)
		done <- status
	}()
	address := ""
	await(t, "the probes", func() bool {
		_, rest, ok := strings.Cut(s.errs.String(), "probes=")
		address, _, _ = strings.Cut(rest, "\n")
		return ok && address != ""
	})
	await(t, "the first sweep", func() bool { return s.unfinished(tasks.Live) >= 400 })
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": `crawl_runs_total{job="dart",outcome="done"} 1`} {
		await(t, path, func() bool { return strings.Contains(get(t, "http://"+address+path), want) })
	}
	var list []ledger.SourceStatus
	if err := json.Unmarshal([]byte(get(t, "http://"+address+"/statusz")), &list); err != nil || len(list) != 1 || len(list[0].Jobs) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if s := list[0]; s.Source != "dart" || s.Freshness.Awaited == 0 || !s.Jobs[0].Kept || s.Jobs[0].Next.IsZero() {
		t.Errorf("%+v", s)
	}
	cancel()
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
	if strings.Contains(s.errs.String(), key) {
		t.Error("the key is in the log")
	}
}

// TestReadyzWithoutRedis answers 503 when Redis was not reached for a while, and is well again by itself.
func TestReadyzWithoutRedis(t *testing.T) {
	t.Parallel()
	redis := testkit.RedisServer(t)
	a := &app{log: slog.New(slog.DiscardHandler), rdb: redis.Client()}
	s := &server{app: a, metrics: monitoring.NewCrawler("test"), every: 20 * time.Millisecond, patience: 300 * time.Millisecond}
	s.reached.Store(time.Now().UnixNano())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.look(ctx) })
	wg.Go(func() { _ = s.probes(ctx, l) })
	defer wg.Wait()
	defer cancel()
	ready := func() bool { return get(t, "http://"+l.Addr().String()+"/readyz") == "ok\n" }
	await(t, "readiness", ready)
	redis.Kill()
	await(t, "the loss of Redis", func() bool { return !ready() })
	resp, err := http.Get("http://" + l.Addr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d without Redis, want 503", resp.StatusCode)
	}
	if got := get(t, "http://"+l.Addr().String()+"/livez"); got != "ok\n" {
		t.Errorf("/livez answers %q: a restart brings no Redis back", got)
	}
	redis.Start()
	await(t, "readiness again", ready)
}

// await polls, since what it waits for happens in another goroutine on real time.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s did not come", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
