package queue

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// Looks at empty lanes are rare while producers are heard, and a producer's task is taken at once all the same, or
// after a short sleep of asynq's; one that came another way is found at the next look.
func TestProducersAreHeard(t *testing.T) {
	t.Parallel()
	for _, lane := range []tasks.Lane{tasks.Query, tasks.Live, tasks.Backfill} {
		t.Run(string(lane), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { producersAreHeard(t, lane) })
		})
	}
}

func producersAreHeard(t *testing.T, lane tasks.Lane) {
	t.Helper()
	m, rdb := testkit.MiniRedis(t)
	k := keysOf("m", lane)
	count := counted{mu: new(sync.Mutex), calls: map[string]int{}}
	taken := make(chan time.Time, 1)
	h := newRecorder(func(context.Context, tasks.Task) error {
		taken <- time.Now()
		return nil
	})
	serve(t, miniConn(m), h, &ServerOptions{faults: faults{hook: count}}, lane)
	time.Sleep(10 * time.Second)
	if looks := count.of("pending active"); looks < 20 || looks > 60 {
		t.Errorf("%d looks in 10 s of an empty lane, want about 4 a second", looks)
	}
	for i := range 20 {
		time.Sleep(time.Duration(i) * time.Millisecond) // after the last task asynq sleeps first, and then waits
		begun := time.Now()
		enqueue(t, NewClient(rdb, nil), task(lane, i))
		if took := (<-taken).Sub(begun); took > 2*time.Millisecond {
			t.Errorf("task %d was taken after %v", i, took)
		}
	}
	// As after a retry: nobody says so.
	enqueue(t, NewClient(rdb, nil), task(lane, 100))
	<-taken
	time.Sleep(time.Second)
	begun := time.Now()
	again := message{ID: "t101", Type: string(tasks.EmbedDocument), Queue: queueName("m", lane), Timeout: time.Minute}
	msg := again.append(nil)
	rdb.HSet(t.Context(), k.task("t101"), "msg", string(msg), "state", "pending")
	rdb.LPush(t.Context(), k.pending(), "t101")
	if took := (<-taken).Sub(begun); took > 300*time.Millisecond {
		t.Errorf("a task that nobody announced was taken after %v", took)
	}
}

// While nobody is heard, each of asynq's questions is a look. Else it waits for tasks, or for the next look.
func TestDeafServersLookOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		a := newAhead(rdb, "m", []tasks.Lane{tasks.Query}, newSlots(1))
		a.looks = looks{awake: time.Second}
		pending := keysOf("m", tasks.Query).pending()
		ask := func() (found bool) {
			_, err := a.next(t.Context(), pending)
			return err == nil
		}
		ask()
		enqueue(t, NewClient(rdb, nil), task(tasks.Query, 1))
		if !ask() {
			t.Error("a deaf server did not look again")
		}
		a.slots = newSlots(1)
		a.hears(true)
		for n, told := range []time.Duration{0, 70 * time.Millisecond, 2 * time.Second} {
			ask() // empty now
			enqueue(t, NewClient(rdb, nil), task(tasks.Query, 2+n))
			begun, want := time.Now(), min(told, time.Second)
			time.AfterFunc(told, func() { a.wake(pending) })
			found := ask()
			if took := time.Since(begun); !found || took != want {
				t.Errorf("told after %v, a server that hears found %v after %v", told, found, took)
			}
			a.slots = newSlots(1)
		}
		time.AfterFunc(time.Millisecond, a.slots.close)
		ask()
		begun := time.Now()
		if ask(); time.Since(begun) > time.Millisecond {
			t.Errorf("a closed server rested for %v", time.Since(begun))
		}
	})
}
