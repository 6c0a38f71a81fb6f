package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// batches are the sizes at which what must hold of a consumer is tested: each task alone, and as it ships.
var batches = []int{1, defaultBatch}

// eachBatch runs a test at each size.
func eachBatch(t *testing.T, test func(t *testing.T, batch int)) {
	for _, n := range batches {
		t.Run(fmt.Sprintf("batch %d", n), func(t *testing.T) {
			t.Parallel()
			test(t, n)
		})
	}
}

// bubble is eachBatch in a bubble of fake time with a miniredis.
func bubble(t *testing.T, test func(t *testing.T, rdb *redis.Client, batch int)) {
	eachBatch(t, func(t *testing.T, batch int) {
		synctest.Test(t, func(t *testing.T) {
			_, rdb := testkit.MiniRedis(t)
			test(t, rdb, batch)
		})
	})
}

func TestEveryTaskOnce(t *testing.T) {
	t.Parallel()
	eachBatch(t, func(t *testing.T, batch int) {
		rdb := testkit.Redis(t)
		h := newRecorder(nil)
		serve(t, rdb, h, &Options{Batch: batch}, tasks.Query, tasks.Live, tasks.Backfill)
		list := manyTasks(tasks.Live, 3000)
		for i := range list {
			list[i].Lane = tasks.Lanes[i%3]
		}
		receipts := enqueue(t, rdb, nil, list...)
		failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
		if err != nil || len(failures) > 0 {
			t.Fatalf("Wait: %v, %v", failures, err)
		}
		if all, _ := h.runs(""); all != len(list) {
			t.Errorf("%d runs of %d tasks", all, len(list))
		}
		byID := map[string]tasks.Task{}
		for _, got := range h.tasks {
			byID[got.ID] = got
		}
		for _, want := range list {
			want.Tokens = 0 // is beside the message
			if got := byID[want.ID]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("handler saw %+v, producer sent %+v", got, want)
			}
		}
		for _, s := range laneStatus(t, rdb) {
			if s.Pending+s.Active+s.Retry+s.Dead != 0 {
				t.Errorf("left over: %+v", s)
			}
		}
	})
}

// Every script of a consumer fails, twice in a row, before it reaches Redis and after: every task is done, none is left
// anywhere, and only a lease whose answer is lost makes a task come late.
func TestEveryScriptFails(t *testing.T) {
	t.Parallel()
	scripts := map[string]string{
		"lease": leaseLua, "renew": renewLua, "settle": wire.LettersLua + settleLua,
	}
	for name, source := range scripts {
		for _, after := range []bool{false, true} {
			for nth := 1; nth <= 3; nth++ {
				t.Run(fmt.Sprintf("%s %d, after: %v", name, nth, after), func(t *testing.T) {
					t.Parallel()
					bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
						fault := &faulty{script: wire.NewScript(source).Hash(), after: after, nth: nth}
						h := newRecorder(func(context.Context, tasks.Task) error { time.Sleep(5 * time.Second); return nil })
						broken := redis.NewClient(rdb.Options())
						t.Cleanup(func() { _ = broken.Close() })
						broken.AddHook(fault)
						sweep(t, rdb)
						serve(t, broken, h, &Options{Batch: batch, Concurrency: 4, Logger: silent}, tasks.Live)
						receipts := enqueue(t, rdb, nil, manyTasks(tasks.Live, 24)...)
						if failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
							t.Errorf("failures %v, %v", failures, err)
						}
						if fault.hits == 0 {
							t.Error("the fault was never met")
						}
						time.Sleep(time.Minute)
						for i := range 24 {
							id := fmt.Sprintf("t%d", i)
							if _, n := h.runs(id); n != 1 {
								t.Errorf("task %s ran %d times", id, n)
							}
							if at := whereabouts(t, rdb, tasks.Live, id); at != "" {
								t.Errorf("task %s is still in %q", id, at)
							}
						}
					})
				})
			}
		}
	}
}

// What becomes of each outcome, over five minutes.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		err     error
		fail    int // the first n runs fail
		calls   int
		where   string
		cause   string
		retried int
	}{
		{"permanent", tasks.AsPermanent(errors.New("text is empty")), 1000, 1, "dead", "text is empty", 0},
		{"retry, then done", errors.New("store is away"), 3, 4, "", "", 0},
		{"retry for ever", errors.New("store is away"), 1000, 5, "dead", "store is away", 4},
		{"overloaded, then done", overloaded{}, 20, 21, "", "", 0},
		{"cancelled, then done", context.Canceled, 20, 21, "", "", 0},
		{"a newer version, for a while", &tasks.VersionError{Version: 9}, 4, 5, "", "", 0},
		{"expired", expiredError{}, 1, 1, "", "", 0},
		{"broken UTF-8 in a cause", tasks.AsPermanent(errors.New("bad \xff byte")), 1000, 1, "dead", "bad \uFFFD byte", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
				left := tt.fail
				h := newRecorder(func(context.Context, tasks.Task) error {
					if left--; left >= 0 {
						return tt.err
					}
					return nil
				})
				sweep(t, rdb)
				serve(t, rdb, h, &Options{Batch: batch, Logger: silent}, tasks.Live)
				receipts := enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 4}, task(tasks.Live, 1))
				time.Sleep(5 * time.Minute)
				if all, _ := h.runs("t1"); all != tt.calls {
					t.Errorf("%d calls, want %d", all, tt.calls)
				}
				if got := whereabouts(t, rdb, tasks.Live, "t1"); got != tt.where {
					t.Errorf("task is in %q, want %q", got, tt.where)
				}
				failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
				if err != nil || len(failures) != len(letters(t, rdb, tasks.Live)) {
					t.Errorf("Wait says %+v, %v", failures, err)
				}
				if tt.cause == "" && len(failures) == 0 {
					return
				}
				if len(failures) != 1 || failures[0].Cause != tt.cause || failures[0].Retried != tt.retried {
					t.Errorf("dead: %+v", failures)
				}
			})
		})
	}
}

// A task at its last try is not dead because the worker has no room just then.
func TestOverloadAtTheLastTry(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		calls := 0
		h := newRecorder(func(context.Context, tasks.Task) error {
			switch calls++; {
			case calls == 1:
				return errors.New("store is away") // uses up the only retry
			case calls < 10:
				return overloaded{}
			}
			return nil
		})
		sweep(t, rdb)
		serve(t, rdb, h, &Options{Batch: batch, Logger: silent}, tasks.Live)
		enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 1}, task(tasks.Live, 1))
		time.Sleep(time.Minute)
		if got := whereabouts(t, rdb, tasks.Live, "t1"); got != "" || calls != 10 {
			t.Errorf("task is in %q after %d calls", got, calls)
		}
	})
}

// A handler that panics, or forgets a task, costs what it did not report; the consumer goes on.
func TestBrokenHandlers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		h := handlerFunc(func(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
			for i, item := range items {
				switch item.Task.ID {
				case "t1":
					continue
				case "t3":
					panic("boom")
				}
				report([]tasks.Result{{Index: i}})
			}
		})
		s := serve(t, rdb, h, &Options{Batch: batch, Logger: silent}, tasks.Live)
		receipts := enqueue(t, rdb, nil, manyTasks(tasks.Live, 4)...)
		failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
		if err != nil || len(failures) != 2 {
			t.Errorf("failures %+v, %v", failures, err)
		}
		more := enqueue(t, rdb, nil, task(tasks.Live, 10))
		if failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), more, nil); err != nil || len(failures) > 0 {
			t.Errorf("after it: %+v, %v", failures, err)
		}
		if running := s.Running(); len(running) != 0 {
			t.Errorf("still in hand: %+v", running)
		}
	})
}

type handlerFunc func(context.Context, []tasks.Item, func([]tasks.Result))

func (f handlerFunc) HandleBatch(ctx context.Context, items []tasks.Item, report func([]tasks.Result)) {
	f(ctx, items, report)
}

// What is not finished within the grace goes back unharmed, and its handler is waited for.
func TestTheEndGivesBack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		h := newRecorder(func(ctx context.Context, task tasks.Task) error {
			if task.ID == "t0" {
				time.Sleep(5 * time.Second) // within the grace
				return nil
			}
			<-ctx.Done()
			time.Sleep(time.Second) // a native call that has to be told to stop
			return ctx.Err()
		})
		s := serve(t, rdb, h, &Options{Batch: batch, Concurrency: 2, Grace: 10 * time.Second}, tasks.Live)
		enqueue(t, rdb, nil, manyTasks(tasks.Live, 5)...)
		time.Sleep(time.Second)
		start := time.Now()
		if err := s.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(start); took < 11*time.Second || took > 12*time.Second {
			t.Errorf("Run ended after %v, want grace plus the second of the last handler", took)
		}
		if len(s.Running()) != 0 {
			t.Errorf("still in hand: %+v", s.Running())
		}
		status := laneStatus(t, rdb)[tasks.Live]
		if status.Pending != 4 || status.Active+status.Retry+status.Dead != 0 {
			t.Errorf("lane at the end: %+v", status)
		}
		k := wire.KeysOf("m", tasks.Live)
		if ids := rdb.LRange(t.Context(), k.Pending(), 0, -1).Val(); fmt.Sprint(ids) != "[t4 t3 t2 t1]" {
			t.Errorf("the lane is %v, want t1 at its head", ids)
		}
		msg, err := wire.ParseMessage([]byte(rdb.HGet(t.Context(), k.Task("t1"), "msg").Val()))
		if err != nil || msg.Retried != 0 {
			t.Errorf("message %+v, %v", msg, err)
		}
	})
}

func TestTheEndNamesWhoStays(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		stuck := make(chan struct{})
		h := newRecorder(func(context.Context, tasks.Task) error { <-stuck; return nil })
		s := serve(t, rdb, h, &Options{Batch: batch, Grace: 3 * time.Second, Logger: silent}, tasks.Live)
		enqueue(t, rdb, nil, task(tasks.Live, 1))
		time.Sleep(time.Second)
		if err := s.end(); err == nil || !strings.Contains(err.Error(), "handlers") {
			t.Errorf("Run: %v", err)
		}
		close(stuck)
		synctest.Wait()
	})
}

// Quarantine runs one at a time, with nothing else in hand.
func TestQuarantineRunsAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		worst := 0
		h := newRecorder(nil)
		h.do = func(_ context.Context, task tasks.Task) error {
			if task.Lane == tasks.Quarantine {
				time.Sleep(300 * time.Millisecond)
				h.mu.Lock()
				worst = max(worst, h.inside)
				h.mu.Unlock()
			}
			time.Sleep(200 * time.Millisecond)
			return nil
		}
		serve(t, rdb, h, &Options{Batch: batch, Concurrency: 4}, tasks.Lanes...)
		list := manyTasks(tasks.Live, 60)
		for i := range list {
			list[i].Lane = tasks.Lanes[i%4]
		}
		receipts := enqueue(t, rdb, nil, list...)
		if _, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil {
			t.Fatal(err)
		}
		if all, _ := h.runs(""); all != 60 || worst != 1 {
			t.Errorf("%d runs, up to %d in hand with one in quarantine; want 60 and 1", all, worst)
		}
	})
}

// A Redis that refuses to lease is not asked thousands of times a second (T18).
func TestRefusedLeasesDoNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		t.Cleanup(func() { time.Sleep(time.Second) }) // go-redis's subscriber sleeps after an error
		serve(t, rdb, newRecorder(nil), &Options{Logger: silent}, tasks.Live)
		time.Sleep(time.Second)
		before := m.CommandCount()
		m.SetError("OOM command not allowed when used memory > 'maxmemory'")
		time.Sleep(10 * time.Second)
		m.SetError("")
		if n := m.CommandCount() - before; n > 500 {
			t.Errorf("%d commands in 10 s", n)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for want, lanes := range map[string][]tasks.Lane{"at least one": nil, `"nope"`: {"nope"}} {
		_, err := New(nil, "m", lanes, newRecorder(nil), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lanes %q: %v, want %q", lanes, err, want)
		}
	}
}

func TestBackOffBounds(t *testing.T) {
	t.Parallel()
	for n := -1; n < 100; n++ {
		for range 50 {
			d := backOff(n)
			if d < minDelay || d > maxDelay {
				t.Fatalf("backOff(%d) = %v", n, d)
			}
			if n == 0 && d > 4*time.Second || n > 10 && d < 5*time.Minute {
				t.Fatalf("backOff(%d) = %v", n, d)
			}
		}
	}
}

// The concurrency is kept, also when it changes while the consumer serves.
func TestConcurrencyChanges(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		var n atomic.Int64
		h := newRecorder(func(context.Context, tasks.Task) error {
			time.Sleep(time.Second + time.Duration(n.Add(1))*time.Millisecond) // no two end at the same instant
			return nil
		})
		s := serve(t, rdb, h, &Options{Batch: batch, Concurrency: 8}, tasks.Live)
		receipts := enqueue(t, rdb, nil, manyTasks(tasks.Live, 200)...)
		time.Sleep(5500 * time.Millisecond)
		if got := h.most(); got != 8 {
			t.Errorf("%d tasks in hand at once, want 8", got)
		}
		for _, n := range []int{0, MaxConcurrency + 1} {
			if s.SetConcurrency(n) == nil {
				t.Errorf("SetConcurrency(%d) is taken", n)
			}
		}
		if err := s.SetConcurrency(20); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if got := h.most(); got <= 8 || got > 20 {
			t.Errorf("%d tasks in hand at once, want more than 8 and at most 20", got)
		}
		if err := s.SetConcurrency(2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2500 * time.Millisecond)
		if got := len(s.Running()); got > 2 {
			t.Errorf("%d tasks in hand after the bound was lowered to 2", got)
		}
		_ = s.SetConcurrency(100)
		if _, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil {
			t.Fatal(err)
		}
	})
}

// Producers are heard at once; a task that comes another way is found within a second.
func TestProducersAreHeard(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	h := newRecorder(nil)
	serve(t, rdb, h, nil, tasks.Query, tasks.Live)
	time.Sleep(300 * time.Millisecond) // until it listens
	var slowest time.Duration
	for i := range 5 {
		begun := time.Now()
		receipts := enqueue(t, rdb, nil, task(tasks.Lanes[i%2], i))
		for {
			if _, n := h.runs(receipts[0].ID); n > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		slowest = max(slowest, time.Since(begun))
		time.Sleep(50 * time.Millisecond)
	}
	if slowest > 500*time.Millisecond { // generous: a look every second would show
		t.Errorf("a producer was heard after %v", slowest)
	}
}

// A circuit breaker opens when tasks fail one after the other, lets probes through, and costs nobody more than a try.
func TestOutageBurnsNoRetries(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		var away atomic.Bool
		away.Store(true)
		h := newRecorder(func(context.Context, tasks.Task) error {
			time.Sleep(10 * time.Millisecond)
			if away.Load() {
				return errors.New("store is away")
			}
			return nil
		})
		sweep(t, rdb)
		s := serve(t, rdb, h, &Options{Batch: batch, Concurrency: 64, Logger: silent}, tasks.Live)
		receipts := enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 10}, manyTasks(tasks.Live, 200)...)
		time.Sleep(5 * time.Minute)
		if _, cause := s.Held(); cause == nil {
			t.Error("nothing is held back while the store is away")
		}
		if dead := letters(t, rdb, tasks.Live); len(dead) > 0 {
			t.Errorf("%d tasks died of an outage: %+v", len(dead), dead[0])
		}
		if all, _ := h.runs(""); all > 500 {
			t.Errorf("%d runs in the outage", all)
		}
		away.Store(false)
		if failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %d, %v", len(failures), err)
		}
		if _, cause := s.Held(); cause != nil {
			t.Errorf("still held back: %v", cause)
		}
	})
}

// Tasks of which every one is at fault come to an end, by the probes.
func TestAllAtFault(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		h := newRecorder(func(context.Context, tasks.Task) error { return errors.New("this text breaks the store") })
		sweep(t, rdb)
		serve(t, rdb, h, &Options{Batch: batch, Logger: silent}, tasks.Live)
		enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 1}, manyTasks(tasks.Live, 20)...)
		for range 120 {
			time.Sleep(time.Minute)
			if n := len(letters(t, rdb, tasks.Live)); n == 20 {
				return
			}
		}
		t.Errorf("%d of 20 are dead after two hours", len(letters(t, rdb, tasks.Live)))
	})
}

// A payload of a newer version is set aside and holds nobody back, however many there are.
func TestNewerVersionsHoldNobodyBack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		h := newRecorder(func(_ context.Context, task tasks.Task) error {
			if strings.HasPrefix(task.ID, "new") {
				return &tasks.VersionError{Version: 2}
			}
			return nil
		})
		sweep(t, rdb)
		s := serve(t, rdb, h, &Options{Batch: batch, Logger: silent}, tasks.Live)
		var list []tasks.Task
		for i := range 100 {
			newer := task(tasks.Live, i)
			newer.ID = fmt.Sprint("new", i)
			list = append(list, newer)
		}
		enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 1}, list...)
		begun := time.Now()
		receipts := enqueue(t, rdb, nil, manyTasks(tasks.Live, 100)...)
		if failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %v, %v", failures, err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("the others took %v", took)
		}
		time.Sleep(5 * time.Minute)
		if dead := letters(t, rdb, tasks.Live); len(dead) > 0 {
			t.Errorf("%d newer tasks died", len(dead))
		}
		if _, cause := s.Held(); cause != nil {
			t.Errorf("held back: %v", cause)
		}
		if s := laneStatus(t, rdb)[tasks.Live]; s.Pending+s.Retry+s.Active != 100 {
			t.Errorf("lane later: %+v", s)
		}
	})
}
