package upkeep

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// counted counts commands by name.
type counted struct {
	mu sync.Mutex
	by map[string]int
}

func (c *counted) hook() queuetest.OnCommand {
	return func(_ context.Context, cmd redis.Cmder) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.by[cmd.Name()]++
	}
}

func (c *counted) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, times := range c.by {
		n += times
	}
	return n
}

// Of 20 processes one sweeps each second, whichever; the others ask, by one command. When those that had the turn die,
// others have it.
func TestTurnsOfTheFleet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		enqueue(t, queue.NewClient(rdb, nil), queuetest.Task(tasks.Live, 1)) // asynq's registry knows one model
		count := &counted{by: map[string]int{}}
		var stops []func()
		for range 20 {
			time.Sleep(37 * time.Millisecond) // not in step
			client := testkit.MiniClient(t, m)
			client.AddHook(count.hook())
			stops = append(stops, sweep(t, client))
		}
		look := func(seconds, processes int) {
			t.Helper()
			count.mu.Lock()
			clear(count.by)
			count.mu.Unlock()
			time.Sleep(time.Duration(seconds) * time.Second)
			count.mu.Lock()
			asked, swept := count.by["evalsha"], count.by["smembers"]
			count.mu.Unlock()
			if asked < seconds*processes-processes || asked > seconds*processes+processes {
				t.Errorf("%d processes asked %d times for the turn in %d s", processes, asked, seconds)
			}
			if swept < seconds*8/10 || swept > seconds*12/10 {
				t.Errorf("%d processes swept %d times in %d s, want once a second", processes, swept, seconds)
			}
			if all := count.total(); all > asked+swept*(2+len(tasks.Lanes)) {
				t.Errorf("%d commands: %v", all, count.by)
			}
		}
		look(30, 20)
		for _, stop := range stops[:19] {
			stop()
		}
		look(30, 1)
	})
}

// A lane in which nothing happens costs a sweep one command, however many there are.
func TestIdleLanesCostOneCommand(t *testing.T) {
	t.Parallel()
	const models = 100
	_, rdb := testkit.MiniRedis(t)
	for i := range models {
		rdb.SAdd(t.Context(), wire.RegistryKey, wire.QueueName(fmt.Sprintf("m%d", i), tasks.Live))
	}
	enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 50)...) // that wait are no reason to look closer
	count := &counted{by: map[string]int{}}
	rdb.AddHook(count.hook())
	s := New(rdb, nil)
	if err := s.sweep(t.Context(), round{read: true}); err != nil {
		t.Fatal(err)
	}
	if n, want := count.total(), 1+(models+1)*len(tasks.Lanes); n != want {
		t.Errorf("a sweep costs %d commands, want %d: %v", n, want, count.by)
	}
}

// Queries of an alias that nobody serves come to an end when nobody waits for them any more; what else waits stays.
func TestExpiredQueriesOfNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		sweep(t, rdb)
		late, fresh, doc := queuetest.Task(tasks.Query, 1), queuetest.Task(tasks.Query, 2), queuetest.Task(tasks.Live, 3)
		late.Expires, fresh.Expires = time.Now().Add(5*time.Second), time.Now().Add(time.Hour)
		doc.Expires = late.Expires
		c := queue.NewClient(rdb, nil)
		receipts := enqueue(t, c, late, fresh, queuetest.Task(tasks.Query, 4), doc)
		time.Sleep(4 * time.Second)
		query, live := wire.KeysOf("m", tasks.Query), wire.KeysOf("m", tasks.Live)
		if n := rdb.LLen(t.Context(), query.Pending()).Val(); n != 3 {
			t.Errorf("%d queries wait before any has expired", n)
		}
		time.Sleep(3 * time.Second)
		if got := queuetest.Whereabouts(t, rdb, query, "t1"); got != "" || rdb.Exists(t.Context(), query.Task("t1")).Val() > 0 {
			t.Errorf("the expired query is in %q", got)
		}
		for id, k := range map[string]wire.Keys{"t2": query, "t4": query, "t3": live} {
			if got := queuetest.Whereabouts(t, rdb, k, id); got != "pending" {
				t.Errorf("%s is in %q", id, got)
			}
		}
		if n := rdb.HGet(t.Context(), query.Counts(), "expired").Val(); n != "1" {
			t.Errorf("%q are counted as expired", n)
		}
		if failures, err := c.Wait(t.Context(), receipts[:1], nil); err != nil || len(failures) > 0 {
			t.Errorf("%+v, %v", failures, err)
		}
	})
}

// A cancellation is remembered for a while after its task is gone, and as long as the task is there.
func TestCancellationsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ctx, k := t.Context(), wire.KeysOf("m", tasks.Live)
		enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 2)...)
		if _, err := queue.NewLanes(rdb).Cancel(ctx, "m", tasks.Live, []string{"t0"}); err != nil {
			t.Fatal(err)
		}
		rdb.ZAdd(ctx, k.Cancelled(), redis.Z{Score: float64(time.Now().Unix()), Member: "t1"}) // it runs, for whom it may concern
		l := laneSweep{New(rdb, nil), k, "m", tasks.Live}
		for _, step := range []struct {
			after time.Duration
			want  string
		}{{cancelKept - time.Minute, "[t0 t1]"}, {2 * time.Minute, "[t1]"}, {time.Hour, "[t1]"}} {
			time.Sleep(step.after)
			if err := l.forgetCancelled(ctx); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(rdb.ZRange(ctx, k.Cancelled(), 0, -1).Val()); got != step.want {
				t.Errorf("%s are remembered, want %s", got, step.want)
			}
		}
		rdb.Del(ctx, k.Task("t1"))
		if err := l.forgetCancelled(ctx); err != nil || rdb.Exists(ctx, k.Cancelled()).Val() > 0 {
			t.Errorf("marks are left, %v", err)
		}
	})
}

// Consumers hear of tasks that go back to their lane, and need not ask.
func TestForwardedTasksAreAnnounced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		k := wire.KeysOf("m", tasks.Live)
		listener := testkit.MiniClient(t, m).Subscribe(t.Context(), k.Pending())
		t.Cleanup(func() { _ = listener.Close() })
		if _, err := listener.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		enqueue(t, queue.NewClient(rdb, nil), queuetest.Task(tasks.Live, 1))
		if _, err := listener.ReceiveTimeout(t.Context(), time.Second); err != nil {
			t.Fatalf("of the first enqueue nothing is heard: %v", err)
		}
		queuetest.MoveTo(wire.Keys.Retry, "retry")(t.Context(), rdb, k)
		sweep(t, rdb)
		if _, err := listener.ReceiveTimeout(t.Context(), 3*time.Second); err != nil {
			t.Errorf("of a retry that is due nothing is heard: %v", err)
		}
		if got := queuetest.Whereabouts(t, rdb, k, "t1"); got != "pending" {
			t.Errorf("it is in %q", got)
		}
	})
}

// T20: due retries go back also while no worker lives.
func TestRetriesGoBackWithoutWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ctx, k := t.Context(), wire.KeysOf("m", tasks.Live)
		enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 250)...)
		for range 249 {
			queuetest.MoveTo(wire.Keys.Retry, "retry")(ctx, rdb, k)
		}
		rdb.ZAdd(ctx, k.Retry(), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "t9"})
		sweep(t, rdb)
		time.Sleep(3 * time.Second)
		s := laneStatus(t, rdb)[tasks.Live]
		if s.Pending != 249 || s.Retry != 1 {
			t.Errorf("%d pending and %d retrying, want 249 and 1", s.Pending, s.Retry)
		}
		if got := rdb.HGet(ctx, k.Task("t3"), "state").Val(); got != "pending" {
			t.Errorf("state %q", got)
		}
	})
}

// The scripts on a real server, whose Lua differs from miniredis's.
func TestSweepOnRedis(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx, k := t.Context(), wire.KeysOf("m", tasks.Live)
	enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 5)...)
	queuetest.MoveTo(wire.Keys.Retry, "retry")(ctx, rdb, k) // t0
	lease(t, rdb, tasks.Live, 3)                            // t1, t2, t3
	rdb.HSet(ctx, k.Task("t2"), "crashes", quarantineAfter)
	rdb.Del(ctx, k.Lease())
	if err := New(rdb, nil).sweep(ctx, round{read: true, trim: true}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"t0": "pending", "t1": "pending", "t2": "", "t3": "pending", "t4": "pending"} {
		if got := queuetest.Whereabouts(t, rdb, k, id); got != want {
			t.Errorf("%s is in %q, want %q", id, got, want)
		}
	}
	alone := wire.KeysOf("m", tasks.Quarantine)
	if got := queuetest.Whereabouts(t, rdb, alone, "t2"); got != "pending" || rdb.HGet(ctx, alone.Task("t2"), "crashes").Val() != "2" {
		t.Errorf("the suspect is in %q of quarantine", got)
	}
	msg, err := wire.ParseMessage([]byte(rdb.HGet(ctx, alone.Task("t2"), "msg").Val()))
	if err != nil || msg.Queue != wire.QueueName("m", tasks.Quarantine) || string(msg.Payload) != `{"n":2}` {
		t.Errorf("message %+v, %v", msg, err)
	}
	if since := rdb.HGet(ctx, k.Task("t1"), "pending_since").Val(); len(since) != len("1700000000000000000") {
		t.Errorf("pending_since %q is not in nanoseconds", since)
	}
}

// What a sweep does on the strength of a glance, and what it finds only when it reads all leases.
func TestSweepsAtAGlance(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage   func(ctx context.Context, rdb *redis.Client, k wire.Keys)
		glanced  string // where t0 is after a glance
		compared string // where it is after a reading
	}{
		"nothing": {func(context.Context, *redis.Client, wire.Keys) {}, "active lease", "active lease"},
		"a lapsed lease": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: float64(time.Now().Unix() - 5), Member: "t0"})
		}, "pending", "pending"},
		"no lease": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) { rdb.Del(ctx, k.Lease()) }, "pending", "pending"},
		"no lease, and another's": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Lease())
			rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: float64(time.Now().Unix() + 60), Member: "elsewhere"})
		}, "active", "pending"},
		"due": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Lease(), k.Active())
			rdb.ZAdd(ctx, k.Scheduled(), redis.Z{Score: float64(time.Now().Unix()), Member: "t0"})
		}, "pending", "pending"},
		"due again": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Lease(), k.Active())
			rdb.ZAdd(ctx, k.Retry(), redis.Z{Score: float64(time.Now().Unix()), Member: "t0"})
		}, "pending", "pending"},
		"not due": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Lease(), k.Active())
			rdb.ZAdd(ctx, k.Retry(), redis.Z{Score: float64(time.Now().Unix() + 60), Member: "t0"})
		}, "retry", "retry"},
		"remembered for long enough": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Lease(), k.Active())
			rdb.ZAdd(ctx, k.Completed(), redis.Z{Score: float64(time.Now().Unix() - 1), Member: "t0"})
			rdb.HSet(ctx, k.Task("t0"), "state", "completed")
		}, "", ""},
		"remembered": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Lease(), k.Active())
			rdb.ZAdd(ctx, k.Completed(), redis.Z{Score: float64(time.Now().Unix() + 60), Member: "t0"})
			rdb.HSet(ctx, k.Task("t0"), "state", "completed")
		}, "completed", "completed"},
		"archived": {func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Lease(), k.Active())
			rdb.ZAdd(ctx, k.Archived(), redis.Z{Score: float64(time.Now().Unix()), Member: "t0"})
			rdb.HSet(ctx, k.Task("t0"), "state", "archived")
		}, "dead", "dead"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := testkit.Redis(t)
			ctx, k := t.Context(), wire.KeysOf("m", tasks.Live)
			enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 1)...)
			lease(t, rdb, tasks.Live, 1)
			c.damage(ctx, rdb, k)
			m := New(rdb, nil)
			for i, want := range []string{c.glanced, c.compared} {
				if err := m.sweep(ctx, round{read: i > 0}); err != nil {
					t.Fatal(err)
				}
				if got := queuetest.Whereabouts(t, rdb, k, "t0"); got != want {
					t.Errorf("t0 is in %q, want %q", got, want)
				}
			}
		})
	}
}

// What a hand in Redis has made of one lane, one worker or one task keeps nobody else from being swept.
func TestAHandInOneLane(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx := t.Context()
	odd, k := wire.KeysOf("a-odd-one", tasks.Live), wire.KeysOf("m", tasks.Live)
	rdb.SAdd(ctx, wire.RegistryKey, odd.Queue(), k.Queue())
	for _, key := range []string{odd.Retry(), odd.Lease(), odd.Active(), odd.Pending()} {
		rdb.Set(ctx, key, "x", 0)
	}
	rdb.HSet(ctx, odd.Task("x"), "msg", "x") // so that the lane has something
	enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 4)...)
	enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Query, 2)...)
	lease(t, rdb, tasks.Live, 4)
	for _, id := range rdb.LRange(ctx, k.Active(), 0, -1).Val() {
		rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: 1, Member: id})
	}
	ids := rdb.LRange(ctx, k.Active(), 0, -1).Val()
	inside(t, rdb, "w1", queuetest.Task(tasks.Live, 0))
	rdb.HSet(ctx, k.Task(ids[0]), "crashes", "abc", "pending_since", "abc", "tokens", "abc")
	rdb.Set(ctx, k.Task(ids[1]), "x", 0)
	rdb.Set(ctx, wire.CallsKey("w2"), "x", 0)
	q := wire.KeysOf("m", tasks.Query)
	expiring := rdb.LRange(ctx, q.Pending(), 0, -1).Val()
	rdb.HSet(ctx, q.Task(expiring[0]), "expires", "abc")
	rdb.HSet(ctx, q.Task(expiring[1]), "expires", "1")

	s := New(rdb, &Options{Models: []string{"m"}})
	if err := s.sweep(ctx, round{read: true}); err == nil {
		t.Error("nothing is said of the lane that can't be swept")
	}
	if active, pending := rdb.LLen(ctx, k.Active()).Val(), rdb.LLen(ctx, k.Pending()).Val(); active != 0 || pending != 3 {
		t.Errorf("%d tasks still active, %d wait; want 0, and 3 whose hash is one", active, pending)
	}
	if n := rdb.LLen(ctx, q.Pending()).Val(); n != 1 {
		t.Errorf("%d queries wait, want the one that does not expire", n)
	}
	rdb.HSet(ctx, k.Task(ids[0]), "pending_since", "abc", "tokens", "1e999")
	rdb.Del(ctx, odd.Retry(), odd.Lease(), odd.Active(), odd.Pending())
	if n := laneStatus(t, rdb)[tasks.Live].Pending; n != 3 {
		t.Errorf("the status says that %d wait", n)
	}
}

// What is known of earlier sweeps may be of a clock that was turned back, or of a hand: the fleet is swept all the same.
func TestSweepsAfterTheClockWasTurnedBack(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"99999999999999", "abc"} {
		rdb := testkit.Redis(t)
		s := New(rdb, nil)
		for _, field := range []string{"sparing", "read", "trimmed"} {
			rdb.HSet(t.Context(), stateKey, field, value)
		}
		if err := s.tick(t.Context()); err != nil {
			t.Errorf("%s: %v", value, err)
		}
		if v := rdb.HGet(t.Context(), stateKey, "sparing").Val(); v != "0" && len(v) != 13 {
			t.Errorf("%s: nobody is taken back from until %s", value, v)
		}
	}
}
