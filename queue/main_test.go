package queue

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// TestAsynqVersion fails when asynq is raised: its message, key and script formats are private, so whoever
// raises it must compare them with message.go, enqueue.lua and hook.go.
func TestAsynqVersion(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(testkit.Root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/hibiken/asynq " + asynqVersion + "\n"; !strings.Contains(
		strings.ReplaceAll(string(mod), " // indirect", ""), want) {
		t.Errorf("go.mod does not name %q", strings.TrimSpace(want))
	}
}

// task returns a task of the model "m" with the id "t<n>".
func task(lane tasks.Lane, n int) tasks.Task {
	return tasks.Task{
		ID:      fmt.Sprintf("t%d", n),
		Kind:    tasks.EmbedDocument,
		Model:   "m",
		Lane:    lane,
		Payload: fmt.Appendf(nil, `{"n":%d}`, n),
		Timeout: time.Minute,
	}
}

func manyTasks(lane tasks.Lane, n int) []tasks.Task {
	list := make([]tasks.Task, n)
	for i := range list {
		list[i] = task(lane, i)
	}
	return list
}

// connOf returns a Conn for code that makes its own client of the server that rdb talks to.
func connOf(rdb *redis.Client) Conn {
	o := rdb.Options()
	return ConnOf(redis.UniversalOptions{Addrs: []string{o.Addr}})
}

// miniConn is connOf for a miniredis in a bubble.
func miniConn(m *miniredis.Miniredis) Conn {
	o := testkit.MiniOptions(m)
	return ConnOf(redis.UniversalOptions{
		Addrs:                    []string{o.Addr},
		Dialer:                   o.Dialer,
		DisableIdentity:          true,
		MaintNotificationsConfig: o.MaintNotificationsConfig,
	})
}

// A recorder is a handler that counts its calls and then does what do says.
type recorder struct {
	do func(ctx context.Context, t tasks.Task) error // nil does nothing

	mu      sync.Mutex
	calls   map[string]int // by task id
	tasks   []tasks.Task
	inside  int
	highest int // most calls inside at once
}

func newRecorder(do func(context.Context, tasks.Task) error) *recorder {
	return &recorder{do: do, calls: map[string]int{}}
}

func (r *recorder) Handle(ctx context.Context, t tasks.Task) error {
	r.mu.Lock()
	r.calls[t.ID]++
	r.tasks = append(r.tasks, t)
	r.inside++
	r.highest = max(r.highest, r.inside)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.inside--
	}()
	if r.do == nil {
		return nil
	}
	return r.do(ctx, t)
}

// runs returns how often the handler was called, in all and for one id.
func (r *recorder) runs(id string) (all, one int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tasks), r.calls[id]
}

// most returns how many calls were inside at once, at the worst moment.
func (r *recorder) most() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.highest
}

// enqueue hands tasks to the queue and fails the test unless all are accepted.
func enqueue(t *testing.T, c *Client, list ...tasks.Task) []Receipt {
	t.Helper()
	receipts, err := c.Enqueue(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		if !r.State.Accepted() {
			t.Fatalf("task %s: %s, %v", r.ID, r.State, r.Err)
		}
	}
	return receipts
}

// serve starts a server of the lanes, which shuts down with the test.
func serve(t *testing.T, conn Conn, h Handler, opts *ServerOptions, lanes ...tasks.Lane) *Server {
	t.Helper()
	if opts == nil {
		opts = &ServerOptions{}
	}
	if opts.Logger == nil {
		opts.Logger = testkit.Logger(t)
	}
	s, err := NewServer(conn, "m", lanes, h, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return s
}
