package registry

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestSettingsCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		set  Settings
		want []string // parts of the error, none if it is fine
	}{
		{Settings{}, nil},
		{Settings{1, 1, Seconds(time.Millisecond)}, nil},
		{Settings{MaxConcurrency, MaxAccess, Seconds(MaxAccessTimeout)}, nil},
		{Settings{Concurrency: MaxConcurrency + 1}, []string{"concurrency 4097", "1 to 4096"}},
		{Settings{Concurrency: -1}, []string{"concurrency -1"}},
		{Settings{MaxAccess: MaxAccess + 1}, []string{"max access 1048577", "1 to 1048576"}},
		{Settings{AccessTimeout: 1}, []string{"access timeout 1ns", "1ms to 24h"}},
		{Settings{-1, -1, -1}, []string{"concurrency", "max access", "access timeout"}},
	} {
		err := tt.set.Check()
		if (err == nil) != (tt.want == nil) {
			t.Errorf("%+v: %v", tt.set, err)
		}
		for _, part := range tt.want {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("%+v: %v, want %q", tt.set, err, part)
			}
		}
	}
}

// obeyed follows the orders for a worker of the model "m" until the test ends, and returns the latest.
func obeyed(t *testing.T, c *Control, id string) func() (last Order, times int) {
	t.Helper()
	var mu sync.Mutex
	var last Order
	times := 0
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() {
		done <- c.Follow(ctx, testkit.Logger(t), Worker{ID: id, Model: "m"}, func(o Order) {
			mu.Lock()
			defer mu.Unlock()
			last = o
			times++
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func() (Order, int) { mu.Lock(); defer mu.Unlock(); return last, times }
}

// TestOrders gives orders to a model and to one of its workers and looks at what each was told.
func TestOrders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		c := NewControl(rdb)
		first, second := obeyed(t, c, "w1"), obeyed(t, c, "w2")
		expect := func(what string, read func() (Order, int), want Settings, drain bool) {
			t.Helper()
			if got, _ := read(); got.Settings != want || got.Drain != drain {
				t.Errorf("%s: told %+v, want %+v", what, got, want)
			}
		}
		order := func(target Target, s Settings) int64 {
			t.Helper()
			revision, err := c.Set(t.Context(), target, s, "kim")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // what is promised
			return revision
		}
		time.Sleep(3 * time.Second)
		if _, times := first(); times != 0 {
			t.Error("told something before the first order")
		}
		order(Target{Model: "m"}, Settings{Concurrency: 8, AccessTimeout: Seconds(20 * time.Second)})
		expect("model, first", first, Settings{Concurrency: 8, AccessTimeout: Seconds(20 * time.Second)}, false)
		expect("model, second", second, Settings{Concurrency: 8, AccessTimeout: Seconds(20 * time.Second)}, false)
		order(Target{Worker: "w1"}, Settings{Concurrency: 4, MaxAccess: 16})
		expect("own, first", first, Settings{4, 16, Seconds(20 * time.Second)}, false)
		expect("own, second", second, Settings{Concurrency: 8, AccessTimeout: Seconds(20 * time.Second)}, false)
		last := order(Target{Model: "m"}, Settings{Concurrency: 2})
		expect("the later wins", first, Settings{2, 16, Seconds(20 * time.Second)}, false)
		if o, _ := first(); o.Revision != last || o.By != "kim" {
			t.Errorf("%+v, want revision %d by kim", o, last)
		}

		if _, err := c.Drain(t.Context(), "w2", "lee"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		expect("drained", second, Settings{Concurrency: 2, AccessTimeout: Seconds(20 * time.Second)}, true)
		expect("not drained", first, Settings{2, 16, Seconds(20 * time.Second)}, false)
		if _, err := c.Reset(t.Context(), Target{Model: "m"}, "kim"); err != nil {
			t.Fatal(err)
		}
		m.SetError("LOADING redis is away")
		time.Sleep(5 * time.Second)
		m.SetError("")
		time.Sleep(2 * time.Second)
		expect("taken back", first, Settings{MaxAccess: 0}, false)

		// A worker that starts now gets what its model was told, and nothing of another's own.
		order(Target{Model: "m"}, Settings{MaxAccess: 99})
		expect("a new one", obeyed3(t, c), Settings{MaxAccess: 99}, false)
		list, err := NewEvents(rdb).List(t.Context(), 10)
		if err != nil || len(list) != 6 || list[2].What != EventDrain || list[2].Who != "lee" || list[2].About != "w2" ||
			list[5].Text != "concurrency 8, access timeout 20s" || list[5].Model != "m" || list[5].Who != "kim" {
			t.Errorf("events %+v, %v", list, err)
		}
	})
}

func obeyed3(t *testing.T, c *Control) func() (Order, int) {
	t.Helper()
	read := obeyed(t, c, "w3")
	time.Sleep(2 * time.Second)
	return read
}

func TestOrdersOutOfBoundsChangeNothing(t *testing.T) {
	t.Parallel()
	_, rdb := testkit.MiniRedis(t)
	c := NewControl(rdb)
	for _, tt := range []struct {
		target Target
		set    Settings
		want   string
	}{
		{Target{Model: "m"}, Settings{Concurrency: 5, MaxAccess: MaxAccess + 1}, "max access 1048577, want 1 to 1048576"},
		{Target{Model: "m"}, Settings{}, "none is given"},
		{Target{Model: "m", Worker: "w1"}, Settings{Concurrency: 5}, "one worker or one model"},
		{Target{}, Settings{Concurrency: 5}, "one worker or one model"},
		{Target{Model: "A b"}, Settings{Concurrency: 5}, "A b"},
		{Target{Worker: "w 1"}, Settings{Concurrency: 5}, "one worker or one model"},
	} {
		if _, err := c.Set(t.Context(), tt.target, tt.set, "kim"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v for %+v: %v, want %q", tt.set, tt.target, err, tt.want)
		}
	}
	if keys, err := rdb.Keys(t.Context(), "*").Result(); err != nil || len(keys) > 0 {
		t.Errorf("there are %q, %v", keys, err)
	}
}

// TestAWorkersOwnOrdersEndWithIt looks for what is left.
func TestAWorkersOwnOrdersEndWithIt(t *testing.T) {
	t.Parallel()
	_, rdb := testkit.MiniRedis(t)
	c := NewControl(rdb)
	if _, err := c.Set(t.Context(), Target{Worker: "w1"}, Settings{Concurrency: 5}, "kim"); err != nil {
		t.Fatal(err)
	}
	if ttl := rdb.PTTL(t.Context(), "embedfleet:settings:worker:w1").Val(); ttl <= 0 || ttl > orderTTL {
		t.Errorf("orders of a worker that is not there lapse in %v, want %v", ttl, orderTTL)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Follow(ctx, testkit.Logger(t), Worker{ID: "w1", Model: "m"}, func(o Order) {
		if o.Concurrency != 5 {
			t.Errorf("told %+v", o)
		}
		cancel()
	})
	if err != nil || rdb.Exists(t.Context(), "embedfleet:settings:worker:w1").Val() != 0 {
		t.Errorf("the orders are still there, %v", err)
	}
}

func FuzzOrder(f *testing.F) {
	f.Add("concurrency", "3 8", "max_access", "x 1")
	f.Add("drain", "1 1", "access_timeout", "2 20s")
	f.Fuzz(func(_ *testing.T, a, b, c, d string) { orderOf(map[string]string{a: b}, map[string]string{c: d}) })
}
