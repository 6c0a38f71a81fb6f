package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// handed is a handler that hands its context over and waits until it may end.
type handed struct {
	contexts chan context.Context
	end      chan struct{}
}

func (h handed) Handle(ctx context.Context, _ tasks.Task) error {
	h.contexts <- ctx
	<-h.end
	return nil
}

// taskContexts returns the contexts of n tasks that are inside a handler until the end of the test.
func taskContexts(t *testing.T, server *testkit.Server, n int) []context.Context {
	t.Helper()
	conn, err := queue.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	list := make([]tasks.Task, n)
	for i := range list {
		if list[i], err = tasks.New("m", tasks.Live, vector.Document{ID: strings.Repeat("x", i+1), Text: "a text"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := queue.NewClient(server.Client(), nil).Enqueue(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	h := handed{make(chan context.Context, n), make(chan struct{})}
	s, err := queue.NewServer(conn, "m", []tasks.Lane{tasks.Live}, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(h.end)
		s.Stop()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	var contexts []context.Context
	for range n {
		contexts = append(contexts, <-h.contexts)
	}
	return contexts
}

func TestCallRecord(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	rdb := server.Client()
	r := &callRecord{log: testkit.Logger(t), calls: queue.NewCalls(rdb, "w1")}
	named := func() []string {
		calls, err := rdb.HVals(t.Context(), "embedfleet:calls:w1").Result()
		if err != nil {
			t.Fatal(err)
		}
		return calls
	}
	contexts := taskContexts(t, server, 3)
	first := r.begin(append(contexts[:2:2], t.Context())) // the last belongs to no task, as a warm-up's does
	second := r.begin(contexts[2:])
	if calls := named(); len(calls) != 2 || strings.Count(strings.Join(calls, "\n"), "embed:m:live/") != 3 {
		t.Errorf("inside: %q, want two calls with the three tasks", calls)
	}
	first()
	second()
	r.wait()
	if calls := named(); len(calls) > 0 {
		t.Errorf("inside after the calls: %q", calls)
	}
	commands := func() string {
		info, err := rdb.Info(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(info) {
			if strings.HasPrefix(line, "cmdstat_hset:") {
				return line
			}
		}
		return ""
	}
	before := commands()
	r.begin([]context.Context{t.Context()})()
	r.wait()
	if after := commands(); len(named()) > 0 || after != before {
		t.Errorf("a call without tasks was written down: %q, then %q", before, after)
	}
}

// TestCallRecordWithoutRedis checks that batches go on without a record, and the log is spared.
func TestCallRecordWithoutRedis(t *testing.T) {
	t.Parallel()
	contexts := taskContexts(t, testkit.RedisServer(t), 1)
	gone := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	t.Cleanup(func() { _ = gone.Close() })
	var log bytes.Buffer
	r := &callRecord{log: slog.New(slog.NewTextHandler(&log, nil)), calls: queue.NewCalls(gone, "w1")}
	for range 5 {
		r.begin(contexts)()
	}
	r.wait()
	if n := strings.Count(log.String(), "they go unnamed"); n != 1 || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("%d warnings, want one:\n%s", n, &log)
	}
}
