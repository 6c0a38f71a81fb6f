package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/tasks"
)

var live = wire.QueueName("m", tasks.Live)

// until waits for something to come true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute until %s", what)
		}
	}
}

// keepUp runs a sweeper until the test ends.
func keepUp(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- upkeep.New(rdb, &upkeep.Options{Logger: testkit.Logger(t)}).Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// What an unmodified client of asynq enqueues, with whatever options, is done by our consumer as asynq's server would.
func TestAsynqsClientOurConsumer(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	keepUp(t, rdb)
	h := queuetest.NewRecorder(func(_ context.Context, task tasks.Task) error {
		if strings.HasPrefix(task.ID, "bad") {
			return errors.New("the store is away")
		}
		return nil
	})
	theirs, inspector := asynq.NewClientFromRedisClient(rdb), asynq.NewInspectorFromRedisClient(rdb)
	put := func(id string, opts ...asynq.Option) error {
		_, err := theirs.Enqueue(asynq.NewTask("embed:document", []byte(id)), append(opts, asynq.TaskID(id), asynq.Queue(live))...)
		return err
	}
	for id, opts := range map[string][]asynq.Option{
		"plain":     nil,
		"unique":    {asynq.Unique(time.Hour)},
		"kept":      {asynq.Retention(time.Hour)},
		"both":      {asynq.Retention(time.Hour), asynq.Unique(time.Hour)},
		"timeout":   {asynq.Timeout(5 * time.Second)},
		"deadline":  {asynq.Deadline(time.Now().Add(time.Hour))},
		"later":     {asynq.ProcessIn(time.Second)},
		"bad once":  {asynq.MaxRetry(0)},
		"bad twice": {asynq.MaxRetry(1), asynq.Unique(time.Hour)},
	} {
		if err := put(id, opts...); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("twin of unique", asynq.Unique(time.Hour)); err != nil {
		t.Fatal(err) // its payload is another
	}
	queuetest.Serve(t, rdb, h, nil, tasks.Live)
	until(t, "everything has come to its end", func() bool {
		info, err := inspector.GetQueueInfo(live)
		return err == nil && info.Pending+info.Active+info.Scheduled+info.Retry+info.Archived == 0 && info.Completed == 2
	})
	for id, want := range map[string]int{"plain": 1, "unique": 1, "kept": 1, "both": 1, "timeout": 1, "deadline": 1, "later": 1, "bad once": 1, "bad twice": 2} {
		if _, n := h.Runs(id); n != want {
			t.Errorf("%s ran %d times, want %d", id, n, want)
		}
	}
	for _, task := range h.Tasks() {
		if string(task.Payload) != task.ID || task.Kind != tasks.EmbedDocument || task.ID == "timeout" && task.Timeout != 5*time.Second {
			t.Errorf("the handler saw %+v", task)
		}
	}
	for _, id := range []string{"kept", "both"} {
		info, err := inspector.GetTaskInfo(live, id)
		if err != nil || info.State != asynq.TaskStateCompleted || time.Since(info.CompletedAt) > time.Minute || string(info.Payload) != id {
			t.Errorf("%s: %+v, %v", id, info, err)
		}
	}
	letters, err := upkeep.NewDead(rdb).List(t.Context(), "m", upkeep.DeadFilter{}, 10)
	if err != nil || len(letters) != 2 {
		t.Errorf("dead letters %+v, %v", letters, err)
	}
	for _, l := range letters {
		if want := map[string]int{"bad once": 1, "bad twice": 2}[l.ID]; l.Attempts != want || l.Message != "the store is away" {
			t.Errorf("letter %+v", l)
		}
	}
	if locks := rdb.Keys(t.Context(), "asynq:*unique*").Val(); len(locks) > 0 {
		t.Errorf("locks are left: %q", locks)
	}
}

// An unmodified server of asynq drains a lane beside our consumer: each task is done once.
func TestAsynqsServerBesideOurConsumer(t *testing.T) {
	t.Parallel()
	const n = 600
	rdb := testkit.Redis(t)
	keepUp(t, rdb)
	var mu sync.Mutex
	theirs := map[string]int{}
	server := asynq.NewServerFromRedisClient(rdb, asynq.Config{Concurrency: 8, Queues: map[string]int{live: 1}, LogLevel: asynq.FatalLevel,
		TaskCheckInterval: 10 * time.Millisecond})
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		time.Sleep(2 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		theirs[task.ResultWriter().TaskID()]++
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	h := queuetest.NewRecorder(func(context.Context, tasks.Task) error { time.Sleep(20 * time.Millisecond); return nil })
	queuetest.Serve(t, rdb, h, &consumer.Options{Concurrency: 8}, tasks.Live)
	c := queue.NewClient(rdb, nil)
	receipts, err := c.Enqueue(t.Context(), queuetest.Tasks(tasks.Live, n))
	if err != nil {
		t.Fatal(err)
	}
	if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Fatalf("failures %+v, %v", failures, err)
	}
	ours, _ := h.Runs("")
	mu.Lock()
	defer mu.Unlock()
	for _, r := range receipts {
		if _, one := h.Runs(r.ID); one+theirs[r.ID] != 1 {
			t.Errorf("%s ran %d times here and %d times there", r.ID, one, theirs[r.ID])
		}
	}
	if ours == 0 || len(theirs) == 0 {
		t.Errorf("%d of %d tasks were done here, %d there: want both at work", ours, n, len(theirs))
	}
	if got := rdb.Get(t.Context(), wire.KeysOf("m", tasks.Live).Processed()).Val(); got != fmt.Sprint(n) {
		t.Errorf("%s are counted as processed, want %d", got, n)
	}
}

// checkShown looks whether the inspector shows one server with two tasks in hand.
func checkShown(t *testing.T, inspector *asynq.Inspector) {
	t.Helper()
	active, err := inspector.ListActiveTasks(live)
	if err != nil || len(active) != 2 || active[0].State != asynq.TaskStateActive || active[0].IsOrphaned {
		t.Errorf("active tasks %+v, %v", active, err)
	}
	var servers []*asynq.ServerInfo
	until(t, "the heartbeat names both", func() bool { // every 5 s
		servers, err = inspector.Servers()
		return err == nil && len(servers) == 1 && len(servers[0].ActiveWorkers) == 2
	})
	if s := servers[0]; s.Status != "active" || s.Queues[live] == 0 || s.Queues[wire.QueueName("m", tasks.Backfill)] == 0 {
		t.Errorf("server %+v", s)
	}
	for _, w := range servers[0].ActiveWorkers {
		if w.Queue != live || w.TaskType != string(tasks.EmbedDocument) || w.Deadline.Before(time.Now()) {
			t.Errorf("worker %+v", w)
		}
	}
}

// What asynq's inspector shows of our consumer, and what it orders.
func TestAsynqsInspector(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	keepUp(t, rdb)
	inspector, c := asynq.NewInspectorFromRedisClient(rdb), queue.NewClient(rdb, nil)
	end := make(chan struct{})
	var endOnce sync.Once
	t.Cleanup(func() { endOnce.Do(func() { close(end) }) })
	h := queuetest.NewRecorder(func(ctx context.Context, _ tasks.Task) error {
		select {
		case <-end:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	receipts, err := c.Enqueue(t.Context(), queuetest.Tasks(tasks.Live, 2))
	if err != nil {
		t.Fatal(err)
	}
	queuetest.Serve(t, rdb, h, nil, tasks.Live, tasks.Backfill)
	until(t, "both are inside", func() bool { all, _ := h.Runs(""); return all == 2 })

	checkShown(t, inspector)

	// A tool cancels what runs: it ends and does not run again, and the other one goes on.
	if err := inspector.CancelProcessing("t1"); err != nil {
		t.Fatal(err)
	}
	k := wire.KeysOf("m", tasks.Live)
	until(t, "the cancelled one is gone", func() bool { return rdb.Exists(t.Context(), k.Task("t1")).Val() == 0 })
	if got := queuetest.Whereabouts(t, rdb, k, "t0"); got != "active lease" {
		t.Errorf("the other one is in %q", got)
	}

	// A tool pauses, deletes, archives, runs, and resumes.
	if err := inspector.PauseQueue(live); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enqueue(t.Context(), []tasks.Task{queuetest.Task(tasks.Live, 2), queuetest.Task(tasks.Live, 3), queuetest.Task(tasks.Live, 4)}); err != nil {
		t.Fatal(err)
	}
	pending, err := inspector.ListPendingTasks(live)
	if err != nil || len(pending) != 3 {
		t.Errorf("pending %+v, %v", pending, err)
	}
	if err := errors.Join(inspector.DeleteTask(live, "t2"), inspector.ArchiveTask(live, "t3")); err != nil {
		t.Fatal(err)
	}
	until(t, "what a tool archived is a dead letter", func() bool { return queuetest.Whereabouts(t, rdb, k, "t3") == "dead" })
	endOnce.Do(func() { close(end) })
	queuetest.MoveTo(wire.Keys.Retry, "retry")(t.Context(), rdb, k) // t4 failed, and would wait for long
	rdb.ZAdd(t.Context(), k.Retry(), redis.Z{Score: 4e9, Member: "t4"})
	if err := errors.Join(inspector.RunTask(live, "t4"), inspector.UnpauseQueue(live)); err != nil {
		t.Fatal(err)
	}
	until(t, "what a tool ran is done", func() bool { _, n := h.Runs("t4"); return n == 1 && rdb.Exists(t.Context(), k.Task("t4")).Val() == 0 })
	if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Errorf("failures %+v, %v", failures, err)
	}
	for _, id := range []string{"t1", "t2", "t3"} {
		if _, n := h.Runs(id); n != map[string]int{"t1": 1}[id] {
			t.Errorf("%s ran %d times", id, n)
		}
	}
	queues, err := inspector.Queues()
	if err != nil || !slices.Contains(queues, live) {
		t.Errorf("queues %q, %v", queues, err)
	}
}

// What is done and remembered can be read with asynq's inspector, and is gone when its time is over.
func TestAsynqReadsWhatIsRemembered(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	keepUp(t, rdb)
	c, inspector, h := queue.NewClient(rdb, &queue.ClientOptions{Retention: 3 * time.Second}), asynq.NewInspectorFromRedisClient(rdb), queuetest.NewRecorder(nil)
	queuetest.Serve(t, rdb, h, nil, tasks.Live)
	begun := time.Now()
	receipts, err := c.Enqueue(t.Context(), []tasks.Task{queuetest.Task(tasks.Live, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Fatal(failures, err)
	}
	list, err := inspector.ListCompletedTasks(live)
	if err != nil || len(list) != 1 || list[0].ID != "t1" || list[0].CompletedAt.Before(begun.Add(-time.Second)) || list[0].Retention != 3*time.Second {
		t.Errorf("completed %+v, %v", list, err)
	}
	k := wire.KeysOf("m", tasks.Live)
	until(t, "it is forgotten", func() bool {
		return rdb.Exists(t.Context(), k.Task("t1"), k.Completed()).Val() == 0
	})
}
