package queue

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
	"github.com/embedfleet/embedfleet/tasks"
)

// overloaded is an error that tasks.Classify calls overloaded.
type overloaded struct{}

func (overloaded) Error() string    { return "no room" }
func (overloaded) Overloaded() bool { return true }

func TestEveryTaskOnce(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	h := newRecorder(nil)
	serve(t, connOf(rdb), h, nil, tasks.Query, tasks.Live, tasks.Backfill)
	c := NewClient(rdb, nil)
	list := manyTasks(tasks.Live, 3000)
	for i := range list {
		list[i].Lane = tasks.Lanes[i%3]
	}
	receipts := enqueue(t, c, list...)
	var last Progress
	failures, err := c.Wait(t.Context(), receipts, func(p Progress) { last = p })
	if err != nil || len(failures) > 0 {
		t.Fatalf("Wait: %v, %v", failures, err)
	}
	if last.Done != len(list) || !last.Finished() {
		t.Errorf("last progress %+v", last)
	}
	if all, _ := h.runs(""); all != len(list) {
		t.Errorf("%d calls for %d tasks", all, len(list))
	}
	byID := map[string]tasks.Task{}
	for _, got := range h.tasks {
		byID[got.ID] = got
	}
	for _, want := range list {
		got := byID[want.ID]
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("handler saw %+v, producer sent %+v", got, want)
		}
	}
	for _, s := range laneStatus(t, rdb) {
		if s.Pending+s.Active+s.Retry+s.Dead != 0 {
			t.Errorf("left over: %+v", s)
		}
	}
}

func laneStatus(t *testing.T, rdb redis.UniversalClient) map[tasks.Lane]LaneStatus {
	t.Helper()
	list, err := NewLanes(rdb).Status(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	byLane := map[tasks.Lane]LaneStatus{}
	for _, s := range list {
		byLane[s.Lane] = s
	}
	return byLane
}

// ackFault fails the first n acks before they reach Redis.
type ackFault struct {
	ackHook // its pipelines and dials pass
	left    *atomic.Int64
}

func (f ackFault) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := ctx.Err(); err != nil { // as a connection does, which pipes do not
			cmd.SetErr(err)
			return err
		}
		ack := scriptKey(cmd, 0, ":active") && scriptKey(cmd, 1, ":lease")
		if ack && f.left.Add(-1) >= 0 {
			err := errors.New("injected: connection reset")
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// T1: an ack that failed is repeated and gets through; without the hook the finished task runs again.
func TestFailedAckIsRepeated(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		without  bool
		failures int64
		want     int // runs of the handler
	}{
		{"with hook, one failure", false, 1, 1},
		{"with hook, two failures", false, 2, 1},
		{"without hook", true, 1, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, rdb := testkit.MiniRedis(t)
				h := newRecorder(nil)
				var left atomic.Int64
				left.Store(tt.failures)
				serve(t, miniConn(m), h, &ServerOptions{
					faults: faults{noAckHook: tt.without, hook: ackFault{left: &left}, poll: time.Second},
				}, tasks.Live)
				enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
				time.Sleep(5 * time.Minute)
				if all, _ := h.runs("t1"); all != tt.want {
					t.Errorf("handler ran %d times, want %d", all, tt.want)
				}
				if got := whereabouts(t, rdb, keysOf("m", tasks.Live), "t1"); got != "" {
					t.Errorf("task is still in %q", got)
				}
			})
		})
	}
}

// T4: handlers that ignore their deadline never exceed the slots, although asynq gives theirs away; with
// the fault put back they do.
func TestSlotsFollowTheHandler(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("freeSlotEarly=%v", early), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, rdb := testkit.MiniRedis(t)
				t.Cleanup(func() { time.Sleep(time.Minute) }) // calls that nobody waits for
				h := newRecorder(func(context.Context, tasks.Task) error {
					time.Sleep(time.Minute) // deaf to its context, as a native call is
					return nil
				})
				s := serve(t, miniConn(m), h, &ServerOptions{
					Concurrency: 2,
					Grace:       2 * time.Minute,
					faults:      faults{freeSlotEarly: early},
				}, tasks.Live)
				list := manyTasks(tasks.Live, 40)
				for i := range list {
					list[i].Timeout = 5 * time.Second
				}
				enqueue(t, NewClient(rdb, nil), list...)
				time.Sleep(4 * time.Second)
				if overdue := s.Overdue(); len(overdue) > 0 {
					t.Errorf("overdue before the deadline: %+v", overdue)
				}
				time.Sleep(26 * time.Second)
				highest := h.most()
				if early {
					if highest <= 2 {
						t.Errorf("at most %d calls at once: the fault does not show", highest)
					}
					return
				}
				if highest != 2 {
					t.Errorf("%d calls at once, want 2", highest)
				}
				if overdue := s.Overdue(); len(overdue) != 2 || time.Since(overdue[0].Started) < 25*time.Second {
					t.Errorf("overdue: %+v", overdue)
				}
				// Those that found no slot have not failed.
				dead, err := NewLanes(rdb).Dead(t.Context(), "m", tasks.Live, 10)
				if err != nil || len(dead) > 0 {
					t.Errorf("dead: %+v, %v", dead, err)
				}
			})
		})
	}
}

// What the queue does with each outcome, over five minutes.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		err         error
		fail        int // the first n calls fail
		least, most int // calls
		where       string
		cause       string
		retried     int
	}{
		{"permanent", tasks.AsPermanent(errors.New("text is empty")), 1000, 1, 1, "dead", "text is empty", 0},
		{"retry, then done", errors.New("store is away"), 3, 4, 4, "", "", 0},
		{"retry for ever", errors.New("store is away"), 1000, 5, 5, "dead", "store is away", 4},
		{"overloaded, then done", overloaded{}, 20, 21, 21, "", "", 0},
		{"cancelled, then done", context.Canceled, 20, 21, 21, "", "", 0},
		{"broken UTF-8 in a cause", tasks.AsPermanent(errors.New("bad \xff byte")), 1000, 1, 1, "dead", "bad � byte", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, rdb := testkit.MiniRedis(t)
				left := tt.fail
				h := newRecorder(func(context.Context, tasks.Task) error {
					if left--; left >= 0 {
						return tt.err
					}
					return nil
				})
				serve(t, miniConn(m), h, &ServerOptions{faults: faults{poll: time.Second}}, tasks.Live)
				receipts := enqueue(t, NewClient(rdb, &ClientOptions{MaxRetry: 4}), task(tasks.Live, 1))
				time.Sleep(5 * time.Minute)
				all, _ := h.runs("t1")
				if all < tt.least || all > tt.most {
					t.Errorf("%d calls, want %d to %d", all, tt.least, tt.most)
				}
				if got := whereabouts(t, rdb, keysOf("m", tasks.Live), "t1"); got != tt.where {
					t.Errorf("task is in %q, want %q", got, tt.where)
				}
				failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
				dead, deadErr := NewLanes(rdb).Dead(t.Context(), "m", tasks.Live, 10)
				if err != nil || deadErr != nil || fmt.Sprint(failures) != fmt.Sprint(dead) {
					t.Errorf("Wait says %+v, %v; Dead says %+v, %v", failures, err, dead, deadErr)
				}
				if tt.cause == "" && len(dead) == 0 {
					return
				}
				if len(dead) != 1 || dead[0].Cause != tt.cause || dead[0].Retried != tt.retried || dead[0].Lane != tasks.Live {
					t.Errorf("dead: %+v", dead)
				}
			})
		})
	}
}

// A task at its last try is not archived because the worker has no room just then.
func TestOverloadAtTheLastTry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
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
		serve(t, miniConn(m), h, nil, tasks.Live)
		enqueue(t, NewClient(rdb, &ClientOptions{MaxRetry: 1}), task(tasks.Live, 1))
		time.Sleep(time.Minute)
		if got := whereabouts(t, rdb, keysOf("m", tasks.Live), "t1"); got != "" || calls != 10 {
			t.Errorf("task is in %q after %d calls", got, calls)
		}
	})
}

func TestPanicIsPermanent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		h := newRecorder(func(_ context.Context, task tasks.Task) error {
			if task.ID == "t1" {
				panic("boom")
			}
			return nil
		})
		s := serve(t, miniConn(m), h, nil, tasks.Live)
		receipts := enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 3)...)
		failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
		if err != nil || len(failures) != 1 || failures[0].Cause != "handler panicked: boom" {
			t.Errorf("failures %+v, %v", failures, err)
		}
		if running := s.Running(); len(running) != 0 {
			t.Errorf("slots still held: %+v", running)
		}
	})
}

// T25: what is not finished within the grace goes back unharmed, and its handler is waited for.
func TestShutdownGivesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		h := newRecorder(func(ctx context.Context, task tasks.Task) error {
			if task.ID == "t0" {
				time.Sleep(5 * time.Second) // within the grace
				return nil
			}
			<-ctx.Done()
			time.Sleep(time.Second) // a native call that has to be told to stop
			return ctx.Err()
		})
		s, err := NewServer(miniConn(m), "m", []tasks.Lane{tasks.Live}, h, &ServerOptions{
			Logger: testkit.Logger(t), Concurrency: 2, Grace: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 5)...)
		time.Sleep(time.Second)
		cancel()
		start := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(start); took < 11*time.Second || took > 12*time.Second {
			t.Errorf("Run ended after %v, want grace plus the second of the last handler", took)
		}
		if len(s.Running()) != 0 {
			t.Errorf("still inside: %+v", s.Running())
		}
		status := laneStatus(t, rdb)[tasks.Live]
		if status.Pending != 4 || status.Active+status.Retry+status.Dead != 0 {
			t.Errorf("lane after the shutdown: %+v", status)
		}
		msg, err := parseMessage([]byte(rdb.HGet(t.Context(), keysOf("m", tasks.Live).task("t1"), "msg").Val()))
		if err != nil || msg.Retried != 0 {
			t.Errorf("message %+v, %v", msg, err)
		}
	})
}

func TestShutdownNamesWhoStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		stuck := make(chan struct{})
		h := newRecorder(func(context.Context, tasks.Task) error { <-stuck; return nil })
		s, err := NewServer(miniConn(m), "m", []tasks.Lane{tasks.Live}, h, &ServerOptions{Grace: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
		time.Sleep(time.Second)
		s.Stop()
		if err := s.Shutdown(t.Context()); err == nil || !strings.Contains(err.Error(), "1 still inside") {
			t.Errorf("Shutdown: %v", err)
		}
		close(stuck)
		synctest.Wait()
	})
}

// After Stop nothing is taken any more, and the query lane's poll is quick.
func TestStopTakesNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		h := newRecorder(nil)
		s := serve(t, miniConn(m), h, nil, tasks.Query, tasks.Live)
		c := NewClient(rdb, nil)
		time.Sleep(time.Second)
		enqueue(t, c, task(tasks.Query, 1))
		time.Sleep(20 * time.Millisecond)
		if all, _ := h.runs(""); all != 1 {
			t.Errorf("%d calls 20 ms after a query, want 1", all)
		}
		s.Stop()
		enqueue(t, c, task(tasks.Query, 2), task(tasks.Live, 3))
		time.Sleep(time.Minute)
		if all, _ := h.runs(""); all != 1 {
			t.Errorf("%d calls after Stop, want 1", all)
		}
	})
}

// Quarantine runs one at a time, with nothing else inside the handler.
func TestQuarantineRunsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		inside, worst := 0, 0
		h := newRecorder(nil)
		h.do = func(_ context.Context, task tasks.Task) error {
			h.mu.Lock()
			inside++
			h.mu.Unlock()
			defer func() { h.mu.Lock(); inside--; h.mu.Unlock() }()
			if task.Lane == tasks.Quarantine {
				time.Sleep(300 * time.Millisecond)
				h.mu.Lock()
				worst = max(worst, inside)
				h.mu.Unlock()
			}
			time.Sleep(200 * time.Millisecond)
			return nil
		}
		serve(t, miniConn(m), h, &ServerOptions{Concurrency: 4}, tasks.Lanes...)
		list := manyTasks(tasks.Live, 60)
		for i := range list {
			list[i].Lane = tasks.Lanes[i%4]
		}
		receipts := enqueue(t, NewClient(rdb, nil), list...)
		if _, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil {
			t.Fatal(err)
		}
		if all, _ := h.runs(""); all != 60 || worst != 1 {
			t.Errorf("%d calls, up to %d inside with one in quarantine; want 60 and 1", all, worst)
		}
	})
}

// T18: a Redis that refuses to hand out tasks is not asked thousands of times a second.
func TestRefusedDequeueDoesNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := testkit.MiniRedis(t)
		t.Cleanup(func() { time.Sleep(time.Second) }) // go-redis's subscriber sleeps after an error
		serve(t, miniConn(m), newRecorder(nil), nil, tasks.Live)
		time.Sleep(time.Second)
		before := m.CommandCount()
		m.SetError("OOM command not allowed when used memory > 'maxmemory'")
		time.Sleep(10 * time.Second)
		m.SetError("")
		// Five dequeues a second, each retried by the client, and the heartbeats.
		if n := m.CommandCount() - before; n > 500 {
			t.Errorf("%d commands in 10 s", n)
		}
	})
}

func TestServerRefusesLanes(t *testing.T) {
	t.Parallel()
	for want, lanes := range map[string][]tasks.Lane{"at least one": nil, `"nope"`: {"nope"}} {
		_, err := NewServer(Conn{}, "m", lanes, newRecorder(nil), nil)
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

// T22: a callback's panic must not reach asynq, which would let it end the process.
func TestGuardedCallback(t *testing.T) {
	t.Parallel()
	if got := guarded(testkit.Logger(t), "x", 7, func() int { panic("boom") }); got != 7 {
		t.Errorf("guarded = %d, want the fallback", got)
	}
}

// lateAnswer lets the first retry through and loses its answer.
type lateAnswer struct {
	ackHook // its pipelines and dials pass
	lost    *atomic.Bool
}

func (f lateAnswer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := ctx.Err(); err != nil { // as a connection does, which pipes do not
			cmd.SetErr(err)
			return err
		}
		err := next(ctx, cmd)
		if err == nil && scriptKey(cmd, 3, ":retry") && f.lost.CompareAndSwap(false, true) {
			err = errors.New("injected: connection reset")
			cmd.SetErr(err)
		}
		return err
	}
}

// A retry that Redis carried out is not repeated on the task's next run: that would take it from its worker.
func TestAStaleRetryTakesNothingAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		maintain(t, rdb) // brings the retry back
		var runs atomic.Int64
		h := newRecorder(func(ctx context.Context, _ tasks.Task) error {
			if runs.Add(1) == 1 {
				return errors.New("store is away")
			}
			time.Sleep(45 * time.Second) // in which asynq repeats what it takes for lost
			return ctx.Err()
		})
		serve(t, miniConn(m), h, &ServerOptions{faults: faults{hook: lateAnswer{lost: new(atomic.Bool)}, poll: time.Second}}, tasks.Live)
		receipts := enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
		if failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %v, %v", failures, err)
		}
		time.Sleep(5 * time.Minute)
		if got := runs.Load(); got != 2 {
			t.Errorf("the task ran %d times, want the failure and one more", got)
		}
	})
}
