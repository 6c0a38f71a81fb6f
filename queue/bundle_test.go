package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// A crowd does tasks together as do says, and counts them.
type crowd struct {
	do func(ctx context.Context, items []tasks.Item, report func(tasks.Report))

	mu    sync.Mutex
	seen  map[string]int // by task id
	sizes []int          // of the bundles
}

func newCrowd(do func(ctx context.Context, items []tasks.Item, report func(tasks.Report))) *crowd {
	return &crowd{do: do, seen: map[string]int{}}
}

func (c *crowd) HandleAll(ctx context.Context, items []tasks.Item, report func(tasks.Report)) {
	c.mu.Lock()
	c.sizes = append(c.sizes, len(items))
	for _, item := range items {
		c.seen[item.Task.ID]++
	}
	c.mu.Unlock()
	c.do(ctx, items, report)
}

// of returns how often a task was handled together.
func (c *crowd) of(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[id]
}

func (c *crowd) bundles() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sizes)
}

// upTo returns the indexes from first to end.
func upTo(first, end int) (list []int) {
	for i := first; i < end; i++ {
		list = append(list, i)
	}
	return list
}

// finish is a crowd's do that finishes all at once.
func finish(_ context.Context, items []tasks.Item, report func(tasks.Report)) {
	report(tasks.Report{Done: upTo(0, len(items))})
}

// Every task is done once: together, or alone where the handler says so, says nothing, or panics.
func TestEveryTaskOnceTogether(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	var mu sync.Mutex
	wrong := []string{}
	alone := newRecorder(nil)
	n := 0
	c := newCrowd(func(_ context.Context, items []tasks.Item, report func(tasks.Report)) {
		mu.Lock()
		n++
		turn := n
		for _, item := range items {
			if got, ok := TaskFrom(item.Ctx); !ok || fmt.Sprint(got) != fmt.Sprint(item.Task) {
				wrong = append(wrong, got.ID)
			}
		}
		mu.Unlock()
		half := len(items) / 2
		report(tasks.Report{Done: upTo(0, half/2)})
		report(tasks.Report{Done: upTo(half/2, half), Alone: upTo(half, half+1)})
		report(tasks.Report{Done: upTo(0, half), Alone: upTo(0, half)}) // said before: nothing happens
		if turn%3 == 0 {
			panic("in the middle")
		}
		if turn%3 == 1 {
			report(tasks.Report{Done: upTo(half+1, len(items))})
		}
	})
	serve(t, connOf(rdb), alone, &ServerOptions{Together: c, Concurrency: 200}, tasks.Query, tasks.Live, tasks.Backfill)
	list := manyTasks(tasks.Live, 3000)
	for i := range list {
		list[i].Lane = tasks.Lanes[i%3]
	}
	receipts := enqueue(t, NewClient(rdb, nil), list...)
	failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
	if err != nil || len(failures) > 0 {
		t.Fatalf("Wait: %v, %v", failures, err)
	}
	together := 0
	for _, want := range list {
		_, by := alone.runs(want.ID)
		crowd := c.of(want.ID)
		together += crowd
		if by+crowd == 0 || by > 1 || crowd > 1 || crowd == 1 && want.Lane == tasks.Query {
			t.Errorf("task %s of %s was handled alone %d times, together %d times", want.ID, want.Lane, by, crowd)
		}
	}
	if all, _ := alone.runs(""); together < 1500 || all < 1000+500 || len(wrong) > 0 {
		t.Errorf("%d tasks together, %d alone; wrong contexts: %v", together, all, wrong)
	}
	for lane, s := range laneStatus(t, rdb) {
		if s.Pending+s.Active+s.Retry+s.Dead != 0 {
			t.Errorf("left over: %+v", s)
		}
		if lane != tasks.Quarantine && s.Processed != 1000 {
			t.Errorf("lane %s has processed %d tasks, want 1000", lane, s.Processed)
		}
	}
}

// What asynq must see is handled alone from the first.
func TestWhoStaysAlone(t *testing.T) {
	t.Parallel()
	p := &pool{breaker: newBreaker(), slots: newSlots(8)}
	p.ahead = newAhead(nil, "m", []tasks.Lane{tasks.Live}, p.slots)
	p.revoked = &revocations{ids: map[string]bool{"cancelled": true}}
	var met []string
	c := newCrowd(func(_ context.Context, items []tasks.Item, _ func(tasks.Report)) {
		for _, item := range items {
			met = append(met, item.Task.ID)
		}
	})
	bs := newBundles(nil, c, p)
	queue := queueName("m", tasks.Live)
	of := func(id string, change func(*message)) leasedTask {
		m := message{Type: "k", ID: id, Queue: queue, Retry: 3, Timeout: time.Minute}
		change(&m)
		return leasedTask{id: id, msg: string(m.append(nil))}
	}
	unique := of("unique", func(*message) {})
	unique.msg = string(appendBytes([]byte(unique.msg), 10, "lock"))
	lane := p.ahead.lanes[keysOf("m", tasks.Live).pending()]
	left := bs.begin(lane, []leasedTask{
		of("a", func(*message) {}),
		of("failed before", func(m *message) { m.Retried = 1 }),
		of("kept", func(m *message) { m.Retention = time.Hour }),
		of("expired", func(m *message) { m.Expires = time.Now().Add(-time.Second) }),
		of("b", func(m *message) { m.Expires = time.Now().Add(time.Hour) }),
		of("other timeout", func(m *message) { m.Timeout = time.Hour }),
		of("no timeout", func(m *message) { m.Timeout = 0 }),
		of("other queue", func(m *message) { m.Queue = "default" }),
		of("cancelled", func(*message) {}),
		unique,
		{id: "broken", msg: "\xff"},
		of("c", func(m *message) { m.Retry = 0 }),
	}, time.Now())
	bs.running.Wait()
	if want := []string{"a", "b", "c"}; !slices.Equal(met, want) {
		t.Errorf("together are %v, want %v", met, want)
	}
	if len(left) != 9 {
		t.Errorf("alone are %v", left)
	}
	one := []leasedTask{of("a", func(*message) {})}
	if left := bs.begin(lane, one, time.Now()); len(left) != 1 {
		t.Error("a lone task is a bundle")
	}
	two := []leasedTask{of("a", func(*message) {}), of("b", func(*message) {})}
	p.breaker.cause = errors.New("store is away")
	if left := bs.begin(lane, two, time.Now()); len(left) != 2 {
		t.Error("a bundle while the lane is held back")
	}
	p.breaker.cause = nil
	p.slots.seized = 1
	if left := bs.begin(lane, two, time.Now()); len(left) != 2 {
		t.Error("a bundle while a task of the quarantine runs alone")
	}
	p.slots.seized = 0
	p.slots.close()
	if left := bs.begin(lane, two, time.Now()); len(left) != 2 {
		t.Error("a bundle after close")
	}
}

// A bundle whose time is over has failed, once for each task, and keeps its slots until its handler returns.
func TestTogetherBeyondTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		alone := newRecorder(nil)
		c := newCrowd(func(_ context.Context, items []tasks.Item, report func(tasks.Report)) {
			report(tasks.Report{Done: []int{0}})
			time.Sleep(time.Minute) // deaf to its context, as a native call is
			report(tasks.Report{Done: upTo(1, len(items))})
		})
		s := serve(t, miniConn(m), alone, &ServerOptions{Together: c, Concurrency: 4, Grace: 2 * time.Minute}, tasks.Live)
		list := manyTasks(tasks.Live, 4)
		for i := range list {
			list[i].Timeout = 5 * time.Second
		}
		enqueue(t, NewClient(rdb, nil), list...)
		time.Sleep(4 * time.Second)
		if n := len(s.Running()); n != 3 || len(s.Overdue()) > 0 {
			t.Errorf("%d inside, overdue %v; want 3 and none", n, s.Overdue())
		}
		time.Sleep(2 * time.Second) // retries come after two more
		status := laneStatus(t, rdb)[tasks.Live]
		if status.Retry != 3 || status.Active+status.Dead+status.Pending != 0 || len(s.Overdue()) != 3 {
			t.Errorf("after the deadline: %+v, %d overdue; want 3 to retry", status, len(s.Overdue()))
		}
		msg, err := parseMessage([]byte(rdb.HGet(t.Context(), keysOf("m", tasks.Live).task("t1"), "msg").Val()))
		if err != nil || msg.Retried != 1 || !strings.Contains(msg.ErrorMsg, context.DeadlineExceeded.Error()) {
			t.Errorf("message %+v, %v", msg, err)
		}
		time.Sleep(2 * time.Minute)
		if all, _ := alone.runs(""); all != 3 || len(s.Running()) > 0 {
			t.Errorf("%d runs alone, want the retries of 3; inside %v", all, s.Running())
		}
		if status := laneStatus(t, rdb)[tasks.Live]; status.Retry+status.Active+status.Dead+status.Pending != 0 {
			t.Errorf("in the end: %+v", status)
		}
	})
}

// T25 for bundles: what is not finished within the grace goes back unharmed, and its handler is waited for.
func TestShutdownGivesBundlesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		var cause atomic.Value
		c := newCrowd(func(ctx context.Context, items []tasks.Item, report func(tasks.Report)) {
			time.Sleep(5 * time.Second)                           // within the grace
			report(tasks.Report{Done: []int{0}, Alone: []int{1}}) // whoever wants to be alone goes back: nobody asks any more
			<-ctx.Done()                                          // at the end of the grace
			cause.Store(context.Cause(ctx))                       // lest it is taken for a failure
			time.Sleep(time.Second)                               // a native call that has to be told to stop
			report(tasks.Report{Done: upTo(2, len(items))})       // too late to be acknowledged
		})
		s, err := NewServer(miniConn(m), "m", []tasks.Lane{tasks.Live}, newRecorder(nil), &ServerOptions{
			Logger: testkit.Logger(t), Concurrency: 4, Grace: 10 * time.Second, Together: c})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 6)...)
		time.Sleep(time.Second)
		cancel()
		start := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(start); took < 11*time.Second || took > 12*time.Second {
			t.Errorf("Run ended after %v, want grace plus the second of the last handler", took)
		}
		status := laneStatus(t, rdb)[tasks.Live]
		if status.Pending != 5 || status.Active+status.Retry+status.Dead != 0 {
			t.Errorf("lane after the shutdown: %+v", status)
		}
		if got, _ := cause.Load().(error); !errors.Is(got, context.Canceled) {
			t.Errorf("the context's cause is %v", got)
		}
		order := rdb.LRange(t.Context(), keysOf("m", tasks.Live).pending(), 0, -1).Val()
		if len(order) != 5 || order[0] != "t5" { // the youngest, which nobody had leased, is the last
			t.Errorf("pending is %v", order)
		}
		msg, err := parseMessage([]byte(rdb.HGet(t.Context(), keysOf("m", tasks.Live).task("t2"), "msg").Val()))
		if err != nil || msg.Retried != 0 {
			t.Errorf("message %+v, %v", msg, err)
		}
	})
}

// A task that is cancelled while it is handled with others ends alone: without a retry, a letter, or a loss for them.
func TestCancelOneOfABundle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		alone := newRecorder(nil)
		c := newCrowd(func(_ context.Context, items []tasks.Item, report func(tasks.Report)) {
			time.Sleep(5 * time.Second)
			for i, item := range items {
				if item.Ctx.Err() == nil {
					report(tasks.Report{Done: []int{i}})
				}
			}
		})
		serve(t, miniConn(m), alone, &ServerOptions{Together: c, Concurrency: 8}, tasks.Live)
		enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 6)...)
		time.Sleep(time.Second)
		if got, err := NewLanes(rdb).Cancel(t.Context(), "m", tasks.Live, []string{"t2"}); err != nil || got[0] != Marked {
			t.Fatalf("cancel: %v, %v", got, err)
		}
		time.Sleep(10 * time.Second)
		if all, _ := alone.runs(""); all != 0 || c.of("t2") != 1 {
			t.Errorf("%d tasks ran alone, want none; the cancelled one was handled %d times", all, c.of("t2"))
		}
		status := laneStatus(t, rdb)[tasks.Live]
		if status.Pending+status.Active+status.Retry+status.Dead != 0 {
			t.Errorf("left over: %+v", status)
		}
	})
}

// Leases are renewed for as long as a bundle is inside, whatever the time, so that nobody takes its tasks.
func TestBundlesKeepTheirLeases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		maintain(t, rdb)
		c := newCrowd(func(ctx context.Context, items []tasks.Item, report func(tasks.Report)) {
			time.Sleep(3 * time.Minute)
			finish(ctx, items, report)
		})
		serve(t, miniConn(m), newRecorder(nil), &ServerOptions{Together: c, Concurrency: 8}, tasks.Live)
		list := manyTasks(tasks.Live, 6)
		for i := range list {
			list[i].Timeout = 10 * time.Minute
		}
		receipts := enqueue(t, NewClient(rdb, nil), list...)
		if failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %v, %v", failures, err)
		}
		if sizes := c.bundles(); !slices.Equal(sizes, []int{6}) {
			t.Errorf("bundles of %v, want one of 6", sizes)
		}
	})
}

// A bundle that can't renew its leases is given up: its tasks may be another worker's, and are not acknowledged.
func TestBundleLosesItsLeases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		var cause atomic.Value
		c := newCrowd(func(ctx context.Context, items []tasks.Item, report func(tasks.Report)) {
			<-ctx.Done()
			cause.Store(context.Cause(ctx))
			finish(ctx, items, report)
		})
		alone := newRecorder(nil)
		var acks atomic.Int64
		serve(t, miniConn(m), alone, &ServerOptions{Together: c, Concurrency: 8, faults: faults{hook: noRenewals{acks: &acks}}}, tasks.Live)
		list := manyTasks(tasks.Live, 6)
		for i := range list {
			list[i].Timeout = 10 * time.Minute
		}
		enqueue(t, NewClient(rdb, nil), list...)
		time.Sleep(50 * time.Second) // asynq's own recoverer comes once a minute
		if got, _ := cause.Load().(error); !errors.Is(got, errLeaseLost) {
			t.Errorf("the context's cause is %v", got)
		}
		if all, _ := alone.runs(""); all != 0 || acks.Load() != 0 {
			t.Errorf("%d runs alone, %d acks, want none", all, acks.Load())
		}
		if status := laneStatus(t, rdb)[tasks.Live]; status.Active != 6 {
			t.Errorf("%+v, want all active, for the reaper", status)
		}
	})
}

// A verdict of the handler's together is the task's: it becomes a dead letter without being handled again, and nobody else is
// held to account.
func TestVerdictOfABundle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		alone := newRecorder(nil)
		c := newCrowd(func(_ context.Context, items []tasks.Item, report func(tasks.Report)) {
			failed := map[int]error{}
			for _, i := range upTo(3, len(items)) {
				failed[i] = tasks.AsPermanent(errors.New("text is empty"))
			}
			report(tasks.Report{Done: []int{0, 1}, Alone: []int{2}, Failed: failed})
		})
		s := serve(t, miniConn(m), alone, &ServerOptions{Together: c, Concurrency: 64}, tasks.Live)
		enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 40)...)
		time.Sleep(time.Minute)
		if all, one := alone.runs("t2"); all != 1 || one != 1 {
			t.Errorf("%d runs alone, want t2's", all)
		}
		status := laneStatus(t, rdb)[tasks.Live]
		dead, err := NewLanes(rdb).Dead(t.Context(), "m", tasks.Live, 100)
		if err != nil || len(dead) != 37 || status.Pending+status.Active+status.Retry != 0 {
			t.Fatalf("%d dead letters, %v, %+v", len(dead), err, status)
		}
		for _, letter := range dead {
			if !strings.Contains(fmt.Sprintf("%+v", letter), "text is empty") {
				t.Errorf("letter %+v", letter)
			}
		}
		if _, cause := s.Held(); cause != nil {
			t.Errorf("held back: %v", cause)
		}
	})
}

// A lease that has lapsed is not renewed, and its task not acknowledged, whatever Redis would say: it is another worker's.
func TestALapsedLeaseIsNotRenewed(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	k := keysOf("m", tasks.Live)
	p := &pool{breaker: newBreaker(), slots: newSlots(8), log: testkit.Logger(t), revoked: &revocations{}}
	p.ahead = newAhead(rdb, "m", []tasks.Lane{tasks.Live}, p.slots)
	inside, goOn := make(chan context.Context), make(chan bool)
	c := newCrowd(func(ctx context.Context, _ []tasks.Item, report func(tasks.Report)) {
		inside <- ctx
		<-goOn
		report(tasks.Report{Done: []int{0}, Alone: []int{1}})
	})
	bs := newBundles(rdb, c, p)
	p.ahead.begin = bs.begin
	enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 2)...)
	if _, err := p.ahead.next(t.Context(), k.pending()); !errors.Is(err, redis.Nil) {
		t.Fatalf("asynq gets a task of a bundle: %v", err)
	}
	ctx := <-inside
	b := bs.all()[0]
	b.extend(t.Context())
	if left := time.Until(b.leasedUntil()); left < leaseFor-2*time.Second || ctx.Err() != nil {
		t.Fatalf("the leases last for %v, %v", left, ctx.Err())
	}
	b.mu.Lock()
	b.until = time.Now() // the process was frozen; somebody else has leased both
	b.mu.Unlock()
	theirs := float64(time.Now().Add(time.Hour).Unix())
	rdb.ZAdd(t.Context(), k.lease(), redis.Z{Member: "t0", Score: theirs}, redis.Z{Member: "t1", Score: theirs})
	b.extend(t.Context())
	if !errors.Is(context.Cause(ctx), errLeaseLost) {
		t.Errorf("the context's cause is %v", context.Cause(ctx))
	}
	goOn <- true
	bs.running.Wait()
	for _, id := range []string{"t0", "t1"} {
		if got := rdb.ZScore(t.Context(), k.lease(), id).Val(); got != theirs {
			t.Errorf("the lease of %s is %v, want theirs", id, got)
		}
	}
	p.ahead.collect()
	if n := len(p.ahead.lanes[k.pending()].ready); n != 0 {
		t.Errorf("asynq gets %d tasks that are another worker's", n)
	}
}

// A verdict is for one run: a task that expired meanwhile leaves none behind for the next of its id.
func TestAVerdictIsForOneRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		alone := newRecorder(nil)
		c := newCrowd(func(ctx context.Context, _ []tasks.Item, _ func(tasks.Report)) { <-ctx.Done() })
		s := serve(t, miniConn(m), alone, &ServerOptions{Together: c, Concurrency: 4}, tasks.Live)
		list := manyTasks(tasks.Live, 4)
		for i := range list {
			list[i].Timeout, list[i].Expires = 5*time.Second, time.Now().Add(4*time.Second)
		}
		enqueue(t, NewClient(rdb, nil), list...)
		time.Sleep(10 * time.Second)
		if status := laneStatus(t, rdb)[tasks.Live]; status.Retry+status.Active+status.Dead+status.Pending != 0 {
			t.Errorf("expired tasks are left: %+v", status)
		}
		if n := len(s.pools[0].ahead.verdicts); n != 0 {
			t.Errorf("%d verdicts are left", n)
		}
		receipts := enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
		if failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
			t.Errorf("failures %v, %v", failures, err)
		}
		if _, n := alone.runs("t1"); n != 1 {
			t.Errorf("t1 ran %d times", n)
		}
	})
}

// noRenewals refuses to renew leases, and counts acks.
type noRenewals struct {
	ackHook // its pipelines and dials pass
	acks    *atomic.Int64
}

func (f noRenewals) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if scriptKey(cmd, 0, ":active") {
			f.acks.Add(1)
		}
		if key, _ := cmd.Args()[min(1, len(cmd.Args())-1)].(string); cmd.Name() == "zadd" && strings.HasSuffix(key, ":lease") {
			err := errors.New("injected: connection reset")
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// badAnswers fails the first ack: before Redis gets it, or after.
type badAnswers struct {
	ackHook // its pipelines and dials pass
	late    bool
	failed  *atomic.Bool
	between func() // what happens before the ack is repeated
}

func (f badAnswers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !scriptKey(cmd, 0, ":active") || !scriptKey(cmd, 1, ":lease") || !f.failed.CompareAndSwap(false, true) {
			return next(ctx, cmd)
		}
		if f.late {
			if err := next(ctx, cmd); err != nil { // a script that is not known yet
				f.failed.Store(false)
				return err
			}
			f.between()
		}
		err := errors.New("injected: connection reset")
		cmd.SetErr(err)
		return err
	}
}

// An ack that failed is repeated, unless Redis has carried it out: then the task may have come again, and is somebody
// else's.
func TestFailedAckOfABundle(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, rdb := testkit.MiniRedis(t)
				k := keysOf("m", tasks.Live)
				ctx := t.Context()
				again := func() { // the task comes again, and another worker leases it, a second later
					time.Sleep(time.Second)
					rdb.Set(ctx, k.paused(), "1", 0) // lest this server does
					enqueue(t, NewClient(rdb, nil), task(tasks.Live, 1))
					rdb.LMove(ctx, k.pending(), k.active(), "RIGHT", "LEFT")
					rdb.ZAdd(ctx, k.lease(), redis.Z{Score: float64(time.Now().Add(leaseFor).Unix()), Member: "t1"})
					rdb.HSet(ctx, k.task("t1"), "state", "active")
				}
				alone := newRecorder(nil)
				c := newCrowd(finish)
				serve(t, miniConn(m), alone, &ServerOptions{Together: c, Concurrency: 8, faults: faults{
					hook: badAnswers{late: late, failed: new(atomic.Bool), between: again}}}, tasks.Live)
				enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 3)...)
				time.Sleep(10 * time.Second)
				if all, _ := alone.runs(""); all != 0 || c.of("t1") != 1 {
					t.Errorf("%d runs alone, %d together", all, c.of("t1"))
				}
				want := int64(0)
				if late {
					want = 1 // the other worker's
				}
				status := laneStatus(t, rdb)[tasks.Live]
				if status.Active != want || status.Pending+status.Retry+status.Dead != 0 || status.Processed != 3 {
					t.Errorf("%+v, want %d active, 3 processed", status, want)
				}
			})
		})
	}
}

// While stuck handlers hold all slots, tasks whose time is over still fail in time, and those that want to be alone wait
// in their lane for whoever has room.
func TestNobodyWaitsBehindStuckBundles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		stuck := make(chan struct{})
		var first atomic.Bool
		c := newCrowd(func(_ context.Context, _ []tasks.Item, report func(tasks.Report)) {
			if first.CompareAndSwap(false, true) {
				time.Sleep(time.Second)
				report(tasks.Report{Alone: []int{0}}) // and the next bundle gets its slot
			}
			<-stuck
		})
		s := serve(t, miniConn(m), newRecorder(func(context.Context, tasks.Task) error { <-stuck; return nil }),
			&ServerOptions{Together: c, Concurrency: 4, Grace: time.Minute}, tasks.Live, tasks.Backfill)
		list := manyTasks(tasks.Live, 8)
		for i := range list {
			list[i].Timeout = 20 * time.Second
		}
		enqueue(t, NewClient(rdb, nil), list...)
		time.Sleep(21500 * time.Millisecond)
		status := laneStatus(t, rdb)[tasks.Live]
		if status.Retry != 4 || status.Pending != 4 || status.Active != 0 {
			t.Errorf("%+v with %d inside; want 4 to retry, 4 waiting", status, len(s.Running()))
		}
		close(stuck)
		time.Sleep(time.Minute)
	})
}

// asynq's heartbeat names the tasks of bundles, for its tools.
func TestAsynqSeesBundles(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	inside, release := make(chan struct{}), make(chan struct{})
	c := newCrowd(func(_ context.Context, items []tasks.Item, report func(tasks.Report)) {
		report(tasks.Report{Done: []int{0}})
		close(inside)
		<-release
		report(tasks.Report{Done: upTo(1, len(items))})
	})
	receipts := enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 5)...)
	begun := time.Now()
	serve(t, connOf(rdb), newRecorder(nil), &ServerOptions{Together: c}, tasks.Query, tasks.Live)
	<-inside
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	var names []string
	want := []string{"t1", "t2", "t3", "t4"} // the first heartbeat may be from before t0 was done
	for end := time.Now().Add(20 * time.Second); !slices.Equal(names, want) && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		names = nil
		servers, err := inspector.Servers()
		if err != nil {
			t.Fatal(err)
		}
		for _, server := range servers {
			for _, w := range server.ActiveWorkers {
				names = append(names, w.TaskID)
				if w.Queue != queueName("m", tasks.Live) || w.TaskType != string(tasks.EmbedDocument) || len(w.TaskPayload) > 0 ||
					w.Started.Before(begun) || w.Deadline.Sub(w.Started) != time.Minute {
					t.Errorf("task %+v", w)
				}
			}
		}
		slices.Sort(names)
	}
	if !slices.Equal(names, want) {
		t.Errorf("asynq sees %v, want %v", names, want)
	}
	close(release)
	if failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Errorf("failures %v, %v", failures, err)
	}
}
