package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// named returns n tasks of the model "m" whose ids begin with name.
func named(lane tasks.Lane, name string, n int) []tasks.Task {
	list := make([]tasks.Task, n)
	for i := range list {
		list[i] = tasks.Task{
			ID: fmt.Sprintf("%s-%d", name, i), Kind: tasks.EmbedDocument, Model: "m", Lane: lane,
			Payload: fmt.Appendf(nil, `{"n":%d}`, i), Timeout: time.Minute,
		}
	}
	return list
}

func TestEnqueueWhole(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, k := t.Context(), wire.KeysOf("m", tasks.Query)
	c := NewClient(rdb, &ClientOptions{Limits: Limits{Queries: 5000}})
	waiting := func() int64 { return rdb.LLen(ctx, k.Pending()).Val() }

	receipts, err := c.EnqueueWhole(ctx, named(tasks.Query, "a", WholeTasks))
	if err != nil || len(receipts) != WholeTasks || receipts[WholeTasks-1].State != Enqueued || waiting() != WholeTasks {
		t.Fatalf("%d receipts, %v; %d wait", len(receipts), err, waiting())
	}
	if first, last := rdb.LIndex(ctx, k.Pending(), -1).Val(), rdb.LIndex(ctx, k.Pending(), 0).Val(); first != "a-0" || last != fmt.Sprintf("a-%d", WholeTasks-1) {
		t.Errorf("first %s, last %s", first, last)
	}
	// Nobody of those enters who don't fit together; who fits does, and who is there already takes no room.
	var full *FullError
	if _, err := c.EnqueueWhole(ctx, named(tasks.Query, "b", 1000)); !errors.As(err, &full) || waiting() != WholeTasks {
		t.Errorf("%v; %d wait", err, waiting())
	}
	if full != nil && full.RetryAfter() != anyRetryAfter {
		t.Errorf("to be tried again in %v, though nobody knows", full.RetryAfter())
	}
	if _, err := c.EnqueueWhole(ctx, named(tasks.Query, "c", 904)); err != nil || waiting() != 5000 {
		t.Errorf("%v; %d wait", err, waiting())
	}
	receipts, err = c.EnqueueWhole(ctx, named(tasks.Query, "a", 1000))
	if err != nil || receipts[0].State != Attached || waiting() != 5000 {
		t.Errorf("%v, %v; %d wait", receipts, err, waiting())
	}

	// What never fits, or can't be enqueued, costs nothing.
	var many *TooManyError
	small := NewClient(rdb, &ClientOptions{Limits: Limits{Queries: 10}})
	if _, err := small.EnqueueWhole(ctx, named(tasks.Query, "d", 11)); !errors.As(err, &many) || !many.Permanent() {
		t.Errorf("more than may ever wait: %v", err)
	}
	if _, err := c.EnqueueWhole(ctx, named(tasks.Query, "d", WholeTasks+1)); !errors.As(err, &many) {
		t.Errorf("more than a script takes: %v", err)
	}
	mixed := append(named(tasks.Backfill, "e", 2), named(tasks.Live, "f", 1)...)
	bad := named(tasks.Backfill, "g", 2)
	bad[1].Timeout = time.Millisecond
	for _, list := range [][]tasks.Task{mixed, bad} {
		if _, err := c.EnqueueWhole(ctx, list); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v", err)
		}
	}
	if n := rdb.LLen(ctx, wire.KeysOf("m", tasks.Backfill).Pending()).Val(); n != 0 {
		t.Errorf("%d of those that could not all be enqueued are there", n)
	}
	if receipts, err := c.EnqueueWhole(ctx, nil); err != nil || len(receipts) != 0 {
		t.Errorf("of nothing: %v, %v", receipts, err)
	}
}

// When to come again is the time in which as many leave as are too many.
func TestRetryAfterIsTrue(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, k := t.Context(), wire.KeysOf("m", tasks.Query)
	c := NewClient(rdb, &ClientOptions{Limits: Limits{Queries: 1000}})
	if _, err := c.EnqueueWhole(ctx, named(tasks.Query, "a", 1000)); err != nil {
		t.Fatal(err)
	}
	// A worker that does 100 a second, as the lane's counter tells it.
	gone, stop := context.WithCancel(ctx)
	var worker sync.WaitGroup
	worker.Go(func() {
		for begun, done := time.Now(), int64(0); gone.Err() == nil; time.Sleep(10 * time.Millisecond) {
			if due := int64(time.Since(begun).Seconds() * 100); due > done {
				rdb.IncrBy(ctx, k.Processed(), due-done)
				done = due
			}
		}
	})
	defer worker.Wait()
	defer stop()
	time.Sleep(1500 * time.Millisecond) // no drain rate can be known before
	var full *FullError
	for range 4 { // a look a second
		if _, err := c.EnqueueWhole(ctx, named(tasks.Query, "b", 600)); !errors.As(err, &full) {
			t.Fatalf("no room: %v", err)
		}
		time.Sleep(gaugeEvery)
	}
	if after := full.RetryAfter(); after < 4*time.Second || after > 9*time.Second {
		t.Errorf("600 too many at 100/s: to be tried again in %v, want about 6 s", after)
	}
}

// Every task of a request leaves when its asker does, however long the line.
func TestCancelTogether(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, k, lanes, c := t.Context(), wire.KeysOf("m", tasks.Query), NewLanes(rdb), NewClient(rdb, nil)
	for _, before := range []int{10, longLine + 3*linePage} {
		accept(t, c, named(tasks.Query, "before", before))
		mine := named(tasks.Query, "mine", 2048)
		accept(t, c, mine)
		accept(t, c, named(tasks.Query, "after", 5))
		all := rdb.LRange(ctx, k.Pending(), 0, -1).Val()
		ids := make([]string, len(mine))
		for i := range mine {
			ids[i] = mine[i].ID
		}
		got, err := lanes.Cancel(ctx, "m", tasks.Query, slices.Concat(ids, []string{"nobody"}))
		if err != nil || slices.ContainsFunc(got[:len(ids)], func(c Cancellation) bool { return c != Removed }) || got[len(ids)] != Missing {
			t.Errorf("cancelled: %v", err)
		}
		want := slices.DeleteFunc(all, func(id string) bool { return slices.Contains(ids, id) })
		if left := rdb.LRange(ctx, k.Pending(), 0, -1).Val(); !slices.Equal(left, want) {
			t.Errorf("%d are left, or in another order; want %d", len(left), len(want))
		}
		if n := rdb.Exists(ctx, k.Task(ids[0]), k.Task(ids[2047])).Val(); n != 0 {
			t.Error("texts are left")
		}
	}
}

// accept enqueues tasks without a limit.
func accept(t *testing.T, c *Client, list []tasks.Task) {
	t.Helper()
	receipts, err := c.Enqueue(t.Context(), list)
	if err != nil || slices.ContainsFunc(receipts, func(r Receipt) bool { return !r.State.Accepted() }) {
		t.Fatalf("enqueuing %d tasks: %v", len(list), err)
	}
}
