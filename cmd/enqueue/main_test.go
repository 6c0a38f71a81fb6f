package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const space = "s1"

// errBad is what the fake model says of a text with "indigestible" in it.
var errBad = tasks.AsPermanent(errors.New("the model chokes on it"))

// startWorker serves all lanes of "quote" with a fake model until the test ends.
func startWorker(t *testing.T, redis *testkit.Server) {
	t.Helper()
	docs := storeredis.New(redis.Client())
	if err := docs.ClaimSpace(t.Context(), "quote", space, store.Keep); err != nil {
		t.Fatal(err)
	}
	handler := tasks.NewHandler(testkit.Logger(t), tasks.Parts{
		Model: "quote", Space: space, Store: docs, Answers: docs,
		Embedder: &embedtest.Embedder{Errors: map[string]error{"indigestible": errBad}},
	}, nil)
	server, err := consumer.New(redis.Client(), "quote", []tasks.Lane{tasks.Query, tasks.Live, tasks.Backfill}, handler, nil)
	if err != nil {
		t.Fatal(err)
	}
	announce(t, redis)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// announce has a worker of "quote" in the registry until the test ends.
func announce(t *testing.T, redis *testkit.Server) {
	t.Helper()
	workers, entry := registry.NewWorkers(redis.Client()), registry.Worker{ID: "w1", Model: "quote", State: registry.StateReady}
	if err := workers.Put(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var announcing sync.WaitGroup
	announcing.Go(func() { _ = workers.Announce(ctx, testkit.Logger(t), func() registry.Worker { return entry }, nil) })
	t.Cleanup(func() { cancel(); announcing.Wait() })
}

// call runs the command against redis.
func call(t *testing.T, redis *testkit.Server, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	env := map[string]string{}
	if redis != nil {
		env["REDIS_URL"] = redis.URL()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status = run(ctx, args, streams{
		in: strings.NewReader(stdin), out: &out, err: &err,
		getenv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
	})
	return status, out.String(), err.String()
}

func expect(t *testing.T, status, want int, out string, parts ...string) {
	t.Helper()
	if status != want {
		t.Errorf("status %d, want %d:\n%s", status, want, out)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			t.Errorf("%q is not in:\n%s", part, out)
		}
	}
}

func TestFromTextToSearch(t *testing.T) {
	redis := testkit.RedisServer(t)
	startWorker(t, redis)

	status, out, progress := call(t, redis, "", "--model", "quote", "--wait", "one text", "another")
	expect(t, status, 0, out, "2 read, 2 enqueued, 0 known already, 0 bad; 2 stored, 0 failed")
	expect(t, status, 0, progress, "embedding: 2 of 2 (100 %)")

	// The only model needs no name from here on.
	csv := filepath.Join(t.TempDir(), "docs.csv")
	if err := os.WriteFile(csv, []byte("id,text,source,stock_codes\nn1,삼성전자 공시,dart,005930\n,,news,\nn2,bank rates,news,\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, problems := call(t, redis, "", "--file", csv, "--lane", "backfill", "--wait")
	expect(t, status, 1, out, "3 read, 2 enqueued, 0 known already, 1 bad; 2 stored, 0 failed")
	expect(t, status, 1, problems, csv+":3: ", "text")

	status, out, _ = call(t, redis, "", "search", "삼성전자 공시", "-k", "1", "--filter", "source=dart")
	expect(t, status, 0, out, "SCORE", "1.000", "삼성전자 공시", "dart", "n1")
	status, out, _ = call(t, redis, "", "search", "--json", "bank rates", "-k", "2")
	expect(t, status, 0, out, `"id":"n2"`, `"documents":4`)
	status, out, _ = call(t, redis, "", "search", "x", "--filter", "source=nobody")
	expect(t, status, 0, out, "nothing found")

	status, out, _ = call(t, redis, "", "get", "n1")
	expect(t, status, 0, out, "삼성전자 공시", "005930", "chunk 0", "dimensions")
	status, out, _ = call(t, redis, "", "get", "n1", "--json", "--vectors")
	var doc struct {
		Document struct{ ID string }
		Chunks   []struct{ Vector []float32 }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || status != 0 || doc.Document.ID != "n1" || len(doc.Chunks) != 1 || len(doc.Chunks[0].Vector) == 0 {
		t.Errorf("get --json: status %d, %v: %.300s", status, err, out)
	}
	status, _, problems = call(t, redis, "", "get", "nobody")
	expect(t, status, 1, problems, `no document "nobody" of model "quote"`)

	status, out, _ = call(t, redis, "", "status")
	expect(t, status, 0, out, "LANE", "live", "quote  ready", "current")
	status, out, _ = call(t, redis, "", "status", "--json")
	var fleet struct {
		Lanes  []struct{ Pending, Active, Dead int }
		Spaces []struct{ Documents int }
	}
	if err := json.Unmarshal([]byte(out), &fleet); err != nil || status != 0 || len(fleet.Lanes) != 4 || len(fleet.Spaces) != 1 || fleet.Spaces[0].Documents != 4 {
		t.Errorf("status --json: %d, %v: %s", status, err, out)
	}

	status, out, _ = call(t, redis, "", "delete", "n1", "nobody")
	expect(t, status, 0, out, "n1 deleted", "nobody was not stored")
	status, out, _ = call(t, redis, "", "search", "삼성전자 공시", "--filter", "id=n1")
	expect(t, status, 0, out, "nothing found")
	status, _, problems = call(t, redis, "", "search", "x", "--filter", "knid=filing")
	expect(t, status, 1, problems, `no document has a field "knid"`)
}

func TestBadLinesCostOnlyThemselves(t *testing.T) {
	redis := testkit.RedisServer(t)
	startWorker(t, redis)
	lines := []string{
		`{"id":"1","text":"fine"}`,
		`{"id":"2","text":""}`,
		`{"id":"3","text":"a\u0000b"}`,
		"{\"id\":\"4\",\"text\":\"\xff\"}",
		`{"id":"5","text":"` + strings.Repeat("x", 2<<20) + `"}`,
		`{"id":"6","text":"` + "\u1112\u1161\u11ab" + `"}`,
		`{"id":"7","text":"` + "\u0301" + `"}`,
		`{"id":"8","text":"` + strings.Repeat("가", 30_000) + `"}`,
		`{"id":"9","text":"indigestible"}`,
		`not JSON`,
		`{"id":"10","text":"fine too"}`,
	}
	status, out, problems := call(t, redis, strings.Join(lines, "\n"), "--model", "quote", "--wait")
	expect(t, status, 1, out, "11 read, 6 enqueued, 0 known already, 5 bad; 5 stored, 1 failed")
	expect(t, status, 1, problems, "stdin:2: text", "stdin:3: text", "stdin:4: byte", "stdin:5: text", "1048576", "stdin:10: reading JSON", "the model chokes on it")
	if n := strings.Count(problems, "stdin:"); n != 5 {
		t.Errorf("%d lines are reported, want 5:\n%s", n, problems)
	}

	status, out, _ = call(t, redis, "", "get", "6", "--json")
	expect(t, status, 0, out, `"text":"한"`) // composed, see tasks
	status, out, _ = call(t, redis, strings.Join(lines, "\n"), "--model", "quote", "--json")
	expect(t, status, 1, out, `{"code":"invalid_empty","error":"text: `, `"summary":{"read":11,`)
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestTheSameTextIsOneTask(t *testing.T) {
	redis := testkit.RedisServer(t)
	status, out, _ := call(t, redis, "a\nb\na\n", "--model", "quote")
	expect(t, status, 0, out, "3 read, 2 enqueued, 1 known already, 0 bad")
	status, out, _ = call(t, redis, "a\n", "--model", "quote")
	expect(t, status, 0, out, "1 read, 0 enqueued, 1 known already")
}

func TestBulk(t *testing.T) {
	redis := testkit.RedisServer(t)
	var in strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&in, "{\"id\":\"%d\",\"text\":\"text %d\"}\n", i, i)
	}
	status, out, _ := call(t, redis, in.String(), "--model", "quote")
	expect(t, status, 0, out, "2500 read, 2500 enqueued")
	startWorker(t, redis)
	status, out, _ = call(t, redis, in.String(), "--model", "quote", "--wait")
	expect(t, status, 0, out, "2500 stored, 0 failed")
}

func TestUsage(t *testing.T) {
	redis := testkit.RedisServer(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--model", "Big Model", "x"}, "model"},
		{[]string{"--lane", "fast", "x"}, `"fast"`},
		{[]string{"--format", "xml", "x"}, `"xml"`},
		{[]string{"--file", "f", "x"}, "one of them"},
		{[]string{"--task-timeout", "2h", "x"}, "between"},
		{[]string{"--redis-url", "http://:secret@h", "x"}, "--redis-url"},
		{[]string{"search", "two", "texts"}, "quote a text"},
		{[]string{"search", "x", "-k", "0"}, "-k"},
		{[]string{"search", "x", "--filter", "source"}, "--filter"},
		{[]string{"get"}, "one document id"},
		{[]string{"delete"}, "takes document ids"},
		{[]string{"status", "now"}, "no argument"},
	} {
		status, _, err := call(t, redis, "", tt.args...)
		if status != boot.StatusUsage || !strings.Contains(err, tt.want) || strings.Contains(err, "secret") {
			t.Errorf("%v: status %d, %q, want %q", tt.args, status, err, tt.want)
		}
	}
	status, _, err := call(t, redis, "x\n")
	expect(t, status, 1, err, "name it by --model")
	status, _, err = call(t, redis, "", "--model", "quote", "--file", "/does/not/exist")
	expect(t, status, 1, err, "opening /does/not/exist: no such file")
	status, _, err = call(t, redis, "", "--model", "quote", "search", "x")
	expect(t, status, 1, err, `no worker of model "quote" has registered`)
	announce(t, redis)
	status, _, err = call(t, redis, "", "--model", "quote", "search", "x", "--timeout", "1s")
	expect(t, status, 1, err, "no worker answered within 1s")
	redis.Kill()
	status, _, err = call(t, redis, "x\n", "--model", "quote")
	expect(t, status, 1, err, "reaching redis://")
}
