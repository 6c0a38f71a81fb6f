package upkeep

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// TestFlavours: see [queuetest.Flavours].
func TestFlavours(t *testing.T) {
	queuetest.Flavours(t, "^Test(Archive.*|EnqueuedAgain.*|Fsck|Replayed.*|SweepOn.*|SweepsAt.*|Trim)$", 7)
}

// enqueue hands tasks to the queue and fails the test unless all are accepted.
func enqueue(t *testing.T, c *queue.Client, list ...tasks.Task) []queue.Receipt {
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

// laneStatus returns how the lanes of the model "m" stand.
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

// lifeOf is how long a lease lasts in a lane.
func lifeOf(lane tasks.Lane) time.Duration {
	if lane == tasks.Query {
		return 1500 * time.Millisecond
	}
	return 6 * time.Second
}

// lease does what a consumer does to take tasks, for one that is about to die.
func lease(t *testing.T, rdb *redis.Client, lane tasks.Lane, n int) {
	t.Helper()
	k := wire.KeysOf("m", lane)
	for range n {
		id, err := rdb.LMove(t.Context(), k.Pending(), k.Active(), "RIGHT", "LEFT").Result()
		if err != nil {
			t.Fatal(err)
		}
		rdb.HSet(t.Context(), k.Task(id), "state", "active", "holder", "dead:1")
		until := float64(time.Now().Add(lifeOf(lane)).UnixMilli()) / 1000
		rdb.ZAdd(t.Context(), k.Lease(), redis.Z{Score: until, Member: id})
	}
}

// sweep runs a sweeper for the rest of the test, or until stop is called.
func sweep(t *testing.T, rdb *redis.Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := New(rdb, &Options{Logger: testkit.Logger(t), Models: []string{"m"}})
	go func() { ended <- s.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the sweeper ended: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return stop
}

// sweepOnce is one look of a process that has been there for long.
func sweepOnce(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	if err := New(rdb, &Options{Models: []string{"m"}}).sweep(context.WithoutCancel(t.Context()), round{read: true, trim: true}); err != nil {
		t.Fatal(err)
	}
}

// inside writes that a worker has a task inside a native call, as the consumer's marks do.
func inside(t *testing.T, rdb *redis.Client, worker string, victim tasks.Task) {
	t.Helper()
	name := wire.TaskName(victim.Model, victim.Lane, victim.ID)
	if err := rdb.HSet(t.Context(), wire.CallsKey(worker), "1", "embed:other:live/x\n"+name).Err(); err != nil {
		t.Fatal(err)
	}
}

// dieWith is a worker that leases n tasks, names one in a native call, and is never heard of again.
func dieWith(t *testing.T, rdb *redis.Client, worker string, victim tasks.Task, n int) {
	t.Helper()
	if err := registry.NewWorkers(rdb).Put(t.Context(), registry.Worker{ID: worker}); err != nil {
		t.Fatal(err)
	}
	lease(t, rdb, victim.Lane, n)
	inside(t, rdb, worker, victim)
}
