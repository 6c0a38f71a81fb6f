package queue

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// A store that is away for half an hour costs the tasks next to nothing, and one bad text among good ones
// does not hold them back.
func TestOutageBurnsNoRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		var away atomic.Bool
		away.Store(true)
		h := newRecorder(func(context.Context, tasks.Task) error {
			time.Sleep(50 * time.Millisecond)
			if away.Load() {
				return errors.New("store is away")
			}
			return nil
		})
		s := serve(t, miniConn(m), h, &ServerOptions{Concurrency: 64, faults: faults{poll: 5 * time.Second}}, tasks.Live)
		receipts := enqueue(t, NewClient(rdb, nil), manyTasks(tasks.Live, 200)...)
		time.Sleep(30 * time.Minute)
		if since, cause := s.Held(); cause == nil || time.Since(since) < 29*time.Minute || !strings.Contains(cause.Error(), "store is away") {
			t.Errorf("held since %v: %v", since, cause)
		}
		charged, highest := 0, 0
		for _, r := range receipts {
			msg, err := parseMessage([]byte(rdb.HGet(t.Context(), keysOf("m", tasks.Live).task(r.ID), "msg").Val()))
			if err != nil {
				t.Fatal(err)
			}
			charged, highest = charged+msg.Retried, max(highest, msg.Retried)
		}
		// The first 16, and a probe every minute.
		if charged > tripAfter+40 || highest > 10 {
			t.Errorf("%d retries charged to 200 tasks, up to %d to one", charged, highest)
		}
		if all, _ := h.runs(""); all > 64+40 {
			t.Errorf("%d runs while the store was away", all)
		}
		away.Store(false)
		back := time.Now()
		failures, err := NewClient(rdb, nil).Wait(t.Context(), receipts, nil)
		if err != nil || len(failures) > 0 {
			t.Errorf("failures %v, %v", failures, err)
		}
		if took := time.Since(back); took > 15*time.Minute { // the probes themselves have waited longest
			t.Errorf("all done %v after the store came back", took)
		}
		if _, cause := s.Held(); cause != nil {
			t.Errorf("still held: %v", cause)
		}
	})
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	fault, bad := judge(errors.New("away")), judge(tasks.AsPermanent(errors.New("bad")))
	id := func(i int) string { return string(rune('a' + i)) }
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker()
		for i := range 10 * tripAfter { // good ones in between
			if err := b.leave(id(i%10), fault); outcomeOf(err) != tasks.Retry {
				t.Fatalf("failure %d: %v", i, err)
			}
		}
		if _, cause := b.held(); cause != nil {
			t.Fatal("ten tasks that fail again and again hold all others back")
		}
		for i := range tripAfter {
			_ = b.leave(id(i), fault)
		}
		if err := b.leave("z", fault); outcomeOf(err) != tasks.Overloaded {
			t.Errorf("who was under way is charged: %v", err)
		}
		begun := time.Now()
		if err := b.enter(t.Context(), "p"); err != nil || time.Since(begun) != minHold {
			t.Errorf("the probe goes after %v, %v", time.Since(begun), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := b.enter(ctx, "q"); tasks.Classify(err) != tasks.Overloaded {
			t.Errorf("a second one beside the probe: %v", err)
		}
		if err := b.leave("p", fault); outcomeOf(err) != tasks.Retry {
			t.Errorf("the probe is not charged: %v", err)
		}
		begun = time.Now()
		if err := b.enter(t.Context(), "q"); err != nil || time.Since(begun) != 2*minHold {
			t.Errorf("the second probe goes after %v, %v", time.Since(begun), err)
		}
		entered := make(chan error)
		go func() { entered <- b.enter(t.Context(), "r") }()
		synctest.Wait()
		_ = b.leave("q", bad) // a verdict on the text: the way is free
		if err := <-entered; err != nil {
			t.Error(err)
		}
		stopped, stop := context.WithCancel(t.Context())
		for i := range tripAfter {
			_ = b.leave(id(i), fault)
		}
		stop()
		if err := b.enter(stopped, "s"); !errors.Is(err, context.Canceled) {
			t.Errorf("a worker that stops: %v", err)
		}
	})
}
