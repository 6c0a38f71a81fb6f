package queue

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
			if i == 1 {
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
		if ev.What != EventLost || ev.About != "killed" || ev.Model != "m" || !strings.Contains(ev.Text, "h:7") {
			t.Errorf("%+v", ev)
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
