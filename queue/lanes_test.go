package queue

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ctx := t.Context()
		enqueue(t, NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 5)...)
		time.Sleep(90 * time.Second)
		enqueue(t, NewClient(rdb, nil), queuetest.Task(tasks.Query, 9))
		k := wire.KeysOf("m", tasks.Live)
		queuetest.MoveTo(wire.Keys.Retry, "retry")(ctx, rdb, k)
		queuetest.MoveTo(wire.Keys.Archived, "archived")(ctx, rdb, k)
		queuetest.MoveTo(wire.Keys.Scheduled, "scheduled")(ctx, rdb, k)
		rdb.LMove(ctx, k.Pending(), k.Active(), "RIGHT", "LEFT")
		enqueue(t, NewClient(rdb, nil), queuetest.Task(tasks.Live, 4)) // it waits already
		rdb.ZAdd(ctx, k.Retry(), redis.Z{Score: 4e9, Member: "later"})
		size := rdb.HStrLen(ctx, k.Task("t4"), "msg").Val()
		want := LaneStatus{Duplicates: 1, RetryDue: 1, Bytes: size, Tokens: size / 4, Model: "m", Lane: tasks.Live, Pending: 1, Active: 1, Scheduled: 1, Retry: 2, Dead: 1,
			OldestPending: 90 * time.Second}
		if got := laneStatus(t, rdb)[tasks.Live]; got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		// T9 and T8: neither a missing hash nor a lost registry stops the view.
		rdb.Del(ctx, k.Task(rdb.LIndex(ctx, k.Pending(), -1).Val()), wire.RegistryKey)
		want.OldestPending, want.Bytes, want.Tokens = 0, 0, 0
		if got := laneStatus(t, rdb)[tasks.Live]; got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestStatusFindsModels(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	a, b := queuetest.Task(tasks.Live, 1), queuetest.Task(tasks.Backfill, 2)
	a.Model, b.Model = "zeta", "alpha"
	enqueue(t, NewClient(rdb, nil), a, b)
	rdb.SAdd(t.Context(), wire.RegistryKey, "default", "embed:bad")
	list, err := NewLanes(rdb).Status(t.Context(), "named", "alpha")
	if err != nil {
		t.Fatal(err)
	}
	var models []string
	for _, s := range list {
		models = append(models, s.Model)
	}
	if got := slices.Compact(models); !slices.Equal(got, []string{"alpha", "named", "zeta"}) || len(list) != 12 {
		t.Errorf("%d lanes of %q", len(list), got)
	}
	if _, err := NewLanes(rdb).Status(t.Context(), "No Such"); err == nil {
		t.Error("a bad alias is accepted")
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		h, lanes := queuetest.NewRecorder(nil), NewLanes(rdb)
		for range 2 { // twice is no error
			if err := lanes.Pause(t.Context(), "m", tasks.Live); err != nil {
				t.Fatal(err)
			}
		}
		queuetest.Serve(t, rdb, h, nil, tasks.Live, tasks.Backfill)
		enqueue(t, NewClient(rdb, nil), queuetest.Task(tasks.Live, 1), queuetest.Task(tasks.Backfill, 2))
		time.Sleep(10 * time.Second)
		_, live := h.Runs("t1")
		if _, backfill := h.Runs("t2"); live != 0 || backfill != 1 || !laneStatus(t, rdb)[tasks.Live].Paused {
			t.Errorf("paused lane ran %d, the other %d", live, backfill)
		}
		for range 2 {
			if err := lanes.Resume(t.Context(), "m", tasks.Live); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if _, live := h.Runs("t1"); live != 1 {
			t.Errorf("resumed lane ran %d", live)
		}
	})
}

// Wait shows retries with their cause, polls in bounded steps, and ends with its context.
func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		c, k := NewClient(rdb, nil), wire.KeysOf("m", tasks.Live)
		receipts := enqueue(t, c, queuetest.Tasks(tasks.Live, 2*pollTasks+3)...)
		m := wire.Message{Type: "embed:document", ID: "t0", ErrorMsg: "store is away", Retried: 1}
		rdb.HSet(t.Context(), k.Task("t0"), "state", "retry", "msg", m.Append(nil))
		receipts = append(receipts, Receipt{ID: "bad", State: Refused}, Receipt{ID: "old", State: Done})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second+pollEvery/2)
		defer cancel()
		var seen []Progress
		_, err := c.Wait(ctx, receipts, func(p Progress) { seen = append(seen, p) })
		if err == nil || !strings.Contains(err.Error(), "2003 of 2004 still open") {
			t.Errorf("error %v", err)
		}
		want := Progress{Total: 2004, Done: 1, Retrying: 1, Open: 2002, LastCause: "store is away"}
		if len(seen) != 11 || seen[10] != want {
			t.Errorf("%d looks, the last %+v, want 11, %+v", len(seen), seen[len(seen)-1], want)
		}
		for _, r := range receipts[1:] {
			rdb.Del(t.Context(), k.Task(r.ID))
		}
		rdb.HSet(t.Context(), k.Task("t0"), "state", "archived")
		failures, err := c.Wait(t.Context(), receipts, nil)
		if err != nil || len(failures) != 1 || failures[0].Cause != "store is away" || failures[0].Kind != tasks.EmbedDocument {
			t.Errorf("failures %+v, %v", failures, err)
		}
	})
}

// T28: the same tasks enqueued by many goroutines at once; the race detector watches.
func TestEnqueueIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c, list := NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 200)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.Enqueue(context.Background(), list); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := laneStatus(t, rdb)[tasks.Live].Pending; n != int64(len(list)) {
		t.Errorf("%d pending, want %d", n, len(list))
	}
}
