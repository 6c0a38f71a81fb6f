package upkeep

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// A worker is a process with a consumer and marks of its own, which can be killed: then Redis hears nothing of it.
type worker struct {
	rdb   *redis.Client
	marks *consumer.InFlight
	kill  func()
}

// startWorker starts a worker whose handler never returns while it lives.
func startWorker(t *testing.T, rdb *redis.Client, id string, h consumer.Handler, lane tasks.Lane) worker {
	t.Helper()
	w := worker{rdb: rdb, marks: consumer.NewInFlight(testkit.Logger(t), rdb, id)}
	c, err := consumer.New(rdb, "m", []tasks.Lane{lane}, h, &consumer.Options{Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 2)
	go func() { ended <- c.Run(ctx) }()
	go func() {
		ended <- registry.NewWorkers(rdb).Announce(ctx, testkit.Logger(t), func() registry.Worker { return registry.Worker{ID: id, Model: "m"} }, nil)
	}()
	w.kill = func() { _ = rdb.Close() }
	t.Cleanup(func() { cancel(); <-ended; <-ended }) // of a dead one nobody asks how it ended
	return w
}

// kill -9: what the worker had in hand runs elsewhere within 10 s, queries within 3 s, whenever it dies. Whoever was
// inside a native call is charged, and nobody else.
func TestCrashedTasksComeBack(t *testing.T) {
	t.Parallel()
	for _, lane := range []tasks.Lane{tasks.Live, tasks.Query} {
		for _, phase := range []time.Duration{0, 700 * time.Millisecond, 1900 * time.Millisecond} {
			t.Run(fmt.Sprint(lane, phase), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { crash(t, lane, phase) })
			})
		}
	}
}

func crash(t *testing.T, lane tasks.Lane, phase time.Duration) {
	const n = 60
	most := map[tasks.Lane]time.Duration{tasks.Live: 10 * time.Second, tasks.Query: 3 * time.Second}[lane]
	m, rdb := testkit.MiniRedis(t)
	sweep(t, rdb)
	time.Sleep(time.Minute)
	c, k := queue.NewClient(rdb, nil), wire.KeysOf("m", lane)
	receipts := enqueue(t, c, queuetest.Tasks(lane, n)...)
	var victim atomic.Pointer[context.Context]
	end := make(chan struct{})
	defer close(end)
	w := startWorker(t, testkit.MiniClient(t, m), "w1", queuetest.NewRecorder(func(ctx context.Context, task tasks.Task) error {
		if task.ID == "t7" {
			victim.Store(&ctx)
		}
		<-end
		return nil
	}), lane)
	time.Sleep(20*time.Second + phase) // far beyond the leases: they are renewed
	if got := rdb.LLen(t.Context(), k.Active()).Val(); got != n {
		t.Fatalf("%d tasks are in hand of a worker that lives, want %d", got, n)
	}
	w.marks.Mark([]context.Context{*victim.Load()})
	h := queuetest.NewRecorder(nil)
	var charged [n]bool
	queuetest.Serve(t, rdb, &charges{Recorder: h, t: t, rdb: rdb, keys: k, charged: charged[:]}, nil, lane)
	w.kill()
	died := time.Now()
	if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Fatalf("failures %v, %v", failures, err)
	}
	if took := time.Since(died); took > most {
		t.Errorf("recovery took %v, want at most %v", took, most)
	}
	if all, _ := h.Runs(""); all != n {
		t.Errorf("%d runs, want %d", all, n)
	}
	for i, yes := range charged {
		if yes != (i == 7) {
			t.Errorf("t%d is charged: %v", i, yes)
		}
	}
}

// charges is a recorder that looks whom a crash was charged to.
type charges struct {
	*queuetest.Recorder
	t       *testing.T
	rdb     *redis.Client
	keys    wire.Keys
	charged []bool // by the task's number
}

func (c *charges) HandleBatch(ctx context.Context, items []tasks.Item, report func([]tasks.Result)) {
	for _, item := range items {
		var i int
		if _, err := fmt.Sscanf(item.Task.ID, "t%d", &i); err != nil {
			c.t.Error(err)
		}
		c.charged[i] = c.rdb.HGet(ctx, c.keys.Task(item.Task.ID), "crashes").Val() == "1"
	}
	c.Recorder.HandleBatch(ctx, items, report)
}

// Who is charged with a lease that lapsed, and when the task goes back: a document's worker may be known to live on,
// and while that is in doubt the task waits; a query's can't be waited for.
func TestCrashAttribution(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		lane         tasks.Lane
		lives, marks bool
		early, late  string // where t0 is 3 s, and 12 s, after its lease
		crashes      string
	}{
		{"a dead worker inside it", tasks.Live, false, true, "pending", "pending", "1"},
		{"a dead worker beside it", tasks.Live, false, false, "pending", "pending", ""},
		{"a living worker inside it", tasks.Live, true, true, "active lease", "pending", ""},
		{"a living worker beside it", tasks.Live, true, false, "pending", "pending", ""},
		{"backfill, a living worker inside it", tasks.Backfill, true, true, "active lease", "pending", ""},
		{"a query, a living worker inside it", tasks.Query, true, true, "pending", "pending", "1"},
		{"a query, a living worker beside it", tasks.Query, true, false, "pending", "pending", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, rdb := testkit.MiniRedis(t)
				sweep(t, rdb)
				time.Sleep(time.Minute)
				k, one := wire.KeysOf("m", tt.lane), queuetest.Task(tt.lane, 0)
				enqueue(t, queue.NewClient(rdb, nil), one)
				workers := registry.NewWorkers(rdb)
				put := func() {
					if err := workers.Put(t.Context(), registry.Worker{ID: "w1"}); err != nil {
						t.Fatal(err)
					}
				}
				put()
				lease(t, rdb, tt.lane, 1)
				if tt.marks {
					inside(t, rdb, "w1", one)
				}
				passing := func(d time.Duration) {
					for range d / time.Second {
						time.Sleep(time.Second)
						if tt.lives {
							put()
						}
					}
				}
				time.Sleep(lifeOf(tt.lane) % time.Second)
				passing(lifeOf(tt.lane).Truncate(time.Second) + 3*time.Second)
				early := queuetest.Whereabouts(t, rdb, k, "t0")
				passing(9 * time.Second)
				late := queuetest.Whereabouts(t, rdb, k, "t0")
				crashes := rdb.HGet(t.Context(), k.Task("t0"), "crashes").Val()
				if early != tt.early || late != tt.late || crashes != tt.crashes {
					t.Errorf("in %q, then in %q, crashes %q; want %q, %q, %q", early, late, crashes, tt.early, tt.late, tt.crashes)
				}
			})
		})
	}
}

// While Redis is away nobody can say that he lives. Afterwards there is time to: what living workers have in hand stays
// theirs and is charged nothing; what a dead one had goes back.
func TestAbsentRedisIsNoCrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		sweep(t, rdb)
		time.Sleep(time.Minute)
		k := wire.KeysOf("m", tasks.Live)
		enqueue(t, queue.NewClient(rdb, nil), queuetest.Task(tasks.Live, 1))
		dieWith(t, rdb, "dead", queuetest.Task(tasks.Live, 1), 1)
		long := queuetest.Task(tasks.Live, 0)
		long.Timeout = time.Hour // Redis is away while it runs
		enqueue(t, queue.NewClient(rdb, nil), long)
		end := make(chan struct{})
		defer close(end)
		var w worker
		h := queuetest.NewRecorder(func(ctx context.Context, task tasks.Task) error {
			if task.ID == "t0" {
				w.marks.Mark([]context.Context{ctx})
			}
			<-end
			return ctx.Err()
		})
		ready := testkit.MiniClient(t, m)
		w.marks = consumer.NewInFlight(testkit.Logger(t), ready, "w1")
		startWorker(t, ready, "w1", h, tasks.Live)
		time.Sleep(time.Second)
		m.SetError("LOADING Redis is loading the dataset in memory")
		time.Sleep(time.Minute)
		m.SetError("")
		time.Sleep(registry.WorkerTTL - time.Second)
		if got := queuetest.Whereabouts(t, rdb, k, "t1"); got != "active lease" {
			t.Errorf("in the time of grace the dead worker's task is in %q", got)
		}
		time.Sleep(30 * time.Second)
		if _, n := h.Runs("t0"); n != 1 || queuetest.Whereabouts(t, rdb, k, "t0") != "active lease" || rdb.HExists(t.Context(), k.Task("t0"), "crashes").Val() {
			t.Errorf("the living worker's task ran %d times and is in %q", n, queuetest.Whereabouts(t, rdb, k, "t0"))
		}
		if _, n := h.Runs("t1"); n != 1 {
			t.Errorf("the dead worker's task ran %d times", n)
		}
	})
}

// A text that kills its worker twice goes to quarantine, kills there once more, and is dead; its
// neighbours are charged nothing.
func TestPoisonIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		sweep(t, rdb)
		time.Sleep(time.Minute) // the grace of a new process
		poison, live, alone := queuetest.Task(tasks.Live, 1), wire.KeysOf("m", tasks.Live), wire.KeysOf("m", tasks.Quarantine)
		receipts := enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 3)...)

		for crash, worker := range []string{"w1", "w2"} {
			dieWith(t, rdb, worker, poison, 3)
			time.Sleep(20 * time.Second)
			for _, id := range []string{"t0", "t2"} {
				if got := queuetest.Whereabouts(t, rdb, live, id); got != "pending" || rdb.HExists(t.Context(), live.Task(id), "crashes").Val() {
					t.Errorf("after crash %d: neighbour %s is in %q", crash+1, id, got)
				}
			}
		}
		if l, q := queuetest.Whereabouts(t, rdb, live, "t1"), queuetest.Whereabouts(t, rdb, alone, "t1"); l != "" || q != "pending" {
			t.Fatalf("poison is in %q of live and %q of quarantine", l, q)
		}
		rdb.Del(t.Context(), live.Task("t0"), live.Task("t2"), live.Pending()) // done
		poison.Lane = tasks.Quarantine
		dieWith(t, rdb, "w3", poison, 1)
		failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
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
		sweep(t, rdb)
		time.Sleep(time.Minute)
		enqueue(t, queue.NewClient(rdb, nil), queuetest.Task(tasks.Live, 1))
		dieWith(t, rdb, "w1", queuetest.Task(tasks.Live, 1), 1)
		for range 5 { // and then is lost again and again by workers that were not inside it
			time.Sleep(20 * time.Second)
			if got := rdb.HGet(t.Context(), wire.KeysOf("m", tasks.Live).Task("t1"), "crashes").Val(); got != "1" {
				t.Fatalf("crashes %q, want 1", got)
			}
			lease(t, rdb, tasks.Live, 1)
		}
	})
}

// T34, T35 and what else can be left in the lists.
func TestOddTasksAreTakenBack(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(ctx context.Context, rdb *redis.Client, k wire.Keys)
		want  string
	}{
		{"active without lease", func(ctx context.Context, rdb *redis.Client, k wire.Keys) { rdb.Del(ctx, k.Lease()) }, "pending"},
		{"hash gone", func(ctx context.Context, rdb *redis.Client, k wire.Keys) { rdb.Del(ctx, k.Task("t1")) }, ""},
		{"lease without active", func(ctx context.Context, rdb *redis.Client, k wire.Keys) { rdb.Del(ctx, k.Active()) }, "pending"},
		{"lease of a pending task", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.LMove(ctx, k.Active(), k.Pending(), "RIGHT", "LEFT")
			rdb.HSet(ctx, k.Task("t1"), "state", "pending")
		}, "pending"},
		{"junk message", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.HSet(ctx, k.Task("t1"), "msg", "\xff\xff", "crashes", quarantineAfter)
		}, "dead"},
		{"renewed in time", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "t1"})
		}, "active lease"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, rdb := testkit.MiniRedis(t)
				k := wire.KeysOf("m", tasks.Live)
				enqueue(t, queue.NewClient(rdb, nil), queuetest.Task(tasks.Live, 1))
				lease(t, rdb, tasks.Live, 1)
				tt.spoil(t.Context(), rdb, k)
				sweep(t, rdb) // not before: its first sweep would find the task half spoilt
				time.Sleep(20 * time.Second)
				if got := queuetest.Whereabouts(t, rdb, k, "t1"); got != tt.want {
					t.Errorf("task is in %q, want %q", got, tt.want)
				}
			})
		})
	}
}
