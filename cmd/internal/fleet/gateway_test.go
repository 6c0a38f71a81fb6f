package fleet

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// open returns a fleet whose alias "m" has a worker in a state; "" is none.
func open(t *testing.T, state string) *Fleet {
	t.Helper()
	f := New(testkit.RedisServer(t).Client())
	t.Cleanup(func() { _ = f.Close() })
	if state != "" {
		put(t, f, state)
	}
	return f
}

func put(t *testing.T, f *Fleet, state string) {
	t.Helper()
	if err := f.Workers.Put(t.Context(), registry.Worker{ID: "w", Model: "m", State: state}); err != nil {
		t.Fatal(err)
	}
}

func queries(t *testing.T, n int) []tasks.Task {
	t.Helper()
	list := make([]tasks.Task, n)
	for i := range list {
		q, err := tasks.NewQuery("m", "a text", nil)
		if err != nil {
			t.Fatal(err)
		}
		list[i] = q
	}
	return list
}

// waiting returns how many queries wait.
func waiting(t *testing.T, f *Fleet) int64 {
	t.Helper()
	status, err := f.Lanes.Status(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status {
		if s.Lane == tasks.Query {
			return s.Pending
		}
	}
	return 0
}

func TestQueriesNeedAWorker(t *testing.T) {
	t.Parallel()
	f := open(t, "")
	gate := f.Gateway(slog.New(slog.DiscardHandler), []gateway.Model{{Alias: "m"}})
	for _, tt := range []struct {
		state  string
		served bool
	}{
		{"", false}, {registry.StateFailed, false}, {registry.StateLoading, true}, {registry.StateReady, true},
	} {
		if tt.state != "" {
			put(t, f, tt.state)
		}
		f.served.models = nil // as a second later
		begun := time.Now()
		_, err := gate.Queue.Enqueue(t.Context(), queries(t, 3))
		if (err == nil) != tt.served {
			t.Errorf("state %q: %v", tt.state, err)
		}
		var overloaded interface{ Overloaded() bool }
		if err != nil && (!errors.Is(err, search.ErrNoAnswer) || !errors.As(err, &overloaded) || time.Since(begun) > 10*time.Second) {
			t.Errorf("state %q: %v after %v", tt.state, err, time.Since(begun))
		}
	}
	if n := waiting(t, f); n != 6 {
		t.Errorf("%d queries wait, want 6", n)
	}
	// Documents wait for a worker to come.
	doc, err := tasks.New("n", tasks.Live, vector.Document{ID: "d", Text: "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.Gateway(slog.New(slog.DiscardHandler), []gateway.Model{{Alias: "n"}}).Queue.Enqueue(t.Context(), []tasks.Task{doc}); err != nil || got[0].State != "enqueued" || got[0].Err != nil {
		t.Errorf("a document: %+v, %v", got, err)
	}
}

func TestRequestIsWhole(t *testing.T) {
	t.Parallel()
	f := open(t, registry.StateReady)
	f.Limit(queue.Limits{Queries: 3000})
	gate := f.Gateway(slog.New(slog.DiscardHandler), []gateway.Model{{Alias: "m"}})
	if got, err := gate.Queue.Enqueue(t.Context(), queries(t, 2048)); err != nil || len(got) != 2048 || got[2047].State != "enqueued" {
		t.Fatalf("%d receipts, %v", len(got), err)
	}
	var full interface{ RetryAfter() time.Duration }
	got, err := gate.Queue.Enqueue(t.Context(), queries(t, 2048))
	if !errors.As(err, &full) || full.RetryAfter() <= 0 || got != nil || waiting(t, f) != 2048 {
		t.Errorf("%d receipts, %v; %d wait", len(got), err, waiting(t, f))
	}
	var permanent interface{ Permanent() bool }
	if _, err := gate.Queue.Enqueue(t.Context(), queries(t, 3001)); !errors.As(err, &permanent) {
		t.Errorf("more than may ever wait: %v", err)
	}
	if n := len(f.asked.open); n != 2048 {
		t.Errorf("%d are remembered", n)
	}
}

func TestCallerThatHangsUp(t *testing.T) {
	t.Parallel()
	f := open(t, registry.StateReady)
	gate := f.Gateway(slog.New(slog.DiscardHandler), []gateway.Model{{Alias: "m"}})
	ctx, hangUp := context.WithCancel(t.Context())
	mine, others := queries(t, 500), queries(t, 5)
	for _, list := range [][]tasks.Task{mine, others} {
		asking := ctx
		if len(list) == 5 {
			asking = t.Context()
		}
		if _, err := gate.Queue.Enqueue(asking, list); err != nil {
			t.Fatal(err)
		}
	}
	// One is answered and fetched; then its task is gone, too.
	if err := f.Store.Answer(t.Context(), mine[0].ID, vector.Embedding{Vector: vector.Vector{1}, Space: "s", Tokens: 1}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Answers.Await(ctx, mine[0].ID); err != nil {
		t.Fatal(err)
	}
	hangUp()
	// The one that was fetched is not touched: here nobody has taken it out of the lane.
	for deadline := time.Now().Add(20 * time.Second); waiting(t, f) != 6; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, want 6", waiting(t, f))
		}
	}
	if _, err := gate.Queue.Enqueue(ctx, queries(t, 3)); err == nil {
		t.Error("a caller that is gone was served")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if n := len(f.asked.open); n != 5 {
		t.Errorf("%d are remembered, want those of the caller that is there", n)
	}
}

func TestForgetNeedsNoWorkers(t *testing.T) {
	t.Parallel()
	f := open(t, registry.StateReady)
	if _, err := f.Gateway(slog.New(slog.DiscardHandler), []gateway.Model{{Alias: "m"}}).Queue.Enqueue(t.Context(), queries(t, 2)); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Forget(t.Context(), "m"); !errors.Is(err, queue.ErrInUse) || n != 0 {
		t.Errorf("while it is served: %d, %v", n, err)
	}
	put(t, f, registry.StateFailed)
	if n, err := f.Forget(t.Context(), "m"); err != nil || n < 3 || waiting(t, f) != 0 {
		t.Errorf("%d keys, %v", n, err)
	}
}
