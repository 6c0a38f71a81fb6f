package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
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
	active := func(ctx context.Context, rdb *redis.Client, k laneKeys) {
		id := rdb.LMove(ctx, k.pending(), k.active(), "RIGHT", "LEFT").Val()
		rdb.ZAdd(ctx, k.lease(), redis.Z{Score: 4e9, Member: id})
		rdb.HSet(ctx, k.task(id), "state", "active")
	}
	last := func(move func(laneKeys) string, state string) func(context.Context, *redis.Client, laneKeys) {
		return func(ctx context.Context, rdb *redis.Client, k laneKeys) {
			id := rdb.RPop(ctx, k.pending()).Val()
			rdb.ZAdd(ctx, move(k), redis.Z{Score: 4e9, Member: id})
			rdb.HSet(ctx, k.task(id), "state", state)
		}
	}
	nothing := func(context.Context, *redis.Client, laneKeys) {}
	const base = 1_700_000_000_000_000_000 // as clocks give them: beyond what a float can tell apart
	for _, tt := range []struct {
		name       string
		spoil      func(context.Context, *redis.Client, laneKeys)
		first, new int64
		state      State
		mark       string // of the new one's id
		want       int64  // the version of the task with that id
	}{
		{"waits, newer by one", nothing, base, base + 1, Attached, "", base + 1},
		{"waits, newer by digits", nothing, 9, 10, Attached, "", 10},
		{"waits, the same", nothing, base, base, Attached, "", base},
		{"waits, older", nothing, base + 1, base, Attached, "", base + 1},
		{"is to be retried", last(laneKeys.retry, "retry"), base, base + 1, Attached, "", base + 1},
		{"is scheduled", last(laneKeys.scheduled, "scheduled"), base, base + 1, Attached, "", base + 1},
		{"runs, newer", active, base, base + 1, Enqueued, "+", base + 1},
		{"runs, the same", active, base, base, Attached, "", base},
		{"runs, older", active, base + 1, base, Attached, "", base + 1},
		{"is done, newer", last(laneKeys.completed, "completed"), base, base + 1, Enqueued, "", base + 1},
		{"is done, the same", last(laneKeys.completed, "completed"), base, base, Done, "", base},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rdb := testkit.Redis(t)
			c, k, old := NewClient(rdb, nil), keysOf("m", tasks.Live), version(t, "a", tt.first)
			enqueue(t, c, old)
			tt.spoil(t.Context(), rdb, k)
			list := []tasks.Task{version(t, "a", tt.new)}
			r := enqueue(t, c, list...)[0]
			if r.State != tt.state || r.ID != old.ID+tt.mark || list[0].ID != old.ID {
				t.Errorf("receipt %+v; want %s of %s%s, and the caller's task untouched", r, tt.state, old.ID, tt.mark)
			}
			m, err := parseMessage([]byte(rdb.HGet(t.Context(), k.task(r.ID), "msg").Val()))
			if err != nil || m.ID != r.ID {
				t.Fatalf("message %+v, %v", m, err)
			}
			if p, err := tasks.DecodeDocument(m.Payload); err != nil || p.Version != tt.want {
				t.Errorf("version %d, %v, want %d", p.Version, err, tt.want)
			}
			if faults, err := Fsck(t.Context(), rdb, nil); err != nil || len(faults) > 0 {
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
	c, k := NewClient(rdb, nil), keysOf("m", tasks.Live)
	var states []string
	for n := range int64(maxFollowers + 3) {
		r := enqueue(t, c, version(t, "a", n+1))[0]
		states = append(states, fmt.Sprintf("%s%s", r.State, strings.TrimLeft(r.ID, "0123456789abcdef")))
		if id := rdb.LMove(t.Context(), k.pending(), k.active(), "RIGHT", "LEFT").Val(); id != "" {
			rdb.ZAdd(t.Context(), k.lease(), redis.Z{Score: 4e9, Member: id})
			rdb.HSet(t.Context(), k.task(id), "state", "active")
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
				m, rdb := testkit.MiniRedis(t)
				c := NewClient(rdb, nil)
				var highest int64
				text := ""
				h := newRecorder(nil)
				h.do = func(_ context.Context, task tasks.Task) error {
					time.Sleep(time.Second)
					p, err := tasks.DecodeDocument(task.Payload)
					if err != nil {
						return err
					}
					h.mu.Lock()
					defer h.mu.Unlock()
					if p.Version > highest {
						highest, text = p.Version, p.Document.Text
					}
					return nil
				}
				start := func() { serve(t, miniConn(m), h, &ServerOptions{Concurrency: 1}, tasks.Live) }
				if before > 0 {
					start()
				}
				receipts := enqueue(t, c, version(t, "A", 0))
				time.Sleep(before)
				receipts = append(receipts, enqueue(t, c, version(t, "B", 0))...)
				time.Sleep(time.Millisecond)
				receipts = append(receipts, enqueue(t, c, version(t, "A", 0))...)
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
