package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/samples"
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
	if code, body := get(t, base+"/v1/status"); code != http.StatusOK || !strings.Contains(body, `"state":"ready"`) {
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
