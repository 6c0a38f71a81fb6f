package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// fullWorker returns a worker with every field set.
func fullWorker() Worker {
	at := time.Date(2026, 11, 22, 2, 5, 0, 1000, time.UTC)
	return Worker{
		ID: "w1", Model: "m", Space: "abc", State: StateBusy, Since: at, Reason: "none", Host: "h", PID: 2, Name: "worker-1", Probes: "127.0.0.1:1",
		Lanes: []tasks.Lane{tasks.Query, tasks.Live}, Version: "v1", Started: at, Crashes: 3,
		Device: "cpu", Precision: "float32", Dim: 384, Runners: 2,
		Settings: Settings{Concurrency: 512, MaxAccess: 576, AccessTimeout: Seconds(1500 * time.Millisecond)}, Revision: 7,
		InUse: 5, Overdue: 1, Waiting: 9, TextsEver: 1000, TokensEver: 20000, TokenRate: 123.5,
		Memory:  Memory{Private: 1 << 20, Shared: 2 << 20, RSS: 3 << 20, Proportional: 2 << 20},
		Loading: &Loading{Stage: "fetching", Since: at, Done: 1, Total: 2},
		Held:    &Held{Since: at, Cause: "the store is away"},
	}
}

func TestWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ws := NewWorkers(rdb)
		first := fullWorker()
		var mu sync.Mutex
		current := func() Worker { mu.Lock(); defer mu.Unlock(); return first }
		changed := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- ws.Announce(ctx, testkit.Logger(t), current, changed) }()
		second := Worker{ID: "w0", Model: "m", Host: "h", PID: 10}
		if err := ws.Put(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkWorkers(t, ws, first, second)

		mu.Lock()
		first.State, first.Loading = StateReady, nil
		mu.Unlock()
		changed <- struct{}{}
		synctest.Wait()
		checkWorkers(t, ws, first, second)

		time.Sleep(WorkerTTL + time.Second) // the second did not say anything more
		checkWorkers(t, ws, first)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Announce: %v", err)
		}
		checkWorkers(t, ws)
	})
}

func checkWorkers(t *testing.T, ws *Workers, want ...Worker) {
	t.Helper()
	got, err := ws.List(t.Context())
	for i := range got {
		if got[i].Silent < 0 || got[i].Silent >= Seconds(WorkerTTL) {
			t.Errorf("%s was silent for %v", got[i].ID, got[i].Silent)
		}
		got[i].Silent = 0
	}
	if err != nil || asJSON(t, got) != asJSON(t, want) {
		t.Errorf("got  %s, %v\nwant %s", asJSON(t, got), err, asJSON(t, want))
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLostWorkers lets workers end in each way while two processes watch.
func TestLostWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ws := NewWorkers(rdb)
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		for _, me := range []string{"monitor", "w9"} {
			watching.Go(func() {
				if err := ws.Watch(ctx, testkit.Logger(t), me); err != nil {
					t.Error(err)
				}
			})
		}
		for i, id := range []string{"killed", "ended", "lives", "seen to die"} {
			if err := ws.Put(t.Context(), Worker{ID: id, Model: "m", State: StateBusy, Host: "h", PID: 7 + i}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 8 {
			time.Sleep(watchEvery)
			if err := ws.Put(t.Context(), Worker{ID: "lives", Model: "m"}); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if err := ws.Remove(t.Context(), "ended"); err != nil {
					t.Fatal(err)
				}
				if err := ws.Died(t.Context(), "h", 10, "supervisor"); err != nil {
					t.Fatal(err)
				}
				if list, err := ws.List(t.Context()); err != nil || len(list) != 2 {
					t.Errorf("after one ended and one died there are %+v, %v", list, err)
				}
				if rank := rdb.ZRank(t.Context(), workersKey, "seen to die"); rank.Err() != nil {
					t.Error("the dead one left the index, so that nobody will be charged")
				}
			}
		}
		cancel()
		watching.Wait()
		list, err := NewEvents(rdb).List(t.Context(), 10)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v, want one event", list, err)
		}
		ev := list[0]
		if ev.What != EventLost || ev.About != "killed" || ev.Model != "m" || !strings.Contains(ev.Text, "h:7") || !strings.Contains(ev.Text, "it was busy") {
			t.Errorf("%+v", ev)
		}
	})
}

// counted counts commands by name and key.
type counted struct {
	mu sync.Mutex
	by map[string]int
}

func (c *counted) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *counted) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.add(cmd); return next(ctx, cmd) }
}

func (c *counted) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.add(cmds...); return next(ctx, cmds) }
}

func (c *counted) add(cmds ...redis.Cmder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cmd := range cmds {
		if args := cmd.Args(); len(args) > 1 {
			c.by[fmt.Sprint(cmd.Name(), " ", args[1])]++
		}
	}
}

// TestWatchTakesTurns lets 20 processes watch: each asks, one looks. When all but one die, that one looks, and what is
// lost meanwhile is noted once.
func TestWatchTakesTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		count := &counted{by: map[string]int{}}
		var stops []func()
		for i := range 20 {
			client := testkit.MiniClient(t, m)
			client.AddHook(count)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- NewWorkers(client).Watch(ctx, testkit.Logger(t), "w"+strconv.Itoa(i)) }()
			stops = append(stops, func() { cancel(); <-ended })
			time.Sleep(171 * time.Millisecond) // not in step
		}
		look := func(processes int) {
			t.Helper()
			count.mu.Lock()
			clear(count.by)
			count.mu.Unlock()
			time.Sleep(20 * watchEvery)
			count.mu.Lock()
			defer count.mu.Unlock()
			if asked := count.by["set "+watchKey]; asked < 19*processes || asked > 21*processes {
				t.Errorf("%d processes asked %d times for 20 turns", processes, asked)
			}
			if looked := count.by["zrange "+workersKey]; looked < 16 || looked > 24 {
				t.Errorf("%d processes looked %d times in the time of 20 turns", processes, looked)
			}
		}
		look(20)
		for _, stop := range stops[1:] {
			stop()
		}
		if err := NewWorkers(rdb).Put(t.Context(), Worker{ID: "gone", Model: "m", State: StateReady}); err != nil {
			t.Fatal(err)
		}
		look(1)
		stops[0]()
		list, err := NewEvents(rdb).List(t.Context(), 10)
		if err != nil || len(list) != 1 || list[0].About != "gone" || list[0].Who != "w0" {
			t.Errorf("%+v, %v, want one event", list, err)
		}
	})
}

// TestIndex reads who did not end in order: by when they last said that they live, for an hour.
func TestIndex(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		ctx, ws := t.Context(), NewWorkers(rdb)
		for _, id := range []string{"c", "a", "ended", "b"} {
			if err := ws.Put(ctx, Worker{ID: id, Model: "m"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		if err := ws.Remove(ctx, "ended"); err != nil {
			t.Fatal(err)
		}
		expect := func(want ...Entry) {
			t.Helper()
			if got, err := ws.Index(ctx); err != nil || !slices.Equal(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		}
		expect(Entry{"c", false}, Entry{"a", false}, Entry{"b", true}) // 8, 6 and 2 s ago
		time.Sleep(time.Hour - 10*time.Second)
		if err := ws.trim(ctx); err != nil {
			t.Fatal(err)
		}
		expect(Entry{"c", false}, Entry{"a", false}, Entry{"b", false})
		if name := rdb.HGet(ctx, namesKey, "c").Val(); name == "" {
			t.Error("the name did not outlive the entry")
		}
		if err := ws.Put(ctx, Worker{ID: "b", Model: "m"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := ws.trim(ctx); err != nil {
			t.Fatal(err)
		}
		expect(Entry{"b", false})
		if names := rdb.HKeys(ctx, namesKey).Val(); !slices.Equal(names, []string{"b"}) {
			t.Errorf("names of %q are left", names)
		}
	})
}

// TestAnEntryOfAnotherVersion checks that what can't be read hides neither the worker nor the others.
func TestAnEntryOfAnotherVersion(t *testing.T) {
	t.Parallel()
	_, rdb := testkit.MiniRedis(t)
	ws := NewWorkers(rdb)
	for _, id := range []string{"w1", "w2"} {
		if err := ws.Put(t.Context(), Worker{ID: id, Model: "m", State: StateReady, Host: "h", PID: 7}); err != nil {
			t.Fatal(err)
		}
	}
	if err := rdb.HSet(t.Context(), workerKey("w2"), "entry", `{"since": 12}`).Err(); err != nil {
		t.Fatal(err)
	}
	list, err := ws.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, w := range list {
		if w.Model != "m" || w.State != StateReady || w.Host != "h" || w.PID != 7 || !w.Serving() {
			t.Errorf("%+v", w)
		}
	}
}
