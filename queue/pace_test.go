package queue

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/tasks"
)

// Ten tasks a second leave the lane, so a thousand need 100 s; the lane that gets nothing has no ETA, but its
// work is known from what the model does.
func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		// One second on average, and not in step with the looks.
		var begun atomic.Int64
		h := queuetest.NewRecorder(func(context.Context, tasks.Task) error {
			time.Sleep(time.Duration(510+97*(begun.Add(1)%11)) * time.Millisecond)
			return nil
		})
		c, lanes := NewClient(rdb, nil), NewLanes(rdb)
		enqueue(t, c, append(queuetest.Tasks(tasks.Live, 1300), queuetest.Tasks(tasks.Backfill, 100)...)...)
		look := func() map[tasks.Lane]LaneStatus {
			t.Helper()
			list, err := lanes.Status(t.Context(), "m")
			if err != nil {
				t.Fatal(err)
			}
			byLane := map[tasks.Lane]LaneStatus{}
			for _, s := range list {
				byLane[s.Lane] = s
			}
			return byLane
		}
		if s := look()[tasks.Live]; s.Pace != (Pace{}) {
			t.Errorf("after one look: %+v", s.Pace)
		}
		queuetest.Serve(t, rdb, h, &consumer.Options{Concurrency: 10}, tasks.Live)
		for range 30 {
			time.Sleep(time.Second)
			look()
		}
		s := look()
		live, backfill := s[tasks.Live], s[tasks.Backfill]
		want := time.Duration(live.Pending/10) * time.Second
		if live.Pending < 900 || math.Abs(live.DrainRate-10) > 2 || (live.ETA-want).Abs() > want/4 || (live.Work-want).Abs() > want/4 {
			t.Errorf("live: %d wait, %.2f leave a second, ETA %v, work %v; want 10 and %v", live.Pending, live.DrainRate, live.ETA, live.Work, want)
		}
		if backfill.DrainRate != 0 || backfill.ETA != 0 || (backfill.Work-10*time.Second).Abs() > 3*time.Second {
			t.Errorf("backfill: %+v", backfill)
		}
		if live.Processed < 280 || live.Processed > 320 {
			t.Errorf("%d are counted as processed after half a minute", live.Processed)
		}
	})
}

func TestDrainRate(t *testing.T) {
	t.Parallel()
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	var d drainRate
	for i, look := range []struct {
		ms, total int
		grown     int64
		rate      float64
	}{
		{0, 700, 0, 0},
		{100, 800, 0, 0}, // too early: it counts with the next
		{1000, 800, 100, 100},
		{2000, 800, 0, 80},     // a fifth of the way to 0
		{7000, 1300, 500, 100}, // five seconds follow at once
		{8000, 3, 0, 100},      // Redis lost its data: nothing is known of this second
		{9000, 13, 10, 82},
	} {
		if grown, _ := d.see(at(look.ms), int64(look.total)); grown != look.grown || math.Abs(d.rate-look.rate) > 1e-6 {
			t.Errorf("look %d: grew by %d, rate %v, want %d, %v", i, grown, d.rate, look.grown, look.rate)
		}
	}
	if d := inTime(1e9, 1e-9); d != longest {
		t.Errorf("an absurd estimate is %v", d)
	}
}

// A trips hook counts round trips.
type trips struct{ n atomic.Int64 }

func (*trips) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { h.n.Add(1); return next(ctx, cmd) }
}

func (h *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { h.n.Add(1); return next(ctx, cmds) }
}

// A look at 100 lanes, all of them full, is two round trips: the registry, and one script for each lane.
func TestStatusCost(t *testing.T) {
	t.Parallel()
	const models = 25
	rdb := testkit.Redis(t)
	for i := range models {
		var list []tasks.Task
		for _, lane := range tasks.Lanes {
			list = append(list, queuetest.Tasks(lane, 200)...)
		}
		for n := range list {
			list[n].Model = fmt.Sprintf("m%d", i)
		}
		enqueue(t, NewClient(rdb, nil), list...)
	}
	lanes, count := NewLanes(rdb), &trips{}
	if _, err := lanes.Status(t.Context()); err != nil { // the first sends the script's source
		t.Fatal(err)
	}
	rdb.AddHook(count)
	before := rdb.Info(t.Context(), "commandstats").Val()
	begun := time.Now()
	const looks = 10
	for range looks {
		list, err := lanes.Status(t.Context())
		if err != nil || len(list) != 4*models || list[0].Pending != 200 || list[0].Bytes == 0 || list[0].OldestPending == 0 {
			t.Fatalf("%d lanes, the first %+v, %v", len(list), list[0], err)
		}
	}
	took := time.Since(begun) / looks
	if n := count.n.Load() - 1; n != 2*looks {
		t.Errorf("%d round trips for %d looks, want two each", n, looks)
	}
	after := rdb.Info(t.Context(), "commandstats").Val()
	micros := (commandMicros(after, "evalsha") - commandMicros(before, "evalsha")) / looks
	t.Logf("a look at %d lanes takes %v, and Redis %d µs in %d scripts", 4*models, took.Round(10*time.Microsecond), micros, 4*models)
	if took > time.Second { // some milliseconds, on an idle machine
		t.Errorf("a look takes %v", took)
	}
}

// commandMicros reads from INFO commandstats how long Redis was busy with a command.
func commandMicros(info, command string) (micros int64) {
	_, rest, _ := strings.Cut(info, "cmdstat_"+command+":")
	_, rest, _ = strings.Cut(rest, "usec=")
	_, _ = fmt.Sscan(strings.SplitN(rest, ",", 2)[0], &micros) // not there is 0
	return micros
}
