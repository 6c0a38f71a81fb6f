package upkeep

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// planted is one inconsistency: how it comes about, and where the task must be after the repair.
var planted = []struct {
	fault Fault
	plant func(ctx context.Context, rdb *redis.Client, k wire.Keys)
	where string // of task t1 after the repair
}{
	{Unregistered, func(ctx context.Context, rdb *redis.Client, _ wire.Keys) { rdb.Del(ctx, wire.RegistryKey) }, "pending"},
	{NoLease, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.LPush(ctx, k.Active(), "t1")
		rdb.HSet(ctx, k.Task("t1"), "state", "active")
	}, "pending"},
	{LeaseOnly, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: float64(time.Now().Add(-time.Minute).Unix()), Member: "t1"})
		rdb.HSet(ctx, k.Task("t1"), "state", "active")
	}, "pending"},
	{NoHash, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { rdb.Del(ctx, k.Task("t1")) }, ""},
	{NoHash, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.Del(ctx, k.Task("t1"))
		rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: 1, Member: "t1"})
	}, ""},
	{NoList, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { rdb.LRem(ctx, k.Pending(), 0, "t1") }, "pending"},
	{NoList, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { // T7
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.HSet(ctx, k.Task("t1"), "state", "archived")
	}, "dead"},
	{Phantom, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { // T30
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.Del(ctx, k.Task("t1"))
		rdb.HSet(ctx, k.Task("t1"), "result", "late")
	}, ""},
	{Junk, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.HSet(ctx, k.Task("t1"), "msg", "\xff\xff")
	}, "dead"},
	{Junk, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { // T35: it would stop asynq's recovery of all queues
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.LPush(ctx, k.Active(), "t1")
		rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: 1, Member: "t1"})
		rdb.HSet(ctx, k.Task("t1"), "msg", "\xff\xff", "state", "active")
	}, "dead"},
	{NoHash, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { // T34: evicted under a worker
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.LPush(ctx, k.Active(), "t1")
		rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: 1, Member: "t1"})
		rdb.Del(ctx, k.Task("t1"))
	}, ""},
	{NoHash, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.ZAdd(ctx, k.Retry(), redis.Z{Score: 4e9, Member: "t1"})
		rdb.Del(ctx, k.Task("t1"))
	}, ""},
	{Misplaced, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { rdb.LPush(ctx, k.Pending(), "t1") }, "pending"},
	{Misplaced, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.ZAdd(ctx, k.Retry(), redis.Z{Score: 4e9, Member: "t1"})
		rdb.HSet(ctx, k.Task("t1"), "state", "retry")
	}, "retry"},
	{Misplaced, func(ctx context.Context, rdb *redis.Client, k wire.Keys) { // T6
		rdb.LRem(ctx, k.Pending(), 0, "t1")
		rdb.ZAdd(ctx, k.Archived(), redis.Z{Score: 1, Member: "t1"})
		rdb.HSet(ctx, k.Task("t1"), "state", "active")
	}, "pending"},
	{LongArchive, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		m := wire.Message{Type: "embed:document", ErrorMsg: "no"}
		for i := range archiveAlarm + 1 {
			m.ID = fmt.Sprintf("a%d", i)
			rdb.ZAdd(ctx, k.Archived(), redis.Z{Score: 1, Member: m.ID})
			rdb.HSet(ctx, k.Task(m.ID), "msg", m.Append(nil), "state", "archived")
		}
	}, "pending"},
	{UniqueLock, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.Set(ctx, string(k)+"unique:embed:document:0123", "t1", time.Hour)
	}, "pending"},
	{LetterNoHash, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.ZAdd(ctx, k.Dead(), redis.Z{Score: 1, Member: "x"})
	}, "pending"},
	{LetterNoIndex, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.HSet(ctx, k.Letter("x"), "code", "panic", "last", "1700000000000")
		rdb.HIncrBy(ctx, k.Causes(), "panic", 1)
	}, "pending"},
	{CausesMiscount, func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		rdb.HSet(ctx, k.Causes(), "panic", 7)
	}, "pending"},
}

// Each inconsistency is found alone, left alone without Repair, mended with it, and then gone; no other task
// is touched.
func TestFsck(t *testing.T) {
	t.Parallel()
	for i, tt := range planted {
		t.Run(fmt.Sprintf("%02d %s", i, tt.fault), func(t *testing.T) {
			t.Parallel()
			rdb := testkit.Redis(t)
			ctx, k := t.Context(), wire.KeysOf("m", tasks.Live)
			enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 5)...)
			tt.plant(ctx, rdb, k)
			before := rdb.DBSize(ctx).Val()
			for range 2 {
				if got := findFaults(t, rdb, nil); got != fmt.Sprintf("%s %s", tt.fault, tasks.Live) {
					t.Fatalf("found %q, want %s", got, tt.fault)
				}
			}
			if after := rdb.DBSize(ctx).Val(); after != before {
				t.Errorf("looking changed %d keys to %d", before, after)
			}
			_ = findFaults(t, rdb, &FsckOptions{Repair: true})
			if got := findFaults(t, rdb, &FsckOptions{Repair: true}); got != "" {
				t.Errorf("after the repair: %q", got)
			}
			if got := queuetest.Whereabouts(t, rdb, k, "t1"); got != tt.where {
				t.Errorf("t1 is in %q, want %q", got, tt.where)
			}
			for _, id := range []string{"t0", "t2", "t3", "t4"} {
				if got := queuetest.Whereabouts(t, rdb, k, id); got != "pending" {
					t.Errorf("%s is in %q", id, got)
				}
			}
		})
	}
}

// Processes that were killed stay in asynq's registries of servers and workers, which only their own end would
// have emptied (T27). Those that live are left alone.
func TestFsckStaleProcesses(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	now := float64(time.Now().Unix())
	for _, key := range processKeys {
		rdb.ZAdd(t.Context(), key, redis.Z{Score: now + 10, Member: "alive"}, redis.Z{Score: now - 20, Member: "late"},
			redis.Z{Score: now - 7200, Member: "killed"}, redis.Z{Score: now - 9000, Member: "killed before"})
	}
	for i, want := range []Finding{
		{Fault: StaleProcess, Count: 6, Examples: []string{"killed", "killed", "killed"}},
		{Fault: StaleProcess, Count: 6, Repaired: 6, Examples: []string{"killed", "killed", "killed"}},
		{},
	} {
		findings, err := Fsck(t.Context(), rdb, &FsckOptions{Repair: i > 0})
		if err != nil || len(findings) > 1 || len(findings) == 1 && fmt.Sprint(findings[0]) != fmt.Sprint(want) || len(findings) == 0 && want.Count > 0 {
			t.Errorf("look %d: %+v, %v, want %+v", i, findings, err, want)
		}
	}
	for _, key := range processKeys {
		if left := rdb.ZRange(t.Context(), key, 0, -1).Val(); fmt.Sprint(left) != "[late alive]" {
			t.Errorf("%s holds %q", key, left)
		}
	}
}

// findFaults names what is found, "fault lane" each, and checks that a repair mends all of it.
func findFaults(t *testing.T, rdb *redis.Client, opts *FsckOptions) string {
	t.Helper()
	findings, err := Fsck(t.Context(), rdb, opts)
	if err != nil {
		t.Fatal(err)
	}
	text, repair := "", opts != nil
	for i, f := range findings {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s %s", f.Fault, f.Lane)
		if f.Count == 0 || f.Model != "m" || !repair && f.Repaired != 0 || repair && f.Repaired < f.Count {
			t.Errorf("finding %+v", f)
		}
	}
	return text
}

// A fleet at work is not inconsistent, and repairing it all the time loses and doubles nothing.
func TestFsckWhileTheFleetWorks(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := queuetest.NewRecorder(func(context.Context, tasks.Task) error { time.Sleep(time.Millisecond); return nil })
	queuetest.Serve(t, rdb, h, &consumer.Options{Concurrency: 32}, tasks.Live)
	c := queue.NewClient(rdb, nil)
	receipts := enqueue(t, c, queuetest.Tasks(tasks.Live, 4000)...)
	done := make(chan error)
	go func() {
		_, err := c.Wait(ctx, receipts, nil)
		done <- err
	}()
	checks := 0
	for {
		findings, err := Fsck(ctx, rdb, &FsckOptions{Repair: true})
		for _, f := range findings {
			if err != nil || f.Repaired > 0 {
				t.Errorf("a fleet at work: %+v, %v", f, err)
			}
		}
		checks++
		select {
		case err := <-done:
			if all, _ := h.Runs(""); err != nil || all != 4000 {
				t.Errorf("%d runs of 4000 tasks beside %d checks, %v", all, checks, err)
			}
			return
		default:
		}
	}
}
