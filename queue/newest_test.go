package queue_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// version returns the task of one text of the document "d".
func version(t *testing.T, text string, n int64) tasks.Task {
	t.Helper()
	made, err := tasks.New("m", tasks.Live, vector.Document{ID: "d", Text: text}, &tasks.Options{Version: n})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Where the same text in a newer version finds the older one, and what must come of it: the version that the
// lane holds in the end, and under which id.
func TestNewerVersionOfATask(t *testing.T) {
	t.Parallel()
	active := func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
		id := rdb.LMove(ctx, k.Pending(), k.Active(), "RIGHT", "LEFT").Val()
		rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: 4e9, Member: id})
		rdb.HSet(ctx, k.Task(id), "state", "active")
	}
	last := func(move func(wire.Keys) string, state string) func(context.Context, *redis.Client, wire.Keys) {
		return func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			id := rdb.RPop(ctx, k.Pending()).Val()
			rdb.ZAdd(ctx, move(k), redis.Z{Score: 4e9, Member: id})
			rdb.HSet(ctx, k.Task(id), "state", state)
		}
	}
	nothing := func(context.Context, *redis.Client, wire.Keys) {}
	const base = 1_700_000_000_000_000_000 // as clocks give them: beyond what a float can tell apart
	for _, tt := range []struct {
		name       string
		spoil      func(context.Context, *redis.Client, wire.Keys)
		first, new int64
		state      queue.State
		mark       string // of the new one's id
		want       int64  // the version of the task with that id
	}{
		{"waits, newer by one", nothing, base, base + 1, queue.Attached, "", base + 1},
		{"waits, newer by digits", nothing, 9, 10, queue.Attached, "", 10},
		{"waits, the same", nothing, base, base, queue.Attached, "", base},
		{"waits, older", nothing, base + 1, base, queue.Attached, "", base + 1},
		{"is to be retried", last(wire.Keys.Retry, "retry"), base, base + 1, queue.Attached, "", base + 1},
		{"is scheduled", last(wire.Keys.Scheduled, "scheduled"), base, base + 1, queue.Attached, "", base + 1},
		{"runs, newer", active, base, base + 1, queue.Enqueued, "+", base + 1},
		{"runs, the same", active, base, base, queue.Attached, "", base},
		{"runs, older", active, base + 1, base, queue.Attached, "", base + 1},
		{"is done, newer", last(wire.Keys.Completed, "completed"), base, base + 1, queue.Enqueued, "", base + 1},
		{"is done, the same", last(wire.Keys.Completed, "completed"), base, base, queue.Done, "", base},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rdb := testkit.Redis(t)
			c, k, old := queue.NewClient(rdb, nil), wire.KeysOf("m", tasks.Live), version(t, "a", tt.first)
			queue.Accept(t, c, old)
			tt.spoil(t.Context(), rdb, k)
			list := []tasks.Task{version(t, "a", tt.new)}
			r := queue.Accept(t, c, list...)[0]
			if r.State != tt.state || r.ID != old.ID+tt.mark || list[0].ID != old.ID {
				t.Errorf("receipt %+v; want %s of %s%s, and the caller's task untouched", r, tt.state, old.ID, tt.mark)
			}
			m, err := wire.ParseMessage([]byte(rdb.HGet(t.Context(), k.Task(r.ID), "msg").Val()))
			if err != nil || m.ID != r.ID {
				t.Fatalf("message %+v, %v", m, err)
			}
			if p, err := tasks.DecodeDocument(m.Payload); err != nil || p.Version != tt.want {
				t.Errorf("version %d, %v, want %d", p.Version, err, tt.want)
			}
			if faults, err := upkeep.Fsck(t.Context(), rdb, nil); err != nil || len(faults) > 0 {
				t.Errorf("faults %+v, %v", faults, err)
			}
		})
	}
}

// The same text thrice while it runs: the followers follow each other, the newest waits, and nobody runs out
// of names.
func TestFollowersAreFew(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c, k := queue.NewClient(rdb, nil), wire.KeysOf("m", tasks.Live)
	var states []string
	for n := range int64(queue.MaxFollowers + 3) {
		r := queue.Accept(t, c, version(t, "a", n+1))[0]
		states = append(states, fmt.Sprintf("%s%s", r.State, strings.TrimLeft(r.ID, "0123456789abcdef")))
		if id := rdb.LMove(t.Context(), k.Pending(), k.Active(), "RIGHT", "LEFT").Val(); id != "" {
			rdb.ZAdd(t.Context(), k.Lease(), redis.Z{Score: 4e9, Member: id})
			rdb.HSet(t.Context(), k.Task(id), "state", "active")
		}
	}
	want := "enqueued enqueued+ enqueued++ enqueued+++ enqueued++++ attached++++ attached++++"
	if got := strings.Join(states, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A, B, A of one document: whatever had happened to the first A when the last one came, the document's text
// is A in the end. The store is the rule that the real one has: the highest version wins.
func TestNewestTextWins(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]time.Duration{
		"all wait": 0, "the first runs": 500 * time.Millisecond, "the first is done": 1500 * time.Millisecond,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, rdb := testkit.MiniRedis(t)
				c := queue.NewClient(rdb, nil)
				var highest int64
				text := ""
				var mu sync.Mutex
				h := queuetest.NewRecorder(func(_ context.Context, task tasks.Task) error {
					time.Sleep(time.Second)
					p, err := tasks.DecodeDocument(task.Payload)
					if err != nil {
						return err
					}
					mu.Lock()
					defer mu.Unlock()
					if p.Version > highest {
						highest, text = p.Version, p.Document.Text
					}
					return nil
				})
				start := func() { queuetest.Serve(t, rdb, h, &consumer.Options{Concurrency: 1}, tasks.Live) }
				if before > 0 {
					start()
				}
				receipts := queue.Accept(t, c, version(t, "A", 0))
				time.Sleep(before)
				receipts = append(receipts, queue.Accept(t, c, version(t, "B", 0))...)
				time.Sleep(time.Millisecond)
				receipts = append(receipts, queue.Accept(t, c, version(t, "A", 0))...)
				if before == 0 {
					start()
				}
				if failures, err := c.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
					t.Fatal(failures, err)
				}
				if text != "A" {
					t.Errorf("the text is %q after A, B, A", text)
				}
			})
		})
	}
}
