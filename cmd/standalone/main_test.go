package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/samples"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

var workerBinary string

// TestMain builds the worker once: these tests run the program as a user does, child processes included.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "standalone-test-")
	if err == nil {
		workerBinary = filepath.Join(dir, "worker")
		build := exec.Command("go", "build", "-o", workerBinary, "../worker")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	status := 1
	if err == nil {
		status = m.Run()
	} else {
		_, _ = os.Stderr.WriteString("building the worker: " + err.Error() + "\n")
	}
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// A screen is an output that can be read while it is written to.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A show is one run of the program.
type show struct {
	t        *testing.T
	redis    string // its address, of those that launch started
	out, err screen
	stop     context.CancelFunc
	status   chan int
}

func start(t *testing.T, args ...string) *show {
	t.Helper()
	t.Setenv("ONNXRUNTIME_LIB", testkit.ONNXRuntime(t))
	ctx, stop := context.WithCancel(t.Context())
	s := &show{t: t, stop: stop, status: make(chan int, 1)}
	args = append([]string{"--worker-binary", workerBinary}, args...)
	getenv := func(k string) (string, bool) {
		if k == "REDIS_URL" || k == "MODEL" || k == "ONCE" || strings.HasPrefix(k, "EMBEDFLEET_") && k != "EMBEDFLEET_CACHE" {
			return "", false // of whoever runs the tests
		}
		return os.LookupEnv(k)
	}
	go func() { s.status <- run(ctx, args, streams{&s.out, &s.err, getenv}) }()
	t.Cleanup(stop)
	return s
}

func (s *show) end() int {
	s.t.Helper()
	select {
	case status := <-s.status:
		return status
	case <-time.After(3 * time.Minute):
		s.t.Fatalf("still running:\n%s%s", s.out.String(), s.err.String())
		return -1
	}
}

// see waits until the screen shows a match and returns its first group.
func (s *show) see(pattern string) string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if m := re.FindStringSubmatch(s.out.String()); m != nil {
			return m[len(m)-1]
		}
		if len(s.status) > 0 {
			break
		}
	}
	s.t.Fatalf("no %q on the screen:\n%s%s", pattern, s.out.String(), s.err.String())
	return ""
}

func TestTheSample(t *testing.T) {
	data := t.TempDir()
	s := start(t, "--model", testkit.DefaultModel(t), "--data", data, "--once")
	if status := s.end(); status != 0 {
		t.Fatalf("status %d:\n%s%s", status, s.out.String(), s.err.String())
	}
	out := s.out.String()
	for _, want := range []string{
		"redis ", "worker   ready after", "embedded 823 documents", "texts/s", "tokens/s", "SCORE",
		`search   "a pet asleep on the bed" in 823 documents`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not on the screen:\n%s", want, out)
		}
	}
	if !strings.Contains(s.err.String(), "embedding: 823 of 823 (100 %)") {
		t.Errorf("no progress:\n%s", s.err.String())
	}

	// What the searches are to find is among the hits, by document id.
	docs, err := samples.Documents()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range samples.Queries(samples.En) {
		found := false
		for _, d := range docs {
			found = found || strings.Contains(d.Text, q.Expect) && strings.Contains(out, d.ID)
		}
		if !found {
			t.Errorf("search %q does not show what has %q in it:\n%s", q.Text, q.Expect, out)
		}
	}

	// The second run finds everything stored: Redis's file survived.
	s = start(t, "--model", testkit.DefaultModel(t), "--data", data, "--once")
	if status := s.end(); status != 0 || !strings.Contains(s.out.String(), "all 823 were stored by an earlier run") {
		t.Errorf("second run: status %d:\n%s%s", status, s.out.String(), s.err.String())
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServesUntilStoppedOnBusyPorts(t *testing.T) {
	for _, port := range []string{"6379", "8080"} {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			t.Cleanup(func() { l.Close() }) // else somebody else keeps it busy
		}
	}
	data := t.TempDir()
	s := start(t, "--model", testkit.DefaultModel(t), "--data", data)
	s.see("127.0.0.1:8080 is taken")
	base := s.see(`(http://127\.0\.0\.1:[0-9]+)/v1/search`)
	if strings.HasSuffix(base, ":8080") {
		t.Fatalf("serves on %s, which is taken", base)
	}
	s.see("serving +until")
	code, body := get(t, base+"/v1/search?q=cash+flow&k=1")
	var answer struct{ Hits []struct{ ID string } }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != http.StatusOK || len(answer.Hits) != 1 {
		t.Errorf("search: %d %s", code, body)
	}
	if code, body := get(t, base+"/v1/status"); code != http.StatusOK || !regexp.MustCompile(`"state":"(ready|busy)"`).MatchString(body) {
		t.Errorf("status: %d %s", code, body)
	}

	second := start(t, "--model", testkit.DefaultModel(t), "--data", data)
	if status := second.end(); status != 1 || !strings.Contains(second.err.String(), "in use by another standalone") {
		t.Errorf("a second one on the same data: status %d %s", status, second.err.String())
	}

	s.stop()
	if status := s.end(); status != 0 {
		t.Errorf("stopped with status %d:\n%s", status, s.err.String())
	}
}

// brokenModel returns a copy of the default model with one file replaced.
func brokenModel(t *testing.T, name string, change func([]byte) []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(testkit.DefaultModel(t))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A model that can't be loaded ends the program at once, with one line that names the file and the cause,
// and leaves nothing half-written.
func TestBadModels(t *testing.T) {
	empty := t.TempDir()
	for _, tt := range []struct {
		name  string
		model string
		want  []string
	}{
		{"no such folder", "/does/not/exist", []string{"/does/not/exist"}},
		{"not a model", empty, []string{empty, "config.json"}},
		{"truncated weights", brokenModel(t, "model.safetensors", func(b []byte) []byte { return b[:len(b)/2] }), []string{"model.safetensors", "bytes"}},
		{"one wrong id", brokenModel(t, "tokenizer.json", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"hello":7592`), []byte(`"hello":7593`), 1)
		}), []string{"tokenizer.json", "7593"}},
		{"two ids exchanged", brokenModel(t, "tokenizer.json", func(b []byte) []byte {
			b = bytes.Replace(b, []byte(`"hello":7592`), []byte(`"hello":@`), 1)
			b = bytes.Replace(b, []byte(`"world":2088`), []byte(`"world":7592`), 1)
			return bytes.Replace(b, []byte(`"hello":@`), []byte(`"hello":2088`), 1)
		}), []string{"tokenizer.json", `"world"`, "vocab.txt"}}, // the first of the two
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache := t.TempDir()
			t.Setenv("ONNXRUNTIME_LIB", testkit.ONNXRuntime(t)) // found before the cache moves
			t.Setenv("EMBEDFLEET_CACHE", cache)
			s := start(t, "--model", tt.model, "--data", t.TempDir(), "--once")
			status, problem := s.end(), s.err.String()
			last := strings.Split(strings.TrimSpace(problem), "\n")
			if status != 1 || len(last) != 1 || !strings.HasPrefix(last[len(last)-1], "standalone: worker: ") {
				t.Errorf("status %d:\n%s", status, problem)
			}
			for _, want := range tt.want {
				if !strings.Contains(last[len(last)-1], want) {
					t.Errorf("%q does not name %q", last[len(last)-1], want)
				}
			}
			prepared, err := filepath.Glob(filepath.Join(cache, "prepared", "*"))
			if err != nil || len(prepared) > 0 {
				t.Errorf("the cache holds %v, %v", prepared, err)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "--model"},
		{[]string{"--model", "m", "--workers", "0"}, "--workers"},
		{[]string{"--model", "m", "--alias", "A"}, "--alias"},
		{[]string{"--modell", "m"}, "--modell"},
		{[]string{"now"}, "no argument"},
	} {
		s := start(t, tt.args...)
		if status := s.end(); status != boot.StatusUsage || !strings.Contains(s.err.String(), tt.want) {
			t.Errorf("%v: status %d %q, want %q", tt.args, status, s.err.String(), tt.want)
		}
	}
	s := start(t, "--model", testkit.DefaultModel(t), "--data", t.TempDir(), "--http", "nonsense")
	if status := s.end(); status != 1 || !strings.Contains(s.err.String(), "--http: listening on nonsense") {
		t.Errorf("a bad address: status %d %s", status, s.err.String())
	}
}

// script writes an executable that stands in for the worker.
func script(t *testing.T, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// launch runs the program past its flags, on a Redis of its own, with workers that are restarted at once.
func launch(t *testing.T, set settings) (*show, *fleet.Fleet) {
	t.Helper()
	server := testkit.RedisServer(t)
	conn, err := queue.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Open(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	set.redisURL, set.data, set.wait = server.URL(), t.TempDir(), time.Minute
	set.http = boot.Address{HostPort: "127.0.0.1:0"}
	set.log = boot.Log{Level: "info", Format: "text"}
	set.model, set.alias = cmp.Or(set.model, "any"), cmp.Or(set.alias, "m")
	ctx, stop := context.WithCancel(t.Context())
	s := &show{t: t, redis: server.URL(), stop: stop, status: make(chan int, 1)}
	go func() {
		status := 0
		if err := newApp(set, streams{&s.out, &s.err, os.LookupEnv}).run(ctx); err != nil {
			_, _ = s.err.Write([]byte(err.Error()))
			status = 1
		}
		s.status <- status
	}()
	t.Cleanup(stop)
	return s, f
}

// TestTheCrashRule lets one of two workers die of a fault each time it starts. It is given up after five, and
// shown as failed with the reason; the other one goes on, and so does the program.
func TestTheCrashRule(t *testing.T) {
	worker := script(t, `echo "worker: about to fail, crash $EMBEDFLEET_CRASHES" >&2
case "$*" in *"--name worker-1"*) kill -SEGV $$ ;; esac
trap 'exit 0' TERM; while :; do sleep 0.05; done`)
	s, f := launch(t, settings{worker: worker, workers: 2, pause: 10 * time.Millisecond})
	s.see("worker-1 crashed: signal: segmentation fault.*, crash 1 of 5 in 10m0s, again in 10ms")
	s.see("worker-1: crashes too often: 5 times in 10m0s, last: signal: segmentation fault.*about to fail, crash 4; it is not started again")
	var failed registry.Worker
	s.until("it shows", func() bool {
		list, err := f.Workers.List(t.Context())
		if err != nil || len(list) != 1 { // the other one is a script and tells nobody
			return false
		}
		failed = list[0]
		return true
	})
	if failed.State != registry.StateFailed || failed.Name != "worker-1" || failed.Crashes != 5 || failed.Model != "m" ||
		!strings.Contains(failed.Reason, "about to fail, crash 4") {
		t.Errorf("%+v", failed)
	}
	events, err := f.Events.List(t.Context(), 100)
	if err != nil || len(events) != 6 || events[0].What != registry.EventFailed || events[1].What != registry.EventCrashed ||
		events[5].About != "worker-1" || !strings.Contains(events[5].Text, "segmentation fault") {
		t.Errorf("events %+v, %v", events, err)
	}
	if strings.Contains(s.out.String(), "no worker is left") || len(s.status) > 0 {
		t.Errorf("it does not go on with the other one:\n%s", s.out.String())
	}
	s.stop()
	if status := s.end(); status != 0 {
		t.Errorf("stopped with status %d: %s", status, s.err.String())
	}
}

// TestWhenAllWorkersAreGivenUp checks that the page stays and tasks wait, or that who wants an end gets one.
func TestWhenAllWorkersAreGivenUp(t *testing.T) {
	worker := script(t, `echo "worker: no memory" >&2; kill -SEGV $$`)
	s, f := launch(t, settings{worker: worker, workers: 1, pause: time.Millisecond, sample: true})
	s.see("no worker is left: .*no memory; tasks stay queued until one runs again")
	s.see("serving +until")
	task, err := tasks.New("m", tasks.Live, vector.Document{ID: "d", Text: "a text"}, nil)
	if err == nil {
		_, err = f.Queue.Enqueue(t.Context(), []tasks.Task{task})
	}
	if err != nil {
		t.Fatal(err)
	}
	if lanes, err := f.Lanes.Status(t.Context(), "m"); err != nil || lanes[1].Pending != 1 {
		t.Errorf("%+v, %v", lanes, err)
	}
	s.stop()
	if status := s.end(); status != 0 {
		t.Errorf("stopped with status %d: %s", status, s.err.String())
	}

	s, _ = launch(t, settings{worker: worker, workers: 1, pause: time.Millisecond, once: true})
	if status := s.end(); status != 1 || !strings.Contains(s.err.String(), "no worker is left") || !strings.Contains(s.err.String(), "no memory") {
		t.Errorf("status %d: %s", status, s.err.String())
	}
}

// TestADrainedWorkerIsNotStartedAgain uses a worker that ends with 0, as one does that was told to.
func TestADrainedWorkerIsNotStartedAgain(t *testing.T) {
	marks := filepath.Join(t.TempDir(), "marks")
	worker := script(t, `echo x >>`+marks+`; exit 0`)
	s, f := launch(t, settings{worker: worker, workers: 2, pause: time.Millisecond})
	s.see("worker-1 ended in order and is not started again")
	s.see("worker-2 ended in order and is not started again")
	s.see("no worker is left")
	s.stop()
	if status := s.end(); status != 0 {
		t.Errorf("stopped with status %d: %s", status, s.err.String())
	}
	if b, err := os.ReadFile(marks); err != nil || strings.Count(string(b), "x") != 2 {
		t.Errorf("started %q, %v, want each once", b, err)
	}
	if events, err := f.Events.List(t.Context(), 10); err != nil || len(events) > 0 {
		t.Errorf("events %+v, %v", events, err)
	}
}

// TestARedisThatRefuses checks that somebody who waits is told what for, soon.
func TestARedisThatRefuses(t *testing.T) {
	s := start(t, "--model", testkit.DefaultModel(t), "--data", t.TempDir(), "--redis-url", "redis://127.0.0.1:1")
	begun := time.Now()
	s.see("redis://127.0.0.1:1/0 does not answer yet, waiting for at most 1m0s")
	t.Logf("said after %v", time.Since(begun))
	s.see("dial tcp 127.0.0.1:1: connect: connection refused")
	s.stop()
	if status := s.end(); status == 0 {
		t.Errorf("status %d", status)
	}
}

func (s *show) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within a minute: %s\n%s%s", what, s.out.String(), s.err.String())
		}
	}
}

// TestAFaultInNativeCode has one of two real workers write where nothing is, in C, in the middle of its work.
// This process lives, the worker is started again, its tasks run elsewhere or again, and nothing is lost.
func TestAFaultInNativeCode(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and lets one crash; not in -short")
	}
	t.Parallel()
	const documents = 300
	worker := filepath.Join(t.TempDir(), "worker")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "crashtest", "-o", worker, "../worker").CombinedOutput(); err != nil {
		t.Fatalf("building the worker: %v: %s", err, out)
	}
	mark := filepath.Join(t.TempDir(), "crashed")
	s, f := launch(t, settings{
		worker: worker, workers: 2, model: testkit.DefaultModel(t), pause: 10 * time.Millisecond,
		environ: []string{"EMBEDFLEET_SABOTAGE=" + mark, "ONNXRUNTIME_LIB=" + testkit.ONNXRuntime(t)},
	})
	s.until("both serve", func() bool {
		list, err := f.Workers.List(t.Context())
		return err == nil && len(list) == 2 && list[0].Serving() && list[1].Serving()
	})
	list := make([]tasks.Task, documents)
	for i := range list {
		text := fmt.Sprintf("Report %d. %s", i, strings.Repeat("The company announced its results. ", 5+i%10))
		if i == documents/2 {
			text = "write where nothing is"
		}
		var err error
		if list[i], err = tasks.New("m", tasks.Live, vector.Document{ID: fmt.Sprint(i), Text: text}, nil); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	receipts, err := f.Queue.Enqueue(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if failures, err := f.Queue.Wait(waiting, receipts, nil); err != nil || len(failures) > 0 {
		t.Fatalf("%v, %v\n%s", failures, err, s.out.String())
	}
	how := s.see(`worker-[12] crashed: (.*), crash 1 of`)
	stats, err := f.Store.Stats(t.Context(), "m")
	for _, n := range stats {
		if n.Documents != documents {
			t.Errorf("%d documents are stored, %v, want %d", n.Documents, err, documents)
		}
	}
	if len(stats) != 1 || !strings.Contains(how, "signal") || !strings.Contains(how, "SIGSEGV: segmentation violation") {
		t.Errorf("it ended by %q, stored %+v, %v; want a signal", how, stats, err)
	}
	s.until("the page's counts", func() bool {
		list, err := f.Workers.List(t.Context())
		return err == nil && len(list) == 2 && list[0].Crashes+list[1].Crashes == 1 && list[0].Serving() && list[1].Serving()
	})
	t.Logf("%d documents stored %v after they were enqueued; one worker ended by %s", documents, time.Since(begun).Round(time.Second), how)
	s.stop()
	if status := s.end(); status != 0 {
		t.Errorf("stopped with status %d: %s", status, s.err.String())
	}
}
