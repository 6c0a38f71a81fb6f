package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
)

// roleVariable makes a process of this test's own program a worker with a fake model.
const roleVariable = "EMBEDFLEET_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "worker":
		if err := workAlone(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		testkit.VerifyMain(m)
	}
}

// workAlone is a worker of model m until it is told to stop. A text takes it a millisecond.
func workAlone(redisURL string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conn, err := queue.Parse(redisURL)
	if err != nil {
		return err
	}
	rdb := conn.Client()
	defer rdb.Close()
	docs := storeredis.New(rdb)
	handler := tasks.NewHandler(slog.New(slog.DiscardHandler), tasks.Parts{Model: "m", Space: "s", Embedder: &embedtest.Embedder{}, Store: docs, Answers: docs}, nil)
	server, err := consumer.New(rdb, "m", []tasks.Lane{tasks.Query, tasks.Live, tasks.Backfill}, handler, nil)
	if err != nil {
		return err
	}
	workers, entry := registry.NewWorkers(rdb), registry.Worker{ID: rand.Text(), Model: "m", State: registry.StateReady}
	if err := workers.Put(ctx, entry); err != nil {
		return err
	}
	keep := upkeep.New(rdb, nil)
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { _ = keep.Run(ctx) })
	group.Go(func() {
		_ = workers.Announce(ctx, slog.New(slog.DiscardHandler), func() registry.Worker { return entry }, nil)
	})
	return server.Run(ctx)
}

// A process is a gateway, or this test's own program as a worker.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	out     buffer
	program string
	args    []string
}

func spawn(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, program: program, args: args}
	t.Cleanup(p.kill)
	p.start()
	return p
}

func (p *process) start() {
	p.t.Helper()
	p.out = buffer{}
	p.cmd = exec.CommandContext(context.WithoutCancel(p.t.Context()), p.program, p.args...)
	p.cmd.Env = append(os.Environ(), roleVariable+"=worker") // a gateway does not look at it
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill is kill -9.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// address waits for the gateway's.
func (p *process) address() string {
	p.t.Helper()
	line := regexp.MustCompile(`msg=serving .*address=(\S+) probes`)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if m := line.FindStringSubmatch(p.out.String()); m != nil {
			return m[1]
		}
	}
	p.t.Fatalf("the gateway does not serve\n%s", p.out.String())
	return ""
}

// peak is the most memory that the process ever had, in bytes.
func (p *process) peak() int64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Skip("there is no /proc here:", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return kb << 10
		}
	}
	p.t.Fatal("no VmHWM in /proc")
	return 0
}

// build makes the gateway as it is shipped: the race detector, with which this test may run, takes memory of its own.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "gateway")
	c := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, ".")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// startProcess starts a gateway of model m as a process of its own.
func startProcess(t *testing.T, program, redisURL string, args ...string) *process {
	t.Helper()
	return spawn(t, program, append([]string{"--redis-url", redisURL, "--model", "m", "--http", "127.0.0.1:0", "--probes", "127.0.0.1:0"}, args...)...)
}

// TestMemoryOfLargeBodies: a body of 64 MB of any shape costs at most 400 MB, and is answered.
//
//nolint:tparallel // each body has the machine's memory for itself
func TestMemoryOfLargeBodies(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	program, rdb := build(t), testkit.RedisServer(t)
	spawn(t, os.Args[0], rdb.URL())
	fill := func(before, unit, after string) string {
		return before + strings.Repeat(unit, (size-len(before)-len(after))/len(unit)) + after
	}
	word := strings.Repeat("가나다 ", 2400)
	for _, tt := range []struct{ name, path, body string }{
		{"empty objects", "/v1/documents", fill(`{"documents":[{}`, `,{}`, `]}`)},
		{"empty texts", "/v1/embeddings", fill(`{"input":[""`, `,""`, `]}`)},
		{"numbers", "/v1/embeddings", fill(`{"input":[1`, `,1`, `]}`)},
		{"lists of ids", "/v1/embeddings", fill(`{"input":[[1]`, `,[1]`, `]}`)},
		{"one text", "/v1/embeddings", fill(`{"input":"`, `a`, `"}`)},
		{"one escaped text", "/v1/embeddings", fill(`{"input":["`, `\u0061`, `"]}`)},
		{"depth", "/v1/embeddings", fill(`{"input":`, `[`, ``)},
		{"depth of objects", "/v1/documents", fill(`{"documents":[`, `{"a":`, ``)},
		{"fields", "/v1/documents", fill(`{"documents":[{"id":"a","text":"t","fields":{"k":"v"`, `,"k":"v"`, `}}]}`)},
		{"fields of the body", "/v1/embeddings", fill(`{"input":"a"`, `,"user":"a"`, `}`)},
		{"a name", "/v1/embeddings", fill(`{"`, `a`, `":1}`)},
		{"white space", "/v1/embeddings", fill(`{"input":"a"`, ` `, `}`)},
		{"texts", "/v1/embeddings", `{"input":["` + strings.Repeat(word+`","`, 2047) + word + `"]}`},
		{"tei", "/embed", `{"truncate":true,"inputs":["` + strings.Repeat(word+`","`, 2047) + word + `"]}`},
		{"documents", "/v1/documents", `{"documents":[{"id":"a","text":"` + strings.Repeat(word+`"},{"id":"a","text":"`, 2040) + word + `"}]}`},
		{"ids that stand for much", "/v1/embeddings", `{"input":[[` + strings.Repeat(strings.Repeat("99000,", 8000)+"99000],[", 1000) + `1]]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startProcess(t, program, rdb.URL())
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Minute}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.address()+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(r)
			status := 0
			if err == nil { // a body that is refused early may find the connection closed
				status = resp.StatusCode
				_ = resp.Body.Close()
			}
			peak := p.peak()
			t.Logf("%d, peak %d MB, %d MB sent", status, peak>>20, len(tt.body)>>20)
			if peak > 400<<20 {
				t.Errorf("the gateway took %d MB", peak>>20)
			}
			if status >= 500 && status != 503 {
				t.Errorf("status %d\n%s", status, p.out.String())
			}
			p.kill()
		})
	}
}

// TestSlowCallers: callers that write slowly and callers that do not read take nothing from others, and no memory.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	program, rdb := build(t), testkit.RedisServer(t)
	spawn(t, os.Args[0], rdb.URL())
	p := startProcess(t, program, rdb.URL(), "--max-requests", "64")
	address := p.address()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	post := func(path, body string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	// Some megabytes of vectors.
	long := `{"wait":60,"documents":[{"id":"long","text":"` + strings.Repeat(`a paragraph\n\n`, 2000) + `"}]}`
	if got := post("/v1/documents", long); got != 200 {
		t.Fatal(got, p.out.String())
	}
	before := p.peak()
	for i := range 200 + 256 {
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		request := "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000000\r\n\r\n{"
		if i >= 200 {
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			request = "GET /v1/documents/long?vectors=true HTTP/1.1\r\nHost: localhost\r\n\r\n"
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		if got := post("/v1/embeddings", `{"input":["a text","another"]}`); got != 200 {
			t.Errorf("another caller is answered %d", got)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := post("/v1/embeddings", `{"input":["`+strings.Repeat(`word ","`, 500)+`"x"]}`); got != 400 {
		t.Errorf("another caller is answered %d, want 400", got)
	}
	peak := p.peak()
	t.Logf("%d MB before, %d MB after", before>>20, peak>>20)
	if peak > 400<<20 {
		t.Errorf("the gateway took %d MB", peak>>20)
	}
}

// TestBatchSurvivesKills: a batch ends whole, each line answered once, whatever is killed -9 in the middle.
func TestBatchSurvivesKills(t *testing.T) {
	t.Parallel()
	n := 5000
	if testing.Short() {
		n = 1000
	}
	program, rdb := build(t), testkit.RedisServer(t, "--appendonly", "yes")
	worker := spawn(t, os.Args[0], rdb.URL())
	gate := startProcess(t, program, rdb.URL())
	address := gate.address()
	call := func(method, path, kind string, body io.Reader, v any) error {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, body)
		if err != nil {
			return err
		}
		if kind != "" {
			r.Header.Set("Content-Type", kind)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}).Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, b)
		}
		if err == nil {
			switch v := v.(type) {
			case *[]byte:
				*v = b
			default:
				err = json.Unmarshal(b, v)
			}
		}
		return err
	}
	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	_ = parts.WriteField("purpose", "batch")
	file, err := parts.CreateFormFile("file", "in.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i := range n {
		input := fmt.Sprintf("text %d", i)
		if i%100 == 7 {
			input = " " // refused, by itself
			bad++
		}
		fmt.Fprintf(file, `{"custom_id":"line-%d","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":%q,"encoding_format":"base64"}}`+"\n", i, input)
	}
	_ = parts.Close()
	var made struct {
		ID, Status string
		Output     string                                 `json:"output_file_id"`
		Errors     string                                 `json:"error_file_id"`
		Counts     struct{ Total, Completed, Failed int } `json:"request_counts"`
	}
	if err := call("POST", "/v1/files", parts.FormDataContentType(), &form, &made); err != nil {
		t.Fatal(err)
	}
	if err := call("POST", "/v1/batches", "application/json", strings.NewReader(`{"input_file_id":"`+made.ID+`","endpoint":"/v1/embeddings","completion_window":"24h"}`), &made); err != nil {
		t.Fatal(err)
	}
	batch := made.ID
	look := func() (done int) {
		if err := call("GET", "/v1/batches/"+batch, "", nil, &made); err != nil {
			return -1
		}
		return made.Counts.Completed + made.Counts.Failed
	}
	reach := func(part int) {
		t.Helper()
		for deadline := time.Now().Add(4 * time.Minute); look() < part; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the batch stands still at %+v\n%s", made, gate.out.String())
			}
		}
	}
	reach(n / 10)
	gate.kill()
	gate.start()
	address = gate.address()
	reach(n / 4)
	worker.kill()
	worker.start()
	reach(n / 3)
	rdb.Kill()
	rdb.Start()
	reach(n / 2)
	gate.kill()
	worker.kill()
	rdb.Kill()
	rdb.Start()
	worker.start()
	gate.start()
	address = gate.address()
	reach(n)
	for deadline := time.Now().Add(time.Minute); made.Status != "completed"; time.Sleep(50 * time.Millisecond) {
		if look(); time.Now().After(deadline) {
			t.Fatalf("%+v", made)
		}
	}
	if made.Counts.Total != n || made.Counts.Failed != bad || made.Counts.Completed != n-bad {
		t.Errorf("%+v, want %d lines of which %d are refused", made, n, bad)
	}
	var answers, failures []byte
	if err := errors.Join(call("GET", "/v1/files/"+made.Output+"/content", "", nil, &answers), call("GET", "/v1/files/"+made.Errors+"/content", "", nil, &failures)); err != nil {
		t.Fatal(err)
	}
	onceEach(t, n, map[int][]byte{200: answers, 400: failures})
}

// onceEach checks that each of n lines is answered once, with the status of its file.
func onceEach(t *testing.T, n int, files map[int][]byte) {
	t.Helper()
	seen := map[string]int{}
	for status, content := range files {
		for line := range bytes.Lines(content) {
			var l struct {
				CustomID string `json:"custom_id"`
				Response struct {
					Status int `json:"status_code"`
					Body   struct {
						Data []struct{ Embedding string }
					}
				}
			}
			if err := json.Unmarshal(line, &l); err != nil || l.Response.Status != status || status == 200 && (len(l.Response.Body.Data) != 1 || l.Response.Body.Data[0].Embedding == "") {
				t.Fatalf("%v: %.300s", err, line)
			}
			seen[l.CustomID]++
		}
	}
	for i := range n {
		if got := seen[fmt.Sprintf("line-%d", i)]; got != 1 {
			t.Errorf("line %d was answered %d times", i, got)
		}
	}
}
