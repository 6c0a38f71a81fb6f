package scheduler_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/vector"
)

// TestFreshness: two watchers count each document once, from its event to its vectors.
func TestFreshness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		source, store := ledger.New(rdb).Source("x", time.Hour), storeredis.New(rdb)
		var mu sync.Mutex
		var seen []time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		for range 2 {
			f := &scheduler.Freshness{
				Log: testkit.Logger(t), Alias: "m", Source: "x", Waiting: source, Store: store,
				Seen: func(_ string, d time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					seen = append(seen, d)
				},
			}
			go func() { _ = f.Run(ctx); done <- struct{}{} }()
		}
		began := time.Now()
		if err := source.Mark(ctx, []scheduler.Mark{
			{ID: "a", Names: []string{"a"}, Event: began}, {ID: "b", Names: []string{"b"}, Event: began.Add(-time.Minute)}, {ID: "c", Names: []string{"c"}, Event: began},
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Second)
		storeDocument(t, store, vector.Document{ID: "a", Text: "x"})
		storeDocument(t, store, vector.Document{ID: "b", Text: "x"})
		time.Sleep(time.Minute)
		mu.Lock()
		if len(seen) != 2 {
			t.Errorf("latencies %v, want those of a and b", seen)
		}
		mu.Unlock()
		l, err := source.Latency(ctx)
		if err != nil || l.Documents != 2 || l.P50 != 10*time.Second || l.P99 != 70*time.Second {
			t.Errorf("%+v, %v", l, err)
		}
		if n, oldest, err := source.Awaited(ctx); n != 1 || !oldest.Equal(began) || err != nil {
			t.Errorf("%d awaited since %v, %v", n, oldest, err)
		}
		if err := source.Mark(ctx, manyMarks(1200, time.Now())); err != nil {
			t.Fatal(err)
		}
		storeDocument(t, store, vector.Document{ID: "n1199", Text: "x"})
		time.Sleep(time.Minute)
		mu.Lock()
		if len(seen) != 3 {
			t.Errorf("%d latencies: a document behind 1,199 others is not found", len(seen))
		}
		mu.Unlock()
		rdb.Del(ctx, "ef:{crawl:x}:awaited")
		if err := source.Mark(ctx, manyMarks(2, time.Now().Add(-23*time.Hour-59*time.Minute))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if n, _, err := source.Awaited(ctx); n != 0 || err != nil {
			t.Errorf("%d are awaited for more than a day, %v", n, err)
		}
		cancel()
		<-done
		<-done
	})
}

// manyMarks returns marks of documents "n0" and so on.
func manyMarks(n int, event time.Time) []scheduler.Mark {
	marks := make([]scheduler.Mark, n)
	for i := range marks {
		marks[i] = scheduler.Mark{ID: fmt.Sprint("n", i), Event: event.Add(time.Duration(i) * time.Millisecond)}
	}
	return marks
}
