package queue

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// T14: cancelled means cancelled, wherever the task is: no retry, no dead letter, no second run.
func TestCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		ctx, k, lanes, c := t.Context(), keysOf("m", tasks.Live), NewLanes(rdb), NewClient(rdb, nil)
		h := newRecorder(func(ctx context.Context, task tasks.Task) error {
			if task.ID == "t0" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		receipts := enqueue(t, c, task(tasks.Live, 0))
		serve(t, miniConn(m), h, &ServerOptions{Concurrency: 1}, tasks.Live)
		time.Sleep(time.Second) // t0 is inside
		receipts = append(receipts, enqueue(t, c, task(tasks.Live, 1), task(tasks.Live, 2), task(tasks.Live, 3))...)
		rdb.LRem(ctx, k.pending(), 0, "t2")
		rdb.ZAdd(ctx, k.retry(), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "t2"})
		rdb.HSet(ctx, k.task("t2"), "state", "retry")
		if err := lanes.Pause(ctx, "m", tasks.Live); err != nil {
			t.Fatal(err)
		}

		got, err := lanes.Cancel(ctx, "m", tasks.Live, []string{"t0", "t1", "t2", "t9"})
		if want := []Cancellation{Marked, Removed, Removed, Missing}; err != nil || !slices.Equal(got, want) {
			t.Errorf("cancelled: %v, %v, want %v", got, err, want)
		}
		time.Sleep(cancelEvery + 100*time.Millisecond)
		for _, id := range []string{"t0", "t1", "t2"} {
			if where := whereabouts(t, rdb, k, id); where != "" || rdb.Exists(ctx, k.task(id)).Val() > 0 {
				t.Errorf("%s is in %q", id, where)
			}
		}
		if err := lanes.Resume(ctx, "m", tasks.Live); err != nil {
			t.Fatal(err)
		}
		failures, err := c.Wait(ctx, receipts, nil)
		if err != nil || len(failures) != 3 || failures[0].Cause != "the task was cancelled" {
			t.Errorf("failures %+v, %v", failures, err)
		}

		// Whoever wants it again gets it.
		again := enqueue(t, c, task(tasks.Live, 1))
		if failures, err := c.Wait(ctx, again, nil); err != nil || len(failures) > 0 {
			t.Errorf("after another enqueue: %+v, %v", failures, err)
		}
		if _, n := h.runs("t1"); n != 1 {
			t.Errorf("t1 ran %d times", n)
		}
		time.Sleep(cancelKept + time.Minute)
		if err := (laneSweep{NewMaintenance(rdb, nil), k, "m", tasks.Live}).forgetCancelled(ctx); err != nil {
			t.Error(err)
		}
		if n := rdb.ZCard(ctx, k.cancelled()).Val(); n != 0 {
			t.Errorf("%d marks are left", n)
		}
	})
}

// A task that is marked in a long line is forgotten by the worker that takes it.
func TestCancelInALongLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		c, h := NewClient(rdb, nil), newRecorder(nil)
		if err := NewLanes(rdb).Pause(t.Context(), "m", tasks.Live); err != nil {
			t.Fatal(err)
		}
		receipts := enqueue(t, c, manyTasks(tasks.Live, 1200)...)
		got, err := NewLanes(rdb).Cancel(t.Context(), "m", tasks.Live, []string{"t5"})
		if err != nil || !slices.Equal(got, []Cancellation{Marked}) {
			t.Errorf("cancelled: %v, %v", got, err)
		}
		serve(t, miniConn(m), h, nil, tasks.Live)
		time.Sleep(2 * cancelEvery)
		if err := NewLanes(rdb).Resume(t.Context(), "m", tasks.Live); err != nil {
			t.Fatal(err)
		}
		failures, err := c.Wait(t.Context(), receipts, nil)
		if all, five := h.runs("t5"); err != nil || len(failures) != 1 || failures[0].ID != "t5" || all != 1199 || five != 0 {
			t.Errorf("failures %+v, %v; %d runs, %d of the cancelled", failures, err, all, five)
		}
	})
}

// T12: a task that nobody waits for any more is forgotten, not retried until it dies.
func TestExpired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		c, h := NewClient(rdb, nil), newRecorder(nil)
		late, fresh := task(tasks.Live, 1), task(tasks.Live, 2)
		late.Expires, fresh.Expires = time.Now().Add(time.Minute).UTC(), time.Now().Add(time.Hour).UTC()
		receipts := enqueue(t, c, late, fresh)
		time.Sleep(2 * time.Minute)
		serve(t, miniConn(m), h, nil, tasks.Live)
		if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %+v, %v", failures, err)
		}
		if len(h.tasks) != 1 || h.tasks[0].ID != "t2" || !h.tasks[0].Expires.Equal(fresh.Expires) {
			t.Errorf("ran %+v, want only %+v", h.tasks, fresh)
		}
		if s := laneStatus(t, rdb)[tasks.Live]; s.Dead+s.Retry != 0 {
			t.Errorf("lane %+v", s)
		}
	})
}
