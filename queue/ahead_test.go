package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// counted is a hook that counts the scripts that reach Redis, by the ends of their first two keys.
type counted struct {
	ackHook // its pipelines and dials pass
	mu      *sync.Mutex
	calls   map[string]int
}

func (c counted) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if scriptKey(cmd, 1, "") {
			first, _ := cmd.Args()[3].(string)
			second, _ := cmd.Args()[4].(string)
			c.mu.Lock()
			c.calls[first[strings.LastIndex(first, ":")+1:]+" "+second[strings.LastIndex(second, ":")+1:]]++
			c.mu.Unlock()
		}
		return next(ctx, cmd)
	}
}

func (c counted) of(keys string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[keys]
}

// A full lane costs a few leases and not one each, and there are never more than slots.
func TestManyLeasesInOneTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		k := keysOf("m", tasks.Live)
		count := counted{mu: new(sync.Mutex), calls: map[string]int{}}
		h := newRecorder(func(context.Context, tasks.Task) error {
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		receipts := enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 1000)...)
		serve(t, miniConn(m), h, &ServerOptions{Concurrency: 64, faults: faults{hook: count}}, tasks.Live)
		for range 20 {
			time.Sleep(30 * time.Millisecond)
			// A slot is free again before the ack of its task has arrived.
			if n := rdb.LLen(t.Context(), k.active()).Val(); n > 2*64 {
				t.Errorf("%d tasks are leased for 64 slots", n)
			}
		}
		if failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Fatalf("failures %v, %v", failures, err)
		}
		if leases := count.of("pending active"); leases > 1000/4 || leases < 1000/leaseAhead {
			t.Errorf("%d leases for 1000 tasks", leases)
		}
		if n := count.of("pending paused"); n != 0 {
			t.Errorf("%d of asynq's own dequeues reached Redis", n)
		}
		if most := h.most(); most > 64 {
			t.Errorf("%d calls inside at once", most)
		}
	})
}

// What is leased and was not asked for goes back in its order, no retry charged.
func TestUnaskedLeasesGoBack(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx, k := t.Context(), keysOf("m", tasks.Live)
	enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 10)...)
	rdb.Del(ctx, k.task("t2")) // a task whose hash is gone
	before := rdb.LRange(ctx, k.pending(), 0, -1).Val()
	a := newAhead(rdb, "m", []tasks.Lane{tasks.Live}, newSlots(8))
	msg, err := a.next(ctx, k.pending())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseMessage([]byte(msg)); err != nil || got.ID != "t0" {
		t.Fatalf("first message %+v, %v", got, err)
	}
	// Seven of eight: the one without a hash is leased, for the reaper, and not handed out.
	if ready := len(a.lanes[k.pending()].ready); ready != 6 || rdb.LLen(ctx, k.active()).Val() != 8 {
		t.Fatalf("%d are ready, %d active", ready, rdb.LLen(ctx, k.active()).Val())
	}
	if rdb.Exists(ctx, k.task("t2")).Val() != 0 {
		t.Error("the lease made a hash for a task that has none")
	}
	a.giveBack(ctx)
	want := slices.DeleteFunc(before, func(id string) bool { return id == "t0" || id == "t2" })
	if got := rdb.LRange(ctx, k.pending(), 0, -1).Val(); !slices.Equal(got, want) {
		t.Errorf("pending is %v, want %v", got, want)
	}
	for _, id := range want {
		f := rdb.HGetAll(ctx, k.task(id)).Val()
		if msg, err := parseMessage([]byte(f["msg"])); err != nil || msg.Retried != 0 || f["state"] != "pending" || f["pending_since"] == "" {
			t.Errorf("%s has %v", id, f)
		}
	}
	if n := rdb.ZCard(ctx, k.lease()).Val(); n != 2 {
		t.Errorf("%d leases are left, want t0's and t2's", n)
	}
}

// A stopping server gives back at once what its handlers have not begun.
func TestStopGivesBackWhatIsAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 50)...)
		release := make(chan struct{})
		h := newRecorder(func(context.Context, tasks.Task) error {
			<-release
			return nil
		})
		s := serve(t, miniConn(m), h, &ServerOptions{Concurrency: 20}, tasks.Live)
		time.Sleep(time.Second)
		s.Stop()
		begun, _ := h.runs("")
		status := laneStatus(t, rdb)[tasks.Live]
		if begun > 20 || int(status.Active) != begun || int(status.Pending) != 50-begun {
			t.Errorf("%d begun, %d active, %d pending", begun, status.Active, status.Pending)
		}
		close(release)
	})
}

func TestConcurrencyChangesWhileServing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		h := newRecorder(func(context.Context, tasks.Task) error {
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		s := serve(t, miniConn(m), h, &ServerOptions{Concurrency: 4}, tasks.Live)
		enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 2000)...)
		for _, n := range []int{4, 50, 1, 20} {
			if err := s.SetConcurrency(n); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // those that are beyond the new number end
			if got := mostRunning(s); got != n {
				t.Errorf("%d calls inside, want %d", got, n)
			}
		}
		for _, n := range []int{0, -1, MaxConcurrency + 1} {
			err := s.SetConcurrency(n)
			if err == nil || !strings.Contains(err.Error(), strconv.Itoa(MaxConcurrency)) {
				t.Errorf("%d: %v, want an error that names the bounds", n, err)
			}
		}
		if got := mostRunning(s); got != 20 {
			t.Errorf("%d calls inside after refused changes, want 20", got)
		}
	})
}

// mostRunning looks for a while: tasks of the same length end together.
func mostRunning(s *Server) int {
	most := 0
	for range 30 {
		time.Sleep(7 * time.Millisecond)
		most = max(most, len(s.Running()))
	}
	return most
}

// A task that asynq was given and never starts holds its slot for a moment only.
func TestATaskThatNeverStartsHoldsNoSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2)
		one, all, idle := func(int) int { return 1 }, func(limit int) int { return limit }, func() bool { return false }
		s.give("a")
		s.give("b")
		begun := time.Now()
		if n := s.room(one, idle); n != 2 || time.Since(begun) < startLate || time.Since(begun) > 2*startLate {
			t.Errorf("room for %d after %v", n, time.Since(begun))
		}
		leave, err := s.enter(t.Context(), time.Now().Add(time.Minute), task(tasks.Live, 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		begun = time.Now()
		if n := s.room(all, idle); n != 1 || time.Since(begun) != gatherWait {
			t.Errorf("room for %d of 2 after %v", n, time.Since(begun))
		}
		s.give("c")
		s.waiting++ // its door is closed
		delete(s.given, "c")
		begun = time.Now()
		if n := s.room(one, idle); n != 0 || time.Since(begun) != roomWait {
			t.Errorf("room for %d of none after %v", n, time.Since(begun))
		}
		time.AfterFunc(time.Second, leave)
		begun = time.Now()
		if n := s.room(one, idle); n != 1 || time.Since(begun) != time.Second {
			t.Errorf("room for %d after %v", n, time.Since(begun))
		}
		time.AfterFunc(time.Second, s.close)
		s.resize(0)
		if n := s.room(one, idle); n != 0 {
			t.Errorf("room for %d after close", n)
		}
	})
}

// Acks that travel together leave behind what asynq's own acks do, and tell each caller what those would.
func TestSharedAcksAreAsynqs(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx, k := t.Context(), keysOf("m", tasks.Live)
	enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 40)...)
	lease(t, rdb, tasks.Live, 40)
	trips := newSharedTrips(rdb)
	day := string(k) + "processed:2026-01-02"
	acks := func(ids ...string) (list []*sharedCommand) {
		for _, id := range ids {
			args := []any{"evalsha", "whichever", 5, k.active(), k.lease(), k.task(id), day, k.processed(), id, time.Now().Add(time.Hour).Unix(), 1 << 60}
			cmd := redis.NewCmd(ctx, args...)
			list = append(list, &sharedCommand{cmd: cmd, next: func(context.Context, redis.Cmder) error { return nil }})
		}
		return list
	}
	var ids []string
	for i := range 30 {
		ids = append(ids, fmt.Sprintf("t%d", i))
	}
	list := acks(append(ids, "t3", "unknown")...) // one of them twice, one that never was
	trips.run(ctx, list)
	for i, c := range list {
		switch {
		case i < 30 && (c.err != nil || c.cmd.(*redis.Cmd).Val() != "OK"):
			t.Errorf("ack %d: %v, %v", i, c.cmd, c.err)
		case i >= 30 && (c.err == nil || c.err.Error() != "NOT FOUND" || c.cmd.Err() == nil):
			t.Errorf("ack %d of a task that is not active: %v", i, c.err)
		}
	}
	if n := rdb.LLen(ctx, k.active()).Val(); n != 10 {
		t.Errorf("%d are active, want 10", n)
	}
	if n := rdb.ZCard(ctx, k.lease()).Val(); n != 10 {
		t.Errorf("%d leases, want 10", n)
	}
	if n := rdb.Exists(ctx, k.task("t7")).Val(); n != 0 {
		t.Error("the hash of a task that was acknowledged is there")
	}
	for _, key := range []string{day, k.processed()} {
		if got := rdb.Get(ctx, key).Val(); got != "30" {
			t.Errorf("%s is %q, want 30", key, got)
		}
	}
	if ttl := rdb.TTL(ctx, day).Val(); ttl <= 0 {
		t.Error("the day's count never lapses")
	}
}

// The acks of asynq 0.26 are recognised: with hundreds of tasks that end at once they share scripts.
func TestAcksShareScripts(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	release := make(chan struct{})
	h := newRecorder(func(ctx context.Context, _ tasks.Task) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	receipts := enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 200)...)
	serve(t, connOf(rdb), h, &ServerOptions{Concurrency: 200}, tasks.Live)
	for laneStatus(t, rdb)[tasks.Live].Active < 200 {
		time.Sleep(5 * time.Millisecond)
	}
	rdb.ConfigResetStat(t.Context())
	close(release)
	if failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Fatalf("failures %v, %v", failures, err)
	}
	// Each lone ack is an LREM by asynq's script in one call, and so is each of a shared one: the calls differ.
	stats := rdb.Info(t.Context(), "commandstats").Val()
	if calls, lrems := calls(stats, "evalsha"), calls(stats, "lrem"); lrems != 200 || calls >= lrems { // each alone would be a script each, and other scripts run too
		t.Errorf("%d scripts for %d acks", calls, lrems)
	}
}

// calls reads from INFO commandstats how often a command was called.
func calls(stats, command string) int {
	_, rest, _ := strings.Cut(stats, "cmdstat_"+command+":calls=")
	number, _, _ := strings.Cut(rest, ",")
	n, _ := strconv.Atoi(number)
	return n
}

// asynq's own tools see a task that was leased ahead as active.
func TestAsynqSeesLeasedTasks(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 5)...)
	a := newAhead(rdb, "m", []tasks.Lane{tasks.Live}, newSlots(8))
	if _, err := a.next(t.Context(), keysOf("m", tasks.Live).pending()); err != nil {
		t.Fatal(err)
	}
	list, err := asynq.NewInspectorFromRedisClient(rdb).ListActiveTasks(queueName("m", tasks.Live))
	if err != nil || len(list) != 5 {
		t.Fatalf("%d active tasks, %v", len(list), err)
	}
	for _, info := range list {
		if info.State != asynq.TaskStateActive || info.IsOrphaned {
			t.Errorf("task %s is %v, orphaned %v", info.ID, info.State, info.IsOrphaned)
		}
	}
}

// A shared ack answers each task as asynq's own script would, also where some are not as they should be.
func TestSharedAckOfDamagedTasks(t *testing.T) {
	t.Parallel()
	k := keysOf("m", tasks.Live)
	for _, tt := range []struct {
		name   string
		damage func(ctx context.Context, rdb redis.UniversalClient, id string) error
	}{
		{"whole", func(context.Context, redis.UniversalClient, string) error { return nil }},
		{"not active", func(ctx context.Context, rdb redis.UniversalClient, id string) error {
			return rdb.LRem(ctx, k.active(), 0, id).Err()
		}},
		{"no lease", func(ctx context.Context, rdb redis.UniversalClient, id string) error {
			return rdb.ZRem(ctx, k.lease(), id).Err()
		}},
		{"no hash", func(ctx context.Context, rdb redis.UniversalClient, id string) error {
			return rdb.Del(ctx, k.task(id)).Err()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, rdb := t.Context(), testkit.Redis(t)
			enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 3)...)
			a := newAhead(rdb, "m", []tasks.Lane{tasks.Live}, newSlots(8))
			if _, err := a.next(ctx, k.pending()); err != nil {
				t.Fatal(err)
			}
			ids := rdb.LRange(ctx, k.active(), 0, -1).Val()
			if err := tt.damage(ctx, rdb, ids[1]); err != nil || len(ids) != 3 {
				t.Fatal(ids, err)
			}
			keys := []string{k.active(), k.lease(), "day", "all"}
			args := []any{time.Now().Add(time.Hour).Unix(), 1 << 40}
			for _, id := range append(ids, ids[0]) { // one is acknowledged twice
				keys, args = append(keys, k.task(id)), append(args, id)
			}
			want := []int64{1, 1, 1, 0}
			if tt.name != "whole" {
				want[1] = 0
			}
			ack := newScript(ackLua)
			got, err := ack.Run(ctx, rdb, keys, args...).Int64Slice()
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("answers %v, %v, want %v", got, err, want)
			}
			if n, want := rdb.Get(ctx, "all").Val(), strconv.FormatInt(want[0]+want[1]+want[2], 10); n != want {
				t.Errorf("%s tasks are counted, want %s", n, want)
			}
			for _, id := range []string{ids[0], ids[2]} {
				if rdb.Exists(ctx, k.task(id)).Val() != 0 || rdb.ZScore(ctx, k.lease(), id).Err() == nil {
					t.Errorf("task %s is still there", id)
				}
			}
		})
	}
}
