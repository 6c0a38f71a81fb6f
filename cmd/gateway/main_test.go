package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/internal/trace/tracetest"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/registry"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
)

const token = "a-token-for-the-tests"

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

// A stage is a Redis with a gateway and, if asked for, a worker with a fake model.
type stage struct {
	t           *testing.T
	rdb         *testkit.Server
	errs        buffer
	api, probes string // addresses
	stop        context.CancelFunc
	status      chan int
}

// start runs a gateway of model m and returns when it serves.
func start(t *testing.T, args ...string) *stage {
	t.Helper()
	return startTraced(t, nil, args...)
}

func startTraced(t *testing.T, tracer *trace.Tracer, args ...string) *stage {
	t.Helper()
	s := &stage{t: t, rdb: testkit.RedisServer(t), status: make(chan int, 1)}
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	args = append([]string{"--redis-url", s.rdb.URL(), "--model", "m", "--http", "127.0.0.1:0", "--probes", "127.0.0.1:0"}, args...)
	go func() {
		s.status <- run(ctx, args, streams{io.Discard, &s.errs, func(string) (string, bool) { return "", false }, tracer})
	}()
	t.Cleanup(func() {
		stop()
		if status := <-s.status; status != 0 {
			t.Errorf("status %d\n%s", status, s.errs.String())
		}
	})
	line := regexp.MustCompile(`msg=serving .*address=(\S+) probes=(\S+)`)
	s.await("the gateway", func() bool {
		m := line.FindStringSubmatch(s.errs.String())
		if m == nil {
			return false
		}
		s.api, s.probes = "http://"+m[1], "http://"+m[2]
		return true
	})
	return s
}

// work starts a worker.
func (s *stage) work() { s.t.Helper(); s.workTraced(trace.Off()) }

func (s *stage) workTraced(tracer *trace.Tracer) {
	s.t.Helper()
	docs := storeredis.New(s.rdb.Client())
	handler := tasks.NewHandler(slog.New(slog.DiscardHandler), tasks.Parts{Model: "m", Space: "s", Embedder: &embedtest.Embedder{}, Store: docs, Answers: docs},
		&tasks.HandlerOptions{Observer: tracer.Observer(unobserved{})})
	server, err := consumer.New(s.rdb.Client(), "m", []tasks.Lane{tasks.Query, tasks.Live, tasks.Backfill}, tracer.Handler(handler), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	workers, entry := registry.NewWorkers(s.rdb.Client()), registry.Worker{ID: "w1", Model: "m", State: registry.StateReady}
	if err := workers.Put(s.t.Context(), entry); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	var announcing sync.WaitGroup
	announcing.Go(func() { _ = workers.Announce(ctx, testkit.Logger(s.t), func() registry.Worker { return entry }, nil) })
	s.t.Cleanup(announcing.Wait)
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
}

// unobserved is told what it does not want to know.
type unobserved struct{}

func (unobserved) Stage(context.Context, tasks.Stage, time.Duration) {}
func (unobserved) Outcome(tasks.Kind, tasks.Outcome, string)         {}

// await polls, since what it waits for happens in another goroutine on real time.
func (s *stage) await(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not come\n%s", what, s.errs.String())
		}
	}
}

// ask returns the status and the body.
func (s *stage) ask(method, url, body string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (s *stage) expect(method, url, body string, status int, part string) {
	s.t.Helper()
	if got, text := s.ask(method, url, body); got != status || !strings.Contains(text, part) {
		s.t.Errorf("%s %s: %d %.300s, want %d with %s", method, url, got, text, status, part)
	}
}

func tokensFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestServe takes documents in, embeds, finds, and tells how it is.
func TestServe(t *testing.T) {
	t.Parallel()
	s := start(t, "--tokens", tokensFile(t))
	s.work()
	s.expect("POST", s.api+"/v1/documents", `{"documents":[{"id":"a","text":"cats sleep"},{"id":"b","text":"the bank raises rates"}]}`, 200, `"accepted":2`)
	s.expect("POST", s.api+"/v1/embeddings", `{"model":"m","input":["a","b","c"]}`, 200, `"index":2`)
	s.expect("POST", s.api+"/embed", `{"inputs":"a"}`, 200, `[[`)
	for _, id := range []string{"a", "b"} { // they may come in any order
		s.await("the documents", func() bool { status, _ := s.ask("GET", s.api+"/v1/documents/"+id, ""); return status == 200 })
	}
	s.expect("GET", s.api+"/v1/search?q=cats+sleep&k=1", "", 200, `"id":"a"`)
	s.expect("GET", s.api+"/v1/status", "", 200, `"lane":"live"`)
	s.expect("PUT", s.api+"/v1/embeddings", "", 405, "POST")
	s.expect("GET", s.api+"/readyz", "", 200, "ok")
	s.expect("GET", s.probes+"/livez", "", 200, "ok")
	s.expect("GET", s.probes+"/statusz", "", 200, `"lanes"`)
	s.expect("GET", s.probes+"/statusz", "", 200, `"callers"`)
	s.expect("GET", s.probes+"/metrics", "", 200, `embed_gateway_requests_total{route="/v1/embeddings",status="200"} 1`)
	s.expect("GET", s.probes+"/metrics", "", 200, `embed_gateway_requests_total{route="/v1/embeddings",status="405"} 1`)
	if strings.Contains(s.errs.String(), token) {
		t.Error("the token is in the log")
	}
}

// TestALaneWithoutRoom answers 429 with the time after which to try again.
func TestALaneWithoutRoom(t *testing.T) {
	t.Parallel()
	s := start(t, "--max-waiting", "1")
	s.expect("POST", s.api+"/v1/documents", `{"documents":[{"id":"a","text":"x"}]}`, 200, `"accepted":1`)
	s.expect("POST", s.api+"/v1/documents", `{"documents":[{"id":"b","text":"y"},{"id":"c","text":"z"}]}`, 429, "no_room")
}

// TestReadyWithoutRedis: not ready while Redis is away, and well again by itself.
func TestReadyWithoutRedis(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for ten seconds without Redis; not in -short")
	}
	t.Parallel()
	s := start(t)
	s.rdb.Kill()
	s.await("the loss of Redis", func() bool { status, _ := s.ask("GET", s.probes+"/readyz", ""); return status == 503 })
	if status, body := s.ask("GET", s.api+"/v1/documents/d1", ""); status != 503 || !strings.Contains(body, "unavailable") {
		t.Errorf("without Redis a request is answered with %d %s, want 503", status, body)
	}
	s.expect("GET", s.probes+"/livez", "", 200, "ok")
	s.rdb.Start()
	s.await("readiness", func() bool { status, _ := s.ask("GET", s.probes+"/readyz", ""); return status == 200 })
}

func TestUsage(t *testing.T) {
	t.Parallel()
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--http", "0.0.0.0:0"}, "--tokens, or --insecure"},
		{[]string{"--http", ":0"}, "--tokens, or --insecure"},
		{[]string{"--http", "192.0.2.1:80"}, "--tokens, or --insecure"},
		{[]string{"--tokens", "/nonexistent"}, "--tokens"},
		{[]string{"--tokens", short}, "line 1"},
		{[]string{"--model", "{"}, "--model"},
		{[]string{"--redis-url", "nope"}, "--redis-url"},
		{[]string{"extra"}, "no argument"},
	} {
		var errs buffer
		status := run(t.Context(), append([]string{"--model", "m"}, tt.args...), streams{io.Discard, &errs, func(string) (string, bool) { return "", false }, nil})
		if status != 2 || !strings.Contains(errs.String(), tt.want) || strings.Contains(errs.String(), "secret") {
			t.Errorf("%v: status %d %s", tt.args, status, errs.String())
		}
	}
}

// TestOneTraceFromTheCallToPut: the caller's trace goes through the gateway and the queue to the store, and no text
// goes with it.
func TestOneTraceFromTheCallToPut(t *testing.T) {
	t.Parallel()
	tracer, spans := tracetest.New()
	s := startTraced(t, tracer)
	s.workTraced(tracer)
	const caller = "0af7651916cd43dd8448eb211c80319c"
	body := strings.NewReader(`{"documents":[{"id":"a","text":"a text that nobody may see"}]}`)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.api+"/v1/documents", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Traceparent", "00-"+caller+"-b7ad6b7169203331-01")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	s.await("the task's span", func() bool { _, ok := spans.Find("task embed:document"); return ok })
	parents := map[string]string{"POST /v1/documents": "b7ad6b7169203331"}
	for _, step := range [][2]string{
		{"POST /v1/documents", ""}, {"task embed:document", "POST /v1/documents"}, {"lookup", "task embed:document"},
		{"embed", "task embed:document"}, {"store", "task embed:document"},
	} {
		span, ok := spans.Find(step[0])
		parent := parents[step[0]]
		if step[1] != "" {
			within, _ := spans.Find(step[1])
			parent = within.ID
		}
		if !ok || span.Trace != caller || span.Parent != parent || span.Error != "" {
			t.Errorf("%s is %+v, want it in trace %s under %s", step[0], span, caller, parent)
		}
		for _, value := range span.Attributes {
			if strings.Contains(value, "nobody") {
				t.Errorf("%s tells the text: %v", step[0], span.Attributes)
			}
		}
	}
	s.expect("POST", s.api+"/v1/embeddings", `{"model":"m","input":"a"}`, 200, "embedding")
	s.await("the query's span", func() bool { _, ok := spans.Find("task embed:query"); return ok })
	query, _ := spans.Find("task embed:query")
	if call, _ := spans.Find("POST /v1/embeddings"); query.Trace != call.Trace || query.Parent != call.ID || call.Parent != "" {
		t.Errorf("the query %+v is not within %+v", query, call)
	}
}
