package consumer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// What a hand in Redis has made of one task stops neither its lane nor Redis, nor is a rate learned from it.
func TestAHandInATask(t *testing.T) {
	t.Parallel()
	odd := map[string]func(rdb *redis.Client, k wire.Keys){
		"no hash": func(rdb *redis.Client, k wire.Keys) { rdb.Set(t.Context(), k.Task("t0"), "x", 0) },
	}
	for _, field := range []string{"tokens", "expires"} {
		for _, value := range []string{"abc", "", "nan", "-inf", "1e308", "1e999", "-5"} {
			odd[fmt.Sprintf("%s=%q", field, value)] = func(rdb *redis.Client, k wire.Keys) {
				rdb.HSet(t.Context(), k.Task("t0"), field, value)
			}
		}
	}
	for name, spoil := range odd {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := testkit.Redis(t)
			k := wire.KeysOf("m", tasks.Live)
			enqueue(t, rdb, nil, manyTasks(tasks.Live, 3)...)
			spoil(rdb, k)
			h := newRecorder(nil)
			c := serve(t, rdb, h, &Options{Logger: silent, Cost: Cost{Rate: 1000, Window: 256, Half: 500}}, tasks.Live)
			for n := range 3 { // one by one, since the first may have spoiled what the worker reckons with
				enqueue(t, rdb, nil, task(tasks.Live, 3+n))
				eventually(t, "the next one ran", func() bool { _, ran := h.runs(fmt.Sprintf("t%d", 3+n)); return ran == 1 })
			}
			if s := laneStatus(t, rdb)[tasks.Live]; s.Pending+s.Dead != 0 {
				t.Errorf("left over: %+v", s)
			}
			if rate, hand := c.pools[0].limiter.rate.perSecond(); !(rate > 0 && rate < 1e8 && hand >= 0 && hand < 1e8) {
				t.Errorf("a rate of %v, %v in hand", rate, hand)
			}
		})
	}
}

// Also a task in hand: the leases of the others are renewed, and they are settled.
func TestAHandInATaskThatRuns(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	k := wire.KeysOf("m", tasks.Query)
	sweep(t, rdb)
	until := make(chan struct{})
	h := newRecorder(func(context.Context, tasks.Task) error { <-until; return nil })
	enqueue(t, rdb, nil, manyTasks(tasks.Query, 3)...)
	serve(t, rdb, h, &Options{Logger: silent}, tasks.Query)
	eventually(t, "all are in hand", func() bool { n, _ := h.runs(""); return n == 3 })
	rdb.Set(t.Context(), k.Task("t1"), "x", 0)
	taken := time.Now()
	eventually(t, "the others are renewed", func() bool {
		return rdb.ZScore(t.Context(), k.Lease(), "t2").Val() > float64(taken.Add(3*time.Second).Unix())
	})
	close(until)
	eventually(t, "the others are settled", func() bool {
		return rdb.Exists(t.Context(), k.Task("t0"), k.Task("t2"), k.Active(), k.Lease()).Val() == 0
	})
}
