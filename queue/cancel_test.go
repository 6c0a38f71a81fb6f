package queue

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// T14: cancelled means cancelled, wherever the task is: no retry, no dead letter, no second run.
func TestCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ctx, k, lanes, c := t.Context(), wire.KeysOf("m", tasks.Live), NewLanes(rdb), NewClient(rdb, nil)
		h := queuetest.NewRecorder(func(ctx context.Context, task tasks.Task) error {
			if task.ID == "t0" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		receipts := enqueue(t, c, queuetest.Task(tasks.Live, 0))
		queuetest.Serve(t, rdb, h, &consumer.Options{Concurrency: 1}, tasks.Live)
		time.Sleep(time.Second) // t0 is inside
		receipts = append(receipts, enqueue(t, c, queuetest.Task(tasks.Live, 1), queuetest.Task(tasks.Live, 2), queuetest.Task(tasks.Live, 3))...)
		rdb.LRem(ctx, k.Pending(), 0, "t2")
		rdb.ZAdd(ctx, k.Retry(), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "t2"})
		rdb.HSet(ctx, k.Task("t2"), "state", "retry")
		if err := lanes.Pause(ctx, "m", tasks.Live); err != nil {
			t.Fatal(err)
		}

		got, err := lanes.Cancel(ctx, "m", tasks.Live, []string{"t0", "t1", "t2", "t9"})
		if want := []Cancellation{Marked, Removed, Removed, Missing}; err != nil || !slices.Equal(got, want) {
			t.Errorf("cancelled: %v, %v, want %v", got, err, want)
		}
		time.Sleep(time.Second) // the worker hears of it
		for _, id := range []string{"t0", "t1", "t2"} {
			if where := queuetest.Whereabouts(t, rdb, k, id); where != "" || rdb.Exists(ctx, k.Task(id)).Val() > 0 {
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
		again := enqueue(t, c, queuetest.Task(tasks.Live, 1))
		if failures, err := c.Wait(ctx, again, nil); err != nil || len(failures) > 0 {
			t.Errorf("after another enqueue: %+v, %v", failures, err)
		}
		if _, n := h.Runs("t1"); n != 1 {
			t.Errorf("t1 ran %d times", n)
		}
	})
}

// In a line that is too long for one look a task is found wherever it is.
func TestCancelInALongLine(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c, k := NewInsider(rdb), wire.KeysOf("m", tasks.Live)
	receipts := enqueue(t, c, queuetest.Tasks(tasks.Live, longLine+100)...)
	ids := []string{"t0", "t1", "t9999", "t10000", "t19999", fmt.Sprintf("t%d", longLine+99), "nobody"}
	got, err := NewLanes(rdb).Cancel(t.Context(), "m", tasks.Live, ids)
	want := []Cancellation{Removed, Removed, Removed, Removed, Removed, Removed, Missing}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("cancelled: %v, %v, want %v", got, err, want)
	}
	if n := rdb.LLen(t.Context(), k.Pending()).Val(); n != longLine+100-6 {
		t.Errorf("%d wait, want all but 6 of %d", n, longLine+100)
	}
	for _, id := range ids[:6] {
		if rdb.Exists(t.Context(), k.Task(id)).Val() > 0 || queuetest.Whereabouts(t, rdb, k, id) != "" {
			t.Errorf("%s is still there", id)
		}
	}
	failures, err := c.Wait(t.Context(), append(receipts[:2], receipts[longLine+99]), nil)
	if err != nil || len(failures) != 3 || failures[0].Cause != "the task was cancelled" {
		t.Errorf("who waits for them hears %+v, %v", failures, err)
	}
}

// T12: a task that nobody waits for any more is forgotten, not retried until it dies.
func TestExpired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		c, h := NewClient(rdb, nil), queuetest.NewRecorder(nil)
		late, fresh := queuetest.Task(tasks.Live, 1), queuetest.Task(tasks.Live, 2)
		late.Expires, fresh.Expires = time.Now().Add(time.Minute).UTC(), time.Now().Add(time.Hour).UTC()
		receipts := enqueue(t, c, late, fresh)
		time.Sleep(2 * time.Minute)
		queuetest.Serve(t, rdb, h, nil, tasks.Live)
		if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %+v, %v", failures, err)
		}
		if ran := h.Tasks(); len(ran) != 1 || ran[0].ID != "t2" || !ran[0].Expires.Equal(fresh.Expires) {
			t.Errorf("ran %+v, want only %+v", ran, fresh)
		}
		if s := laneStatus(t, rdb)[tasks.Live]; s.Dead+s.Retry != 0 {
			t.Errorf("lane %+v", s)
		}
	})
}
