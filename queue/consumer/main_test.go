package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// task returns a task of the model "m" with the id "t<n>".
func task(lane tasks.Lane, n int) tasks.Task {
	return tasks.Task{
		ID:      fmt.Sprintf("t%d", n),
		Kind:    tasks.EmbedDocument,
		Model:   "m",
		Lane:    lane,
		Payload: fmt.Appendf(nil, `{"n":%d}`, n),
		Timeout: time.Minute,
		Tokens:  10,
	}
}

func manyTasks(lane tasks.Lane, n int) []tasks.Task {
	list := make([]tasks.Task, n)
	for i := range list {
		list[i] = task(lane, i)
	}
	return list
}

// A recorder is a handler that counts the tasks it sees and does what do says with each, all of a batch at the same
// time.
type recorder struct {
	do func(ctx context.Context, t tasks.Task) error // nil does nothing

	mu      sync.Mutex
	calls   map[string]int // by task id
	tasks   []tasks.Task
	batches []int // sizes
	inside  int
	highest int // most tasks inside at once
}

func newRecorder(do func(context.Context, tasks.Task) error) *recorder {
	return &recorder{do: do, calls: map[string]int{}}
}

func (r *recorder) HandleBatch(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
	r.mu.Lock()
	r.batches = append(r.batches, len(items))
	for _, item := range items {
		r.calls[item.Task.ID]++
		r.tasks = append(r.tasks, item.Task)
	}
	r.inside += len(items)
	r.highest = max(r.highest, r.inside)
	r.mu.Unlock()
	done := make(chan tasks.Result, len(items))
	for i, item := range items {
		go func() {
			err := r.one(item)
			r.mu.Lock()
			r.inside--
			r.mu.Unlock()
			done <- tasks.Result{Index: i, Err: err}
		}()
	}
	for range items {
		report([]tasks.Result{<-done})
	}
}

func (r *recorder) one(item tasks.Item) (err error) {
	if r.do == nil {
		return nil
	}
	return r.do(item.Ctx, item.Task)
}

// runs returns how many tasks the handler saw, in all and of one id.
func (r *recorder) runs(id string) (all, one int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tasks), r.calls[id]
}

// most returns how many tasks were inside at once, at the worst moment.
func (r *recorder) most() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.highest
}

// enqueue hands tasks to the queue and fails the test unless all are accepted.
func enqueue(t *testing.T, rdb redis.UniversalClient, opts *queue.ClientOptions, list ...tasks.Task) []queue.Receipt {
	t.Helper()
	receipts, err := queue.NewClient(rdb, opts).Enqueue(t.Context(), list)
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

// A serving is a consumer under test.
type serving struct {
	*Consumer
	stop  context.CancelFunc
	ended chan error
}

// serve runs a consumer of the lanes on a client of its own, until the test ends or it is stopped.
func serve(t *testing.T, rdb redis.UniversalClient, h Handler, opts *Options, lanes ...tasks.Lane) *serving {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	if opts.Logger == nil {
		opts.Logger = testkit.Logger(t)
	}
	c, err := New(rdb, "m", lanes, h, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{c, cancel, make(chan error, 1)}
	go func() { s.ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		if s.stop != nil {
			if err := s.end(); err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	})
	return s
}

// end stops the consumer and returns what Run returned.
func (s *serving) end() error {
	s.stop()
	s.stop = nil
	return <-s.ended
}

// sweep runs the fleet's upkeep for the rest of the test.
func sweep(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := upkeep.New(rdb, &upkeep.Options{Logger: testkit.Logger(t), Models: []string{"m"}})
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// whereabouts names the places in which a task is, "" for none.
func whereabouts(t *testing.T, rdb redis.UniversalClient, lane tasks.Lane, id string) string {
	t.Helper()
	k, ctx := wire.KeysOf("m", lane), t.Context()
	var places []string
	for name, key := range map[string]string{"pending": k.Pending(), "active": k.Active()} {
		if slices.Contains(rdb.LRange(ctx, key, 0, -1).Val(), id) {
			places = append(places, name)
		}
	}
	for name, key := range map[string]string{
		"lease": k.Lease(), "scheduled": k.Scheduled(), "retry": k.Retry(), "archived": k.Archived(), "completed": k.Completed(), "dead": k.Dead(),
	} {
		if rdb.ZScore(ctx, key, id).Err() == nil {
			places = append(places, name)
		}
	}
	if rdb.Exists(ctx, k.Task(id)).Val() == 1 && len(places) == 0 {
		places = append(places, "hash")
	}
	slices.Sort(places)
	return strings.Join(places, " ")
}

// letters returns the dead of a lane.
func letters(t *testing.T, rdb redis.UniversalClient, lane tasks.Lane) []upkeep.Letter {
	t.Helper()
	list, err := upkeep.NewDead(rdb).List(t.Context(), "m", upkeep.DeadFilter{Lanes: []tasks.Lane{lane}}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// laneStatus returns how the lanes stand.
func laneStatus(t *testing.T, rdb redis.UniversalClient) map[tasks.Lane]queue.LaneStatus {
	t.Helper()
	list, err := queue.NewLanes(rdb).Status(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	byLane := map[tasks.Lane]queue.LaneStatus{}
	for _, s := range list {
		byLane[s.Lane] = s
	}
	return byLane
}

// eventually waits until a condition holds, at most a minute.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("not after a minute: %s", what)
}

// silent logs nothing.
var silent = slog.New(slog.DiscardHandler)

// overloaded is an error that tasks.Classify calls overloaded.
type overloaded struct{}

func (overloaded) Error() string    { return "no room" }
func (overloaded) Overloaded() bool { return true }

// A faulty client fails scripts: the n-th run of one, before it reaches Redis or after.
type faulty struct {
	script string // hash
	after  bool   // it was carried out, and its answer is lost

	mu   sync.Mutex
	nth  int
	seen int
	hits int
}

var errInjected = errors.New("injected: connection reset")

func (f *faulty) DialHook(next redis.DialHook) redis.DialHook { return next }
func (f *faulty) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *faulty) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !f.hit(cmd) {
			return next(ctx, cmd)
		}
		if f.after {
			if err := next(ctx, cmd); err != nil {
				return err // as NOSCRIPT is
			}
		}
		cmd.SetErr(errInjected)
		return errInjected
	}
}

func (f *faulty) hit(cmd redis.Cmder) bool {
	args := cmd.Args()
	if !strings.HasPrefix(cmd.Name(), "eval") || len(args) < 2 || args[1] != f.script {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	if f.seen == f.nth || f.seen == f.nth+1 {
		f.hits++
		return true
	}
	return false
}
