package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/tasks"
)

// count returns how many receipts say so, and the first that says full.
func count(receipts []Receipt, state State) (n int, full *FullError) {
	for _, r := range receipts {
		if r.State == state {
			n++
		}
		if full == nil {
			_ = errors.As(r.Err, &full)
		}
	}
	return n, full
}

func TestLaneLimit(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := NewClient(rdb, &ClientOptions{Limits: Limits{Tasks: 250, Queries: 2}})
	receipts, err := c.Enqueue(t.Context(), queuetest.Tasks(tasks.Live, 400))
	in, full := count(receipts, Enqueued)
	if err != nil || in != 250 || full == nil || full.RetryAfter() != anyRetryAfter || !strings.Contains(full.Error(), "250 tasks may wait") {
		t.Errorf("%d are in, %v, %v", in, full, err)
	}
	if tasks.Classify(full) != tasks.Overloaded || receipts[399].State.Accepted() {
		t.Errorf("%v is %s", full, tasks.Classify(full))
	}
	// What is there already, or died there, has its room.
	if again, err := c.Enqueue(t.Context(), queuetest.Tasks(tasks.Live, 250)); err != nil || again[0].State != Attached || again[249].State != Attached {
		t.Errorf("again: %+v, %v", again[0], err)
	}
	// Other lanes have theirs, the query lane its own.
	other := append(queuetest.Tasks(tasks.Backfill, 100), queuetest.Tasks(tasks.Query, 3)...)
	receipts, err = c.Enqueue(t.Context(), other)
	if in, full := count(receipts, Enqueued); err != nil || in != 102 || full == nil || full.Lane != tasks.Query {
		t.Errorf("%d are in, %v, %v", in, full, err)
	}
	// Who is in the queue's care already meets no limit.
	if r := enqueue(t, NewInsider(rdb), queuetest.Task(tasks.Live, 999)); r[0].State != Enqueued {
		t.Errorf("an insider: %+v", r)
	}
}

func TestByteLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		big := func(from, to int) []tasks.Task {
			list := queuetest.Tasks(tasks.Live, to)[from:]
			for i := range list {
				list[i].Payload = fmt.Appendf(nil, `{"n":%q}`, strings.Repeat("x", 1000))
			}
			return list
		}
		c := NewClient(rdb, &ClientOptions{Limits: Limits{Bytes: 200_000}})
		enqueue(t, c, big(0, 50)...) // now their size is known
		time.Sleep(gaugeEvery)
		receipts, err := c.Enqueue(t.Context(), big(50, 400))
		in, full := count(receipts, Enqueued)
		if err != nil || full == nil || in+50 < 180 || in+50 > 200 {
			t.Errorf("%d kB are in, %v, %v", in+50, full, err)
		}
	})
}

// The answer is the time that the lane needs, and who waits gets in.
func TestRetryAfterFollowsTheDrainRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		var calls atomic.Int64
		h := queuetest.NewRecorder(func(context.Context, tasks.Task) error { // a second on average, and not in step
			time.Sleep(time.Duration(700+calls.Add(1)*137%600) * time.Millisecond)
			return nil
		})
		queuetest.Serve(t, rdb, h, &consumer.Options{Concurrency: 10}, tasks.Live) // ten a second
		c := NewClient(rdb, &ClientOptions{Limits: Limits{Tasks: 100}})
		list := queuetest.Tasks(tasks.Live, 400)
		var waits []time.Duration
		left := 400
		receipts, err := c.EnqueueAll(t.Context(), list, func(n int, why *FullError) {
			if n > left {
				t.Errorf("%d are left after %d", n, left)
			}
			left, waits = n, append(waits, why.RetryAfter())
		})
		if in, _ := count(receipts, Enqueued); err != nil || in != 400 {
			t.Fatalf("%d are in, %v", in, err)
		}
		last := waits[len(waits)-1]
		if want := time.Duration(left/10) * time.Second; last < want/2 || last > 2*want+time.Second {
			t.Errorf("%d left at ten a second, told to wait %v; all answers: %v", left, last, waits)
		}
		if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("%v, %v", failures, err)
		}
	})
}

// Above 85 % of maxmemory producers are refused, above 95 % queries too; workers go on.
func TestFullRedisRefusesProducers(t *testing.T) {
	t.Parallel()
	s := testkit.RedisServer(t)
	rdb := s.Client()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Some megabytes, beside which a connection's buffers are little. They don't travel, since Redis keeps a buffer of
	// the size of a large argument for some seconds, and is less full when it drops it.
	if err := rdb.SetRange(ctx, "ballast", 40<<20, "x").Err(); err != nil {
		t.Fatal(err)
	}
	before := enqueue(t, NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 500)...)
	set := func(part float64) {
		t.Helper()
		info, err := rdb.InfoMap(ctx, "memory").Result()
		if err != nil {
			t.Fatal(err)
		}
		var used float64
		if _, err := fmt.Sscan(info["Memory"]["used_memory"], &used); err != nil {
			t.Fatal(err)
		}
		if err := rdb.ConfigSet(ctx, "maxmemory", fmt.Sprintf("%.0f", used/part)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set(0.90)
	c := NewClient(rdb, nil)
	receipts, err := c.Enqueue(ctx, []tasks.Task{queuetest.Task(tasks.Live, 1000), queuetest.Task(tasks.Query, 1001)})
	var full *FullError
	if err != nil || receipts[0].State != Full || !errors.As(receipts[0].Err, &full) || !strings.Contains(full.What, "maxmemory") || receipts[1].State != Enqueued {
		t.Errorf("receipts %+v, %v", receipts, err)
	}
	h := queuetest.NewRecorder(nil)
	queuetest.Serve(t, rdb, h, nil, tasks.Live, tasks.Query)
	if failures, err := c.Wait(ctx, append(before, receipts[1]), nil); err != nil || len(failures) > 0 {
		t.Errorf("workers: %v, %v", failures, err)
	}
	set(0.97)
	receipts, err = NewClient(rdb, nil).Enqueue(ctx, []tasks.Task{queuetest.Task(tasks.Query, 1002)})
	if err != nil || receipts[0].State != Full {
		t.Errorf("receipts %+v, %v", receipts, err)
	}
	if err := rdb.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	enqueue(t, NewClient(rdb, nil), queuetest.Task(tasks.Live, 1000))
}

// T18: of a Redis that denies even the dequeue, bare asynq asks 20,000 times a second. Ours asks a few times, and
// goes on by itself when there is room again.
func TestFullRedisLetsWorkersRest(t *testing.T) {
	t.Parallel()
	s := testkit.RedisServer(t)
	rdb := s.Client()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := NewClient(rdb, nil)
	receipts := enqueue(t, c, queuetest.Tasks(tasks.Live, 20)...)
	if err := rdb.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	h := queuetest.NewRecorder(nil)
	queuetest.Serve(t, rdb, h, &consumer.Options{Logger: slog.New(slog.DiscardHandler)}, tasks.Live, tasks.Backfill, tasks.Query)
	commands := func() (n float64) {
		t.Helper()
		info, err := rdb.InfoMap(ctx, "stats").Result()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(info["Stats"]["total_commands_processed"], &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before, began := commands(), time.Now()
	<-time.After(2 * time.Second) // a rate takes a while
	rate := (commands() - before) / time.Since(began).Seconds()
	t.Logf("a server of three lanes sends a full Redis %.0f commands a second", rate)
	// Five looks a second and lane, by a command for each task; spinning is a hundred times that.
	if all, _ := h.Runs(""); rate > 500 || all > 0 {
		t.Errorf("%.0f commands a second, and %d tasks were handed out", rate, all)
	}
	if err := rdb.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if failures, err := c.Wait(ctx, receipts, nil); err != nil || len(failures) > 0 {
		t.Errorf("after there was room: %v, %v", failures, err)
	}
}
