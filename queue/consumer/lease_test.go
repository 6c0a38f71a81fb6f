package consumer

import (
	"context"
	"fmt"
	"strings"
	"sync"
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

// A gate is a client's hook that lets nothing through while it is shut, as the connection of a process that was stopped.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while it is open
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
}

func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		g.pass()
		return next(context.Background(), cmd)
	}
}

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		g.pass()
		return next(context.Background(), cmds)
	}
}

// gated returns a client with a gate.
func gated(t *testing.T, rdb *redis.Client) (*redis.Client, *gate) {
	t.Helper()
	g := newGate()
	c := redis.NewClient(rdb.Options())
	t.Cleanup(func() { _ = c.Close() })
	c.AddHook(g)
	return c, g
}

// A worker that was stopped for longer than its leases, and wakes up, settles nothing: its tasks are another's, and
// each counts once.
func TestZombie(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		sweep(t, rdb)
		time.Sleep(10 * time.Second) // nobody is taken back from when the sweeper has just begun
		first, g := gated(t, rdb)
		woken := make(chan struct{})
		zombie := newRecorder(func(ctx context.Context, task tasks.Task) error {
			<-woken
			return nil // its result is stored
		})
		serve(t, first, zombie, &Options{Batch: batch, Concurrency: 8, Logger: silent}, tasks.Live)
		receipts := enqueue(t, rdb, nil, manyTasks(tasks.Live, 8)...)
		time.Sleep(5 * time.Second)
		if all, _ := zombie.runs(""); all != 8 {
			t.Fatalf("the first worker has %d tasks in hand", all)
		}
		g.shut()
		var mu sync.Mutex
		ran := map[string]int{}
		begun := time.Now()
		var last time.Duration
		second := newRecorder(func(_ context.Context, task tasks.Task) error {
			mu.Lock()
			ran[task.ID]++
			last = time.Since(begun)
			mu.Unlock()
			time.Sleep(30 * time.Second)
			return nil
		})
		serve(t, rdb, second, &Options{Batch: batch, Concurrency: 8, Logger: silent}, tasks.Live)
		time.Sleep(20 * time.Second)
		mu.Lock()
		if len(ran) != 8 || last > 10*time.Second {
			t.Errorf("%d of 8 tasks ran again, the last after %v", len(ran), last)
		}
		mu.Unlock()
		close(woken) // the zombie says of all that they are done, before it hears that they are lost
		g.reopen()
		time.Sleep(2 * time.Second)
		if n := laneStatus(t, rdb)[tasks.Live].Active; n != 8 {
			t.Errorf("%d tasks active when the zombie has spoken, want 8", n)
		}
		if failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %v, %v", failures, err)
		}
		time.Sleep(time.Minute)
		if n := laneStatus(t, rdb)[tasks.Live].Processed; n != 8 {
			t.Errorf("%d tasks were counted as processed, want 8", n)
		}
	})
}

// While Redis is away for longer than a lease, who holds one goes on, and nobody else gets it afterwards.
func TestLeasesOutliveAnOutage(t *testing.T) {
	t.Parallel()
	eachBatch(t, func(t *testing.T, batch int) {
		synctest.Test(t, func(t *testing.T) {
			m, rdb := testkit.MiniRedis(t)
			t.Cleanup(func() { time.Sleep(time.Second) }) // go-redis's subscriber sleeps after an error
			sweep(t, rdb)
			h := newRecorder(func(context.Context, tasks.Task) error { time.Sleep(time.Minute); return nil })
			serve(t, rdb, h, &Options{Batch: batch, Concurrency: 8, Logger: silent}, tasks.Live)
			receipts := enqueue(t, rdb, nil, manyTasks(tasks.Live, 8)...)
			time.Sleep(10 * time.Second)
			m.SetError("LOADING Redis is loading the dataset in memory")
			time.Sleep(20 * time.Second)
			m.SetError("")
			if failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
				t.Errorf("failures %v, %v", failures, err)
			}
			if all, _ := h.runs(""); all != 8 {
				t.Errorf("%d runs of 8 tasks", all)
			}
		})
	})
}

// In hand is what the consumer does in some seconds, by its own rate: many short texts, or a few long ones.
func TestWorkInHand(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tokens      int
		rate        float64 // that it believes in at first
		slower      float64 // how many times slower it is
		least, most float64 // work in hand, in seconds of its real rate, when it has settled
	}{
		"short texts":                  {32, 1000, 1, 8, 15.1},
		"long texts":                   {6000, 1000, 1, 6, 21.1},
		"one text is more than enough": {60000, 1000, 1, 59, 61},
		"it turns out to be slow":      {600, 10000, 10, 8, 16},
		"it turns out to be fast":      {600, 100, 0.1, 8, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
				real := tt.rate / tt.slower
				var model sync.Mutex
				h := newRecorder(func(ctx context.Context, _ tasks.Task) error {
					// One core: one text after the other. A bubble's clock stands still while somebody waits for a mutex.
					for !model.TryLock() {
						time.Sleep(50 * time.Millisecond)
					}
					defer model.Unlock()
					time.Sleep(time.Duration(float64(tt.tokens) / real * float64(time.Second)))
					return nil
				})
				s := serve(t, rdb, h, &Options{Batch: batch, Concurrency: 4096, Logger: silent, Grace: time.Second, Cost: Cost{Rate: tt.rate}}, tasks.Live)
				list := manyTasks(tasks.Live, min(3000, max(20, int(600*real)/tt.tokens)))
				for i := range list {
					list[i].Tokens = tt.tokens
				}
				enqueue(t, rdb, nil, list...)
				time.Sleep(time.Duration(max(60, 3*float64(tt.tokens)/real, 25*tt.slower)) * time.Second)
				var worst, sum float64
				const looks = 20
				for range looks {
					time.Sleep(time.Second)
					work := 0.0
					for _, r := range s.Running() {
						work += r.Work
					}
					worst, sum = max(worst, work/real), sum+work/real
				}
				if worst > tt.most || sum/looks < tt.least {
					t.Errorf("in hand: %.1f s of work at most, %.1f on average; want at most %.1f, at least %.1f", worst, sum/looks, tt.most, tt.least)
				}
				s.stop()
				s.stop = nil
				<-s.ended
				time.Sleep(10 * time.Minute) // whoever waits for the model
			})
		})
	}
}

// A deadline counts the time that the model spends on a text, not what it waits for others.
func TestDeadlinesAreOwnWork(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		marks := NewInFlight(silent, rdb, "w")
		defer marks.Wait()
		call := func(ctx context.Context, d time.Duration) {
			unmark := marks.Mark([]context.Context{ctx})
			select {
			case <-time.After(d):
			case <-ctx.Done():
			}
			unmark()
		}
		h := newRecorder(func(ctx context.Context, task tasks.Task) error {
			switch task.ID {
			case "t0": // waits for others for an hour, before, between and after
				for range 5 {
					time.Sleep(10 * time.Minute)
					call(ctx, 10*time.Second)
				}
				time.Sleep(10 * time.Minute)
			case "t1": // works on for too long
				call(ctx, time.Hour)
			case "t2": // for whom the first one waits
				for range 65 {
					call(ctx, time.Minute)
				}
			}
			return context.Cause(ctx)
		})
		sweep(t, rdb)
		serve(t, rdb, h, &Options{Batch: batch, Logger: silent, Cost: Cost{Rate: 1000}}, tasks.Live)
		list := manyTasks(tasks.Live, 3)
		list[2].Timeout = 2 * time.Hour
		enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 1}, list...)
		time.Sleep(61 * time.Second)
		if n := len(letters(t, rdb, tasks.Live)); n != 0 || whereabouts(t, rdb, tasks.Live, "t1") != "retry" {
			t.Errorf("after its deadline the long one is in %q", whereabouts(t, rdb, tasks.Live, "t1"))
		}
		time.Sleep(3 * time.Hour)
		dead := letters(t, rdb, tasks.Live)
		if len(dead) != 1 || dead[0].ID != "t1" || dead[0].Code != wire.CodeTimeout {
			t.Errorf("dead: %+v", dead)
		}
		if _, n := h.runs("t0"); n != 1 {
			t.Errorf("who waited for others ran %d times", n)
		}
	})
}

// Who overtakes whom: a task that its handler has lost, while others that came later are done, has failed; so has one
// whose handler never comes back.
func TestLostByItsHandler(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		ends := make(chan struct{})
		h := newRecorder(func(_ context.Context, task tasks.Task) error {
			if task.ID == "t0" {
				<-ends // deaf, and outside of any native call
			}
			return nil
		})
		sweep(t, rdb)
		serve(t, rdb, h, &Options{Batch: batch, Logger: silent, Cost: Cost{Rate: 1000}}, tasks.Live)
		first := task(tasks.Live, 0)
		first.Timeout = 5 * time.Second
		enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 2}, first)
		for i := range 400 { // a trickle
			time.Sleep(time.Second)
			enqueue(t, rdb, nil, task(tasks.Live, 1+i))
		}
		dead := letters(t, rdb, tasks.Live)
		if len(dead) != 1 || dead[0].ID != "t0" || dead[0].Code != wire.CodeTimeout || dead[0].Attempts != 3 ||
			!strings.Contains(dead[0].Message, "the handler has lost it") {
			t.Errorf("dead: %+v", dead)
		}
		if all, one := h.runs("t0"); all < 402 || one != 3 {
			t.Errorf("%d runs, %d of the one that is lost", all, one)
		}
		close(ends)
		synctest.Wait()
	})
}

// A task that its handler has lost ends also when nothing else happens.
func TestLostAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		ends := make(chan struct{})
		h := newRecorder(func(context.Context, tasks.Task) error { <-ends; return nil })
		sweep(t, rdb)
		serve(t, rdb, h, &Options{Batch: batch, Logger: silent, Cost: Cost{Rate: 1000}}, tasks.Live)
		lost := task(tasks.Live, 0)
		lost.Timeout = 5 * time.Second
		enqueue(t, rdb, &queue.ClientOptions{MaxRetry: 1}, lost)
		time.Sleep(4 * time.Minute)
		if dead := letters(t, rdb, tasks.Live); len(dead) != 1 || dead[0].Code != wire.CodeTimeout {
			t.Errorf("dead: %+v", dead)
		}
		close(ends)
		synctest.Wait()
	})
}

// Whose handler is deaf has failed a while after its deadline, and somebody else gets it.
func TestDeafHandlersLoseTheirTasks(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, rdb *redis.Client, batch int) {
		marks := NewInFlight(silent, rdb, "w")
		deaf := make(chan struct{})
		h := newRecorder(func(ctx context.Context, task tasks.Task) error {
			if task.ID == "t7" {
				return nil
			}
			unmark := marks.Mark([]context.Context{ctx})
			<-deaf
			unmark()
			return nil
		})
		sweep(t, rdb)
		s := serve(t, rdb, h, &Options{Batch: batch, Logger: silent, Deadline: 20 * time.Second, Concurrency: 1}, tasks.Live, tasks.Quarantine)
		enqueue(t, rdb, nil, task(tasks.Live, 1))
		time.Sleep(15 * time.Second)
		if late := s.Overdue(); len(late) > 0 {
			t.Errorf("overdue before the deadline: %+v", late)
		}
		time.Sleep(10 * time.Second)
		if late := s.Overdue(); len(late) != 1 || late[0].Overdue < 4*time.Second {
			t.Errorf("overdue: %+v", late)
		}
		other := newRecorder(nil)
		serve(t, rdb, other, &Options{Batch: batch, Logger: silent}, tasks.Live)
		time.Sleep(30 * time.Second)
		if all, _ := other.runs(""); all != 1 {
			t.Errorf("%d runs elsewhere", all)
		}
		lonely := task(tasks.Quarantine, 7)
		enqueue(t, rdb, nil, lonely)
		time.Sleep(10 * time.Second)
		if _, n := h.runs("t7"); n != 1 {
			t.Errorf("who is to run alone waits for a handler that never comes back: %d runs", n)
		}
		close(deaf)
		synctest.Wait()
		marks.Wait()
	})
}

// A task that is cancelled while it runs ends at once, is not retried and leaves no letter; one that somebody wanted
// again meanwhile goes on.
func TestCancelledWhileItRuns(t *testing.T) {
	t.Parallel()
	eachBatch(t, func(t *testing.T, batch int) {
		rdb := testkit.Redis(t)
		ended := make(chan string, 10)
		var free atomic.Bool
		h := newRecorder(func(ctx context.Context, task tasks.Task) error {
			if free.Load() {
				return nil
			}
			<-ctx.Done()
			ended <- task.ID
			for task.ID == "t3" && !free.Load() {
				time.Sleep(time.Millisecond)
			}
			return ctx.Err()
		})
		s := serve(t, rdb, h, &Options{Batch: batch}, tasks.Live, tasks.Query)
		enqueue(t, rdb, nil, task(tasks.Live, 1), task(tasks.Live, 2), task(tasks.Live, 3), task(tasks.Query, 4))
		eventually(t, "all are in hand", func() bool { return len(s.Running()) == 4 })
		begun := time.Now()
		for lane, id := range map[tasks.Lane]string{tasks.Live: "t1", tasks.Query: "t4"} {
			if answers, err := queue.NewLanes(rdb).Cancel(t.Context(), "m", lane, []string{id}); err != nil || answers[0] != queue.Marked {
				t.Fatalf("Cancel: %v, %v", answers, err)
			}
		}
		for range 2 {
			if id := <-ended; id != "t1" && id != "t4" {
				t.Errorf("%s has ended", id)
			}
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		// asynq's tools say it so.
		rdb.Publish(t.Context(), wire.CancelChannel, "t2")
		if id := <-ended; id != "t2" {
			t.Errorf("%s has ended", id)
		}
		eventually(t, "they are gone", func() bool {
			return whereabouts(t, rdb, tasks.Live, "t1")+whereabouts(t, rdb, tasks.Live, "t2")+whereabouts(t, rdb, tasks.Query, "t4") == ""
		})
		if _, err := queue.NewLanes(rdb).Cancel(t.Context(), "m", tasks.Live, []string{"t3"}); err != nil {
			t.Fatal(err)
		}
		rdb.ZRem(t.Context(), wire.KeysOf("m", tasks.Live).Cancelled(), "t3") // as an enqueue does
		<-ended
		free.Store(true)
		eventually(t, "who is wanted again runs again", func() bool { _, n := h.runs("t3"); return n == 2 })
	})
}

// Queries that nobody waits for any more cost next to nothing: a fresh one behind two thousand is answered at once.
func TestExpiredAreDroppedByTheLot(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	old := manyTasks(tasks.Query, 2000)
	for i := range old {
		old[i].Expires = time.Now().Add(-time.Second)
	}
	enqueue(t, rdb, nil, old...)
	h := newRecorder(nil)
	serve(t, rdb, h, nil, tasks.Query)
	begun := time.Now()
	fresh := task(tasks.Query, 5000)
	fresh.Expires = begun.Add(time.Minute)
	receipts := enqueue(t, rdb, nil, fresh)
	if _, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("a fresh query was answered after %v", took)
	}
	if all, one := h.runs("t5000"); all != 1 || one != 1 {
		t.Errorf("%d tasks reached the handler", all)
	}
	if n := rdb.HGet(t.Context(), wire.KeysOf("m", tasks.Query).Counts(), "expired").Val(); n != "2000" {
		t.Errorf("%s were counted as expired", n)
	}
	keys := rdb.Keys(t.Context(), wire.KeysOf("m", tasks.Query).Tasks()+"*").Val()
	if len(keys) > 0 {
		t.Errorf("%d tasks are left: %v", len(keys), keys[:1])
	}
}

// Two consumers share a lane: each task is done once, and the backfill does not starve.
func TestTwoConsumers(t *testing.T) {
	t.Parallel()
	eachBatch(t, func(t *testing.T, batch int) {
		rdb := testkit.Redis(t)
		list := manyTasks(tasks.Live, 2000)
		for i := range list {
			if i%2 == 0 {
				list[i].Lane = tasks.Backfill
			}
		}
		receipts := enqueue(t, rdb, nil, list...)
		first, second := newRecorder(nil), newRecorder(nil)
		serve(t, rdb, first, &Options{Batch: batch}, tasks.Live, tasks.Backfill)
		serve(t, rdb, second, &Options{Batch: batch}, tasks.Live, tasks.Backfill)
		if failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Fatalf("failures %v, %v", failures, err)
		}
		for i := range list {
			_, a := first.runs(fmt.Sprint("t", i))
			_, b := second.runs(fmt.Sprint("t", i))
			if a+b != 1 {
				t.Fatalf("task %d ran %d times", i, a+b)
			}
		}
	})
}

// All leases of a worker are renewed, however many it may have in hand.
func TestAllLeasesAreRenewed(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	until := make(chan struct{})
	h := newRecorder(func(context.Context, tasks.Task) error { <-until; return nil })
	enqueue(t, rdb, nil, manyTasks(tasks.Live, MaxConcurrency)...)
	serve(t, rdb, h, &Options{Logger: silent, Concurrency: MaxConcurrency, Ahead: time.Hour}, tasks.Live)
	t.Cleanup(func() { close(until) })
	eventually(t, "all are in hand", func() bool { n, _ := h.runs(""); return n == MaxConcurrency })
	taken := time.Now()
	eventually(t, "all leases are renewed", func() bool {
		first := rdb.ZRangeWithScores(t.Context(), wire.KeysOf("m", tasks.Live).Lease(), 0, 0).Val()
		if time.Since(taken) > 10*time.Second {
			t.Fatalf("the first lease ended %v ago", time.Since(time.UnixMilli(int64(first[0].Score*1000))))
		}
		return first[0].Score > float64(taken.Add(8*time.Second).Unix())
	})
}
