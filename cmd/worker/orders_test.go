package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/registry"
)

func (x *trial) control() *registry.Control {
	x.t.Helper()
	return registry.NewControl(x.redis.Client())
}

// events returns what the fleet noted, the first first.
func (x *trial) events() []registry.Event {
	x.t.Helper()
	list, err := registry.NewEvents(x.redis.Client()).List(x.t.Context(), registry.MaxEvents)
	if err != nil {
		x.t.Fatal(err)
	}
	slices.Reverse(list)
	return list
}

// has reports whether one of the events is of the worker and says so.
func (x *trial) has(what, text string) bool {
	return slices.ContainsFunc(x.events(), func(ev registry.Event) bool {
		return ev.What == what && ev.About == x.worker.id && strings.Contains(ev.Text, text)
	})
}

// TestAFleetIsChangedWhileItRuns orders settings to two workers and looks at what /statusz of each says.
func TestAFleetIsChangedWhileItRuns(t *testing.T) {
	redis := testkit.RedisServer(t)
	first, second := newTrial(t, redis, "s1", nil), newTrial(t, redis, "s1", nil)
	for _, x := range []*trial{first, second} {
		x.gate <- nil
		x.until("ready", func() bool { return x.status().Worker.Serving() })
	}
	// shows waits until a worker shows settings, and its engine too.
	shows := func(x *trial, want registry.Settings) {
		t.Helper()
		x.until("settings "+want.String(), func() bool { return x.status().Worker.Settings == want })
		if got := x.status().Engine.Limits; got.MaxAccess != want.MaxAccess || got.AccessTimeout != time.Duration(want.AccessTimeout) {
			t.Errorf("the model has %+v, want %+v", got, want)
		}
	}
	set := func(target registry.Target, s registry.Settings) int64 {
		t.Helper()
		revision, err := first.control().Set(t.Context(), target, s, "kim")
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	const minute = registry.Seconds(time.Minute)
	shows(first, registry.Settings{Concurrency: 32, MaxAccess: 36, AccessTimeout: minute / 2})

	set(registry.Target{Model: "quote"}, registry.Settings{Concurrency: 8, AccessTimeout: minute})
	shows(first, registry.Settings{Concurrency: 8, MaxAccess: 12, AccessTimeout: minute})
	shows(second, registry.Settings{Concurrency: 8, MaxAccess: 12, AccessTimeout: minute})
	revision := set(registry.Target{Worker: second.worker.id}, registry.Settings{MaxAccess: 16})
	shows(second, registry.Settings{Concurrency: 8, MaxAccess: 16, AccessTimeout: minute})
	if s := second.status().Worker; s.Revision != revision || s.Refused != "" {
		t.Errorf("%+v, want revision %d", s, revision)
	}

	// What the worker itself can't do changes nothing, not by half.
	revision = set(registry.Target{Worker: second.worker.id}, registry.Settings{Concurrency: 4, MaxAccess: 666})
	second.until("the refusal", func() bool { return second.status().Worker.Revision == revision })
	if s := second.status().Worker; !strings.Contains(s.Refused, "666") {
		t.Errorf("it does not say what it refused: %+v", s)
	}
	shows(second, registry.Settings{Concurrency: 8, MaxAccess: 16, AccessTimeout: minute})
	second.until("an event of the refusal", func() bool { return second.has(registry.EventRefused, "666") })

	// Nor does what another program wrote, which did not check.
	key := "embedfleet:settings:worker:" + second.worker.id
	if err := redis.Client().HSet(t.Context(), key, "concurrency", "1000 70000", "max_access", "1000 3").Err(); err != nil {
		t.Fatal(err)
	}
	second.until("it is refused", func() bool {
		return strings.Contains(second.status().Worker.Refused, "concurrency 70000, want 1 to 4096")
	})
	shows(second, registry.Settings{Concurrency: 8, MaxAccess: 16, AccessTimeout: minute})

	// A worker of the same model that starts later has what was set for the model, from its first task on.
	third := newTrial(t, redis, "s1", nil)
	third.until("it knows", func() bool {
		third.worker.mu.Lock()
		defer third.worker.mu.Unlock()
		return third.worker.order.Concurrency == 8
	})
	third.gate <- nil
	third.until("ready", func() bool { return third.status().Worker.Serving() })
	shows(third, registry.Settings{Concurrency: 8, MaxAccess: 12, AccessTimeout: minute})

	for _, x := range []*trial{first, second, third} {
		x.stop()
		if err := x.end(); err != nil {
			t.Error(err)
		}
	}
	if keys, err := redis.Client().Keys(t.Context(), "embedfleet:settings:worker:*").Result(); err != nil || len(keys) > 0 {
		t.Errorf("orders of workers that ended are still there: %q, %v", keys, err)
	}
	if !second.has(registry.EventStarted, "") || !second.has(registry.EventReady, "on cpu") || !second.has(registry.EventEnded, "in order") {
		t.Errorf("events %+v", second.events())
	}
}

// TestADrainedWorkerEndsInOrder orders a drain with a task inside, and another while it loads.
func TestADrainedWorkerEndsInOrder(t *testing.T) {
	redis := testkit.RedisServer(t)
	x, other := newTrial(t, redis, "s1", nil), newTrial(t, redis, "s1", nil)
	x.gate <- nil
	x.until("ready", func() bool { return x.status().Worker.Serving() })
	receipts := x.enqueue("stall a while")
	x.until("busy", func() bool { s := x.status().Worker; return s.State == registry.StateBusy && s.InUse == 1 })
	for _, id := range []string{x.worker.id, other.worker.id} {
		if _, err := x.control().Drain(t.Context(), id, "kim"); err != nil {
			t.Fatal(err)
		}
	}
	x.until("draining", func() bool { return x.status().Worker.State == registry.StateDraining })
	if code, body := x.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, registry.StateDraining) {
		t.Errorf("/readyz while draining: %d %q", code, body)
	}
	if code, _ := x.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez while draining: %d", code)
	}
	close(x.fake.stalled)
	if err := x.end(); err != nil {
		t.Errorf("a drained worker ended with %v", err)
	}
	if failures, err := x.fleet.Queue.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Errorf("the task that was inside: %v, %v", failures, err)
	}
	if err := other.end(); err != nil {
		t.Errorf("drained while loading, it ended with %v", err)
	}
	if ev := x.events(); !slices.ContainsFunc(ev, func(e registry.Event) bool { return e.What == registry.EventDrain && e.Who == "kim" }) {
		t.Errorf("events %+v", ev)
	}
}
