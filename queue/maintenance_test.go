package queue

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// lease does what asynq's dequeue does, for a worker that is about to die.
func lease(t *testing.T, rdb *redis.Client, lane tasks.Lane, n int) {
	t.Helper()
	k := keysOf("m", lane)
	for range n {
		id, err := rdb.LMove(t.Context(), k.pending(), k.active(), "RIGHT", "LEFT").Result()
		if err != nil {
			t.Fatal(err)
		}
		rdb.HSet(t.Context(), k.task(id), "state", "active")
		rdb.HDel(t.Context(), k.task(id), "pending_since")
		rdb.ZAdd(t.Context(), k.lease(), redis.Z{Score: float64(time.Now().Unix() + 30), Member: id})
	}
}

// maintain runs Maintenance for the rest of the test.
func maintain(t *testing.T, rdb *redis.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	m := NewMaintenance(rdb, &MaintenanceOptions{Logger: testkit.Logger(t), Models: []string{"m"}})
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Maintenance: %v", err)
		}
	})
}

// dieWith is a worker that leases n tasks, names one in a native call, and is never heard of again.
func dieWith(t *testing.T, rdb *redis.Client, worker string, victim tasks.Task, n int) {
	t.Helper()
	if err := NewWorkers(rdb).Put(t.Context(), Worker{ID: worker}); err != nil {
		t.Fatal(err)
	}
	lease(t, rdb, victim.Lane, n)
	if _, err := NewCalls(rdb, worker).Begin(t.Context(), []tasks.Task{victim}); err != nil {
		t.Fatal(err)
	}
}

// T2: what a dead worker had leased runs again within 35 s, and no retry is charged.
func TestCrashedTasksComeBack(t *testing.T) {
	t.Parallel()
	for _, phase := range []time.Duration{0, 700 * time.Millisecond, 1900 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			m, rdb := testkit.MiniRedis(t)
			maintain(t, rdb)
			time.Sleep(time.Minute + phase)
			receipts := enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 250)...)
			lease(t, rdb, tasks.Live, 250)
			died := time.Now()
			h := newRecorder(nil)
			time.Sleep(28 * time.Second) // nothing can happen before
			serve(t, miniConn(m), h, nil, tasks.Live)
			if failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
				t.Fatalf("failures %v, %v", failures, err)
			}
			if took := time.Since(died); took < 30*time.Second || took > 35*time.Second {
				t.Errorf("recovery took %v, want 30 to 35 s", took)
			}
			if all, _ := h.runs(""); all != 250 {
				t.Errorf("%d runs, want 250", all)
			}
		})
	}
}

// A text that kills its worker twice goes to quarantine, kills there once more, and is dead; its
// neighbours are charged nothing.
func TestPoisonIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		maintain(t, rdb)
		time.Sleep(time.Minute) // the amnesty of a new process
		poison, live, alone := task(tasks.Live, 1), keysOf("m", tasks.Live), keysOf("m", tasks.Quarantine)
		receipts := enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 3)...)

		for crash, worker := range []string{"w1", "w2"} {
			dieWith(t, rdb, worker, poison, 3)
			time.Sleep(40 * time.Second)
			for _, id := range []string{"t0", "t2"} {
				if got := whereabouts(t, rdb, live, id); got != "pending" || rdb.HExists(t.Context(), live.task(id), "crashes").Val() {
					t.Errorf("after crash %d: neighbour %s is in %q", crash+1, id, got)
				}
			}
		}
		if l, q := whereabouts(t, rdb, live, "t1"), whereabouts(t, rdb, alone, "t1"); l != "" || q != "pending" {
			t.Fatalf("poison is in %q of live and %q of quarantine", l, q)
		}
		rdb.Del(t.Context(), live.task("t0"), live.task("t2"), live.pending()) // done
		poison.Lane = tasks.Quarantine
		dieWith(t, rdb, "w3", poison, 1)
		failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
		if err != nil || len(failures) != 1 || failures[0].Lane != tasks.Quarantine || failures[0].ID != "t1" {
			t.Fatalf("failures %+v, %v", failures, err)
		}
		if want := "crashed its worker 3 times"; !strings.Contains(failures[0].Cause, want) {
			t.Errorf("cause %q, want %q in it", failures[0].Cause, want)
		}
	})
}

// A worker that died is charged once, however long its calls are remembered.
func TestOneDeathIsOneCrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		maintain(t, rdb)
		time.Sleep(time.Minute)
		enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
		dieWith(t, rdb, "w1", task(tasks.Live, 1), 1)
		for range 5 { // and then is lost again and again by workers that were not inside it
			time.Sleep(40 * time.Second)
			if got := rdb.HGet(t.Context(), keysOf("m", tasks.Live).task("t1"), "crashes").Val(); got != "1" {
				t.Fatalf("crashes %q, want 1", got)
			}
			lease(t, rdb, tasks.Live, 1)
		}
	})
}

// While Redis is away nobody can renew anything: tasks come back, nobody is charged.
func TestAbsentRedisIsNoCrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		maintain(t, rdb)
		time.Sleep(time.Minute)
		enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
		dieWith(t, rdb, "w1", task(tasks.Live, 1), 1)
		m.SetError("LOADING Redis is loading the dataset in memory")
		time.Sleep(time.Minute)
		m.SetError("")
		time.Sleep(10 * time.Second)
		k := keysOf("m", tasks.Live)
		if got := whereabouts(t, rdb, k, "t1"); got != "pending" || rdb.HExists(t.Context(), k.task("t1"), "crashes").Val() {
			t.Errorf("task is in %q, crashes %q", got, rdb.HGet(t.Context(), k.task("t1"), "crashes").Val())
		}
	})
}

// T34, T35 and what else can be left in the lists.
func TestOddTasksAreTakenBack(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(ctx context.Context, rdb *redis.Client, k laneKeys)
		want  string
	}{
		{"active without lease", func(ctx context.Context, rdb *redis.Client, k laneKeys) { rdb.Del(ctx, k.lease()) }, "pending"},
		{"hash gone", func(ctx context.Context, rdb *redis.Client, k laneKeys) { rdb.Del(ctx, k.task("t1")) }, ""},
		{"lease without active", func(ctx context.Context, rdb *redis.Client, k laneKeys) { rdb.Del(ctx, k.active()) }, "pending"},
		{"lease of a pending task", func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.LMove(ctx, k.active(), k.pending(), "RIGHT", "LEFT")
			rdb.HSet(ctx, k.task("t1"), "state", "pending")
		}, "pending"},
		{"junk message", func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.HSet(ctx, k.task("t1"), "msg", "\xff\xff", "crashes", quarantineAfter)
		}, "dead"},
		{"renewed in time", func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.ZAdd(ctx, k.lease(), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "t1"})
		}, "active lease"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, rdb := testkit.MiniRedis(t)
				k := keysOf("m", tasks.Live)
				enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
				lease(t, rdb, tasks.Live, 1)
				tt.spoil(t.Context(), rdb, k)
				maintain(t, rdb) // not before: its first sweep would find the task half spoilt
				time.Sleep(40 * time.Second)
				if got := whereabouts(t, rdb, k, "t1"); got != tt.want {
					t.Errorf("task is in %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// T20: due retries go back also while no worker lives.
func TestRetriesGoBackWithoutWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ctx, k := t.Context(), keysOf("m", tasks.Live)
		enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 250)...)
		for range 249 {
			moveTo(laneKeys.retry, "retry")(ctx, rdb, k)
		}
		rdb.ZAdd(ctx, k.retry(), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "t9"})
		maintain(t, rdb)
		time.Sleep(3 * time.Second)
		s := laneStatus(t, rdb)[tasks.Live]
		if s.Pending != 249 || s.Retry != 1 {
			t.Errorf("%d pending and %d retrying, want 249 and 1", s.Pending, s.Retry)
		}
		if got := rdb.HGet(ctx, k.task("t3"), "state").Val(); got != "pending" {
			t.Errorf("state %q", got)
		}
	})
}

// The scripts on a real server, whose Lua differs from miniredis's.
func TestMaintenanceOnRedis(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx, k := t.Context(), keysOf("m", tasks.Live)
	enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 5)...)
	moveTo(laneKeys.retry, "retry")(ctx, rdb, k) // t0
	lease(t, rdb, tasks.Live, 3)                 // t1, t2, t3
	rdb.HSet(ctx, k.task("t2"), "crashes", quarantineAfter)
	rdb.Del(ctx, k.lease())
	if err := NewMaintenance(rdb, nil).sweep(ctx); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"t0": "pending", "t1": "pending", "t2": "", "t3": "pending", "t4": "pending"} {
		if got := whereabouts(t, rdb, k, id); got != want {
			t.Errorf("%s is in %q, want %q", id, got, want)
		}
	}
	alone := keysOf("m", tasks.Quarantine)
	if got := whereabouts(t, rdb, alone, "t2"); got != "pending" || rdb.HGet(ctx, alone.task("t2"), "crashes").Val() != "2" {
		t.Errorf("the suspect is in %q of quarantine", got)
	}
	msg, err := parseMessage([]byte(rdb.HGet(ctx, alone.task("t2"), "msg").Val()))
	if err != nil || msg.Queue != queueName("m", tasks.Quarantine) || string(msg.Payload) != `{"n":2}` {
		t.Errorf("message %+v, %v", msg, err)
	}
	if since := rdb.HGet(ctx, k.task("t1"), "pending_since").Val(); len(since) != len("1700000000000000000") {
		t.Errorf("pending_since %q is not in nanoseconds", since)
	}
}

// What a sweep does on the strength of a glance, and what it finds only when it reads all leases.
func TestSweepsAtAGlance(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage   func(ctx context.Context, rdb *redis.Client, k laneKeys)
		glanced  string // where t0 is after a glance
		compared string // where it is after a reading
	}{
		"nothing": {func(context.Context, *redis.Client, laneKeys) {}, "active lease", "active lease"},
		"a lapsed lease": {func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.ZAdd(ctx, k.lease(), redis.Z{Score: float64(time.Now().Unix() - 5), Member: "t0"})
		}, "pending", "pending"},
		"no lease": {func(ctx context.Context, rdb *redis.Client, k laneKeys) { rdb.Del(ctx, k.lease()) }, "pending", "pending"},
		"no lease, and another's": {func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.Del(ctx, k.lease())
			rdb.ZAdd(ctx, k.lease(), redis.Z{Score: float64(time.Now().Unix() + 60), Member: "elsewhere"})
		}, "active", "pending"},
		"due": {func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.Del(ctx, k.lease(), k.active())
			rdb.ZAdd(ctx, k.scheduled(), redis.Z{Score: float64(time.Now().Unix()), Member: "t0"})
		}, "pending", "pending"},
		"due again": {func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.Del(ctx, k.lease(), k.active())
			rdb.ZAdd(ctx, k.retry(), redis.Z{Score: float64(time.Now().Unix()), Member: "t0"})
		}, "pending", "pending"},
		"not due": {func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.Del(ctx, k.lease(), k.active())
			rdb.ZAdd(ctx, k.retry(), redis.Z{Score: float64(time.Now().Unix() + 60), Member: "t0"})
		}, "retry", "retry"},
		"archived": {func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			rdb.Del(ctx, k.lease(), k.active())
			rdb.ZAdd(ctx, k.archived(), redis.Z{Score: float64(time.Now().Unix()), Member: "t0"})
			rdb.HSet(ctx, k.task("t0"), "state", "archived")
		}, "dead", "dead"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := testkit.Redis(t)
			ctx, k := t.Context(), keysOf("m", tasks.Live)
			enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 1)...)
			lease(t, rdb, tasks.Live, 1)
			c.damage(ctx, rdb, k)
			m := NewMaintenance(rdb, nil)
			m.read = time.Now()
			for _, want := range []string{c.glanced, c.compared} {
				if err := m.sweep(ctx); err != nil {
					t.Fatal(err)
				}
				if got := whereabouts(t, rdb, k, "t0"); got != want {
					t.Errorf("t0 is in %q, want %q", got, want)
				}
				m.read = time.Now().Add(-readEvery)
			}
		})
	}
}
