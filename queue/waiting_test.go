package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// documentTask returns the task of a document of a source.
func documentTask(t *testing.T, lane tasks.Lane, id, source string) tasks.Task {
	t.Helper()
	task, err := tasks.New("m", lane, vector.Document{ID: id, Text: "text of " + id, Source: source}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// fleetOf fills a lane with n documents each of dart and news, one of which waits for its next try and one for its
// time, and returns their tasks.
func fleetOf(t *testing.T, rdb *redis.Client, lane tasks.Lane, n int) (dart, news []tasks.Task) {
	t.Helper()
	ctx, k := t.Context(), wire.KeysOf("m", lane)
	var all []tasks.Task
	for i := range n {
		dart = append(dart, documentTask(t, lane, fmt.Sprintf("%s-dart-%d", lane, i), "dart"))
		news = append(news, documentTask(t, lane, fmt.Sprintf("%s-news-%d", lane, i), "news"))
		all = append(all, dart[i], news[i])
	}
	accept(t, NewClient(rdb, nil), all)
	for state, key := range map[string]string{"retry": k.Retry(), "scheduled": k.Scheduled()} {
		id := news[0].ID
		if state == "retry" {
			id = news[1].ID
		}
		rdb.LRem(ctx, k.Pending(), 1, id)
		rdb.ZAdd(ctx, key, redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: id})
		rdb.HSet(ctx, k.Task(id), "state", state)
	}
	return dart, news
}

// begin makes a task one that a worker has in hand.
func begin(t *testing.T, rdb *redis.Client, task tasks.Task) {
	t.Helper()
	ctx, k := t.Context(), wire.KeysOf(task.Model, task.Lane)
	if rdb.LRem(ctx, k.Pending(), 1, task.ID).Val() != 1 {
		t.Fatalf("%s does not wait", task.ID)
	}
	rdb.LPush(ctx, k.Active(), task.ID)
	rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: task.ID})
	rdb.HSet(ctx, k.Task(task.ID), "state", "active")
}

func TestCancelWaiting(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, lanes, k := t.Context(), NewLanes(rdb), wire.KeysOf("m", tasks.Backfill)
	_, news := fleetOf(t, rdb, tasks.Backfill, 1300)
	dart, _ := fleetOf(t, rdb, tasks.Live, 3)
	begin(t, rdb, news[7])

	r, err := lanes.CancelWaiting(ctx, "m", Filter{Sources: []string{"news"}, Lanes: []tasks.Lane{tasks.Backfill}}, nil)
	if want := (Removal{Chosen: 1299, Removed: 1299}); err != nil || r != want {
		t.Errorf("by source: %+v, %v, want %+v", r, err, want)
	}
	if n, other := rdb.LLen(ctx, k.Pending()).Val(), rdb.ZCard(ctx, k.Retry()).Val()+rdb.ZCard(ctx, k.Scheduled()).Val(); n != 1300 || other != 0 {
		t.Errorf("%d wait for a worker, %d for something else", n, other)
	}
	if rdb.Exists(ctx, k.Task(news[0].ID), k.Task(news[9].ID)).Val() != 0 || rdb.HGet(ctx, k.Task(news[7].ID), "state").Val() != "active" {
		t.Error("texts are left, or the one that runs is not")
	}
	failures, open, err := NewClient(rdb, nil).Look(ctx, []Receipt{{ID: news[9].ID, Model: "m", Lane: tasks.Backfill, State: Enqueued}})
	if err != nil || len(open) != 0 || len(failures) != 1 || failures[0].Cause != cancelledText {
		t.Errorf("who waits for it hears %+v, %v", failures, err)
	}

	// By the id of a document, and of a task, in either lane.
	r, err = lanes.CancelWaiting(ctx, "m", Filter{IDs: []string{"live-dart-0", dart[1].ID, "nobody"}}, nil)
	if want := (Removal{Chosen: 2, Removed: 2}); err != nil || r != want {
		t.Errorf("by id: %+v, %v, want %+v", r, err, want)
	}
	r, err = lanes.CancelWaiting(ctx, "m", Filter{}, nil)
	if want := (Removal{Chosen: 1304, Removed: 1304}); err != nil || r != want {
		t.Errorf("all: %+v, %v, want %+v", r, err, want)
	}
}

// TestCountWaiting counts what the same filter would take out, and takes nothing.
func TestCountWaiting(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, lanes := t.Context(), NewLanes(rdb)
	_, news := fleetOf(t, rdb, tasks.Backfill, 700)
	dart, _ := fleetOf(t, rdb, tasks.Live, 3)
	begin(t, rdb, news[7])
	before := rdb.DBSize(ctx).Val()
	for _, tt := range []struct {
		filter Filter
		want   int
	}{
		{Filter{}, 1405}, {Filter{Lanes: []tasks.Lane{tasks.Live}}, 6}, {Filter{Lanes: []tasks.Lane{tasks.Query}}, 0},
		{Filter{Sources: []string{"news"}}, 702}, {Filter{Sources: []string{"news"}, Lanes: []tasks.Lane{tasks.Backfill}}, 699},
		{Filter{IDs: []string{dart[1].ID, "backfill-news-0", "nobody"}}, 2}, {Filter{IDs: []string{news[7].ID}}, 0},
	} {
		if n, err := lanes.CountWaiting(ctx, "m", tt.filter); n != tt.want || err != nil {
			t.Errorf("%+v: %d, %v, want %d", tt.filter, n, err, tt.want)
		}
	}
	if after := rdb.DBSize(ctx).Val(); after != before || rdb.LLen(ctx, wire.KeysOf("m", tasks.Backfill).Pending()).Val() != 1397 {
		t.Errorf("counting changed Redis: %d keys were %d", after, before)
	}
	if _, err := lanes.CountWaiting(ctx, "m", Filter{Lanes: []tasks.Lane{"express"}}); err == nil {
		t.Error("a lane that is none was counted")
	}
}

func TestMove(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, lanes, c := t.Context(), NewLanes(rdb), NewClient(rdb, nil)
	dart, news := fleetOf(t, rdb, tasks.Live, 700)
	begin(t, rdb, news[7])
	from, to := wire.KeysOf("m", tasks.Live), wire.KeysOf("m", tasks.Backfill)
	before := rdb.HGetAll(ctx, from.Task(news[3].ID)).Val()
	foreign := named(tasks.Live, "foreign", 1)[0] // of a kind that can be moved, though nothing in it can be read
	accept(t, c, []tasks.Task{foreign})

	r, err := lanes.Move(ctx, "m", Filter{Sources: []string{"news"}}, tasks.Backfill, nil)
	if want := (Removal{Chosen: 699, Removed: 699}); err != nil || r != want {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	if a, b := rdb.LLen(ctx, from.Pending()).Val(), rdb.LLen(ctx, to.Pending()).Val(); a != 701 || b != 699 {
		t.Errorf("%d in the old lane, %d in the new", a, b)
	}
	if rdb.HGet(ctx, from.Task(news[7].ID), "state").Val() != "active" || rdb.Exists(ctx, from.Cancelled()).Val() != 0 {
		t.Error("the one that runs was moved, or somebody is marked as cancelled")
	}
	after := rdb.HGetAll(ctx, to.Task(news[3].ID)).Val()
	for _, field := range []string{"version", "tokens", "expires"} {
		if before[field] != after[field] {
			t.Errorf("%s was %q, is %q", field, before[field], after[field])
		}
	}
	old, err1 := wire.ParseMessage([]byte(before["msg"]))
	moved, err2 := wire.ParseMessage([]byte(after["msg"]))
	if err := errors.Join(err1, err2); err != nil || string(old.Payload) != string(moved.Payload) || moved.Queue != to.Queue() || moved.Timeout != old.Timeout {
		t.Errorf("the message was %+v, is %+v, %v", old, moved, err)
	}
	// Whoever waits for one follows it.
	_, open, err := c.Look(ctx, []Receipt{
		{ID: news[3].ID, Model: "m", Lane: tasks.Live, State: Enqueued}, {ID: dart[3].ID, Model: "m", Lane: tasks.Live, State: Enqueued},
	})
	if err != nil || len(open) != 2 || open[0].Lane != tasks.Backfill || open[1].Lane != tasks.Live {
		t.Errorf("open %+v, %v", open, err)
	}
	if _, err := lanes.Move(ctx, "m", Filter{}, tasks.Query, nil); err == nil || !strings.Contains(err.Error(), `lane "query"`) {
		t.Errorf("to the query lane: %v", err)
	}
	accept(t, c, []tasks.Task{{ID: "q", Kind: tasks.EmbedQuery, Model: "m", Lane: tasks.Query, Payload: []byte("{}"), Timeout: time.Minute}})
	r, err = lanes.Move(ctx, "m", Filter{Lanes: []tasks.Lane{tasks.Query}}, tasks.Live, nil)
	if want := (Removal{Chosen: 1, Refused: 1}); err != nil || r != want {
		t.Errorf("a query: %+v, %v, want %+v", r, err, want)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, lanes, c := t.Context(), NewLanes(rdb), NewClient(rdb, nil)
	_, news := fleetOf(t, rdb, tasks.Live, 20)
	fleetOf(t, rdb, tasks.Backfill, 20)
	begin(t, rdb, news[5])
	other := named(tasks.Live, "other", 1)[0]
	other.Model = "m2"
	accept(t, c, []tasks.Task{other})
	k := wire.KeysOf("m", tasks.Live)
	rdb.ZAdd(ctx, k.Dead(), redis.Z{Score: 1, Member: "d"})
	rdb.HSet(ctx, k.Letter("d"), "code", "poison", "msg", "x")
	rdb.Set(ctx, string(k)+"processed:2026-01-01", 1, 0)
	// A document of the store, whose id is like a key of the lane.
	rdb.HSet(ctx, "ef:{m}:doc:x:{embed:m:live}:pending", "text", "t")

	if n, err := lanes.Forget(ctx, "m"); !errors.Is(err, ErrInUse) || n != 0 || !strings.Contains(err.Error(), "1 of its tasks") {
		t.Errorf("while a task is active: %d, %v", n, err)
	}
	if n, err := lanes.ForgetInUse(ctx, "m"); err != nil || n < 80 {
		t.Errorf("%d keys, %v", n, err)
	}
	left := rdb.Keys(ctx, "*").Val()
	slices.Sort(left)
	k2 := wire.KeysOf("m2", tasks.Live)
	if want := []string{wire.RegistryKey, k2.Pending(), k2.Task("other-0"), "ef:{m}:doc:x:{embed:m:live}:pending"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	if models, err := lanes.Models(ctx); err != nil || !slices.Equal(models, []string{"m2"}) {
		t.Errorf("models %v, %v", models, err)
	}
	if n, err := lanes.Forget(ctx, "never-there"); err != nil || n != 0 {
		t.Errorf("of an alias that was never there: %d, %v", n, err)
	}
	if _, err := lanes.Forget(ctx, "no:alias"); err == nil {
		t.Error("what is no alias was forgotten")
	}
}

// What did its work and was not heard, or died half-way, is done again and changes nothing more.
func TestRemovalsTwice(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, lanes, c := t.Context(), NewLanes(rdb), NewClient(rdb, nil)
	dart, _ := fleetOf(t, rdb, tasks.Live, 4)
	from, to := wire.KeysOf("m", tasks.Live), wire.KeysOf("m", tasks.Backfill)

	// A move that died when the copies were there: one of them has been taken by a worker since.
	copies := slices.Clone(dart)
	for i := range copies {
		copies[i].Lane = tasks.Backfill
	}
	accept(t, c, copies)
	begin(t, rdb, copies[0])
	for i, want := range []Removal{{Chosen: 4, Removed: 4}, {}} {
		if r, err := lanes.Move(ctx, "m", Filter{Sources: []string{"dart"}}, tasks.Backfill, nil); err != nil || r != want {
			t.Errorf("move %d: %+v, %v, want %+v", i, r, err, want)
		}
		if pending, active := rdb.LLen(ctx, to.Pending()).Val(), rdb.LLen(ctx, to.Active()).Val(); pending != 3 || active != 1 {
			t.Errorf("after move %d %d wait and %d run", i, pending, active)
		}
	}
	for i, want := range [][]Cancellation{{Removed, Marked}, {Missing, Marked}} {
		got, err := lanes.Cancel(ctx, "m", tasks.Backfill, []string{dart[1].ID, dart[0].ID})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("cancel %d: %v, %v, want %v", i, got, err, want)
		}
	}
	for i, want := range []Removal{{Chosen: 4, Removed: 4}, {}} {
		if r, err := lanes.CancelWaiting(ctx, "m", Filter{Lanes: []tasks.Lane{tasks.Live}}, nil); err != nil || r != want {
			t.Errorf("cancelling waiting ones %d: %+v, %v, want %+v", i, r, err, want)
		}
	}
	if n := rdb.LLen(ctx, from.Pending()).Val() + rdb.ZCard(ctx, from.Retry()).Val() + rdb.ZCard(ctx, from.Scheduled()).Val(); n != 0 {
		t.Errorf("%d are left", n)
	}
}
