package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// document returns a task as a producer makes it.
func document(t *testing.T, lane tasks.Lane, id, source string) tasks.Task {
	t.Helper()
	doc := vector.Document{ID: id, Text: "the secret text of " + id, Source: source}
	task, err := tasks.New("m", lane, doc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// archive does to pending tasks what asynq does to those that failed for good.
func archive(t *testing.T, rdb *redis.Client, k wire.Keys) (n int) {
	t.Helper()
	for {
		id, err := rdb.RPop(t.Context(), k.Pending()).Result()
		if errors.Is(err, redis.Nil) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.ParseMessage([]byte(rdb.HGet(t.Context(), k.Task(id), "msg").Val()))
		if err != nil {
			t.Fatal(err)
		}
		m.ErrorMsg, m.Retried, m.LastFailedAt = "it failed", 4, time.Now()
		rdb.ZAdd(t.Context(), k.Archived(), redis.Z{Score: float64(time.Now().Unix()), Member: id})
		rdb.HSet(t.Context(), k.Task(id), "msg", m.Append(nil), "state", "archived")
		n++
	}
}

// kill makes n dead letters of fresh documents on a real server, through the archive.
func kill(t *testing.T, rdb *redis.Client, list ...tasks.Task) {
	t.Helper()
	enqueue(t, queue.NewClient(rdb, nil), list...)
	for _, lane := range tasks.Lanes {
		archive(t, rdb, wire.KeysOf("m", lane))
	}
	if err := New(rdb, nil).sweep(t.Context(), round{read: true, trim: true}); err != nil {
		t.Fatal(err)
	}
}

// A letter tells what happened, and its text only if asked.
func TestLetterTellsAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		h := queuetest.NewRecorder(func(context.Context, tasks.Task) error { return errors.New("store is away") })
		queuetest.Serve(t, rdb, h, &consumer.Options{Worker: "w1"}, tasks.Live)
		sweep(t, rdb) // sends retries back
		began := time.Now()
		doc := document(t, tasks.Live, "dart:1", "dart")
		receipts := enqueue(t, queue.NewClient(rdb, &queue.ClientOptions{MaxRetry: 2}), doc)
		if _, err := queue.NewClient(rdb, nil).Wait(t.Context(), receipts, nil); err != nil {
			t.Fatal(err)
		}
		list, err := NewDead(rdb).List(t.Context(), "m", DeadFilter{}, 10)
		if err != nil || len(list) != 1 {
			t.Fatalf("letters %+v, %v", list, err)
		}
		got := list[0]
		if got.First.Sub(began) > 2*time.Second || got.Last.Sub(got.First) < 4*time.Second {
			t.Errorf("began %v, first failure %v, last %v", began, got.First, got.Last)
		}
		got.First, got.Last = time.Time{}, time.Time{}
		want := Letter{ID: doc.ID, Model: "m", Lane: tasks.Live, Kind: tasks.EmbedDocument, Code: "retry",
			Message: "store is away", Attempts: 3, Worker: "w1", Document: "dart:1", Source: "dart"}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if strings.Contains(fmt.Sprintf("%+v", list[0]), "secret") {
			t.Error("a letter shows its text unasked")
		}
		payload, err := NewDead(rdb).Payload(t.Context(), got)
		if err != nil || string(payload) != string(doc.Payload) {
			t.Errorf("payload %q, %v", payload, err)
		}
		if keys := rdb.Keys(t.Context(), wire.KeysOf("m", tasks.Live).Tasks()+"*").Val(); len(keys) > 0 {
			t.Errorf("left of the task: %q", keys)
		}
	})
}

// T5: what asynq archives becomes a letter, once, whoever sweeps and however often it is interrupted; T6: in
// pages, so that no script meets thousands of ids.
func TestArchiveBecomesLetters(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	k := wire.KeysOf("m", tasks.Live)
	const n = 2500
	enqueue(t, queue.NewClient(rdb, nil), queuetest.Tasks(tasks.Live, n)...)
	archive(t, rdb, k)
	rdb.HSet(t.Context(), k.Task("t3"), "msg", "\xff\xff", "code", "no\nword", "worker", "w9")
	rdb.Del(t.Context(), k.Task("t4"))
	rdb.LPush(t.Context(), k.Active(), "t5") // T6: half-way

	done := make(chan error)
	for range 3 { // three processes at once
		go func() { done <- New(rdb, nil).sweep(context.Background(), round{read: true, trim: true}) }()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	causes, err := NewDead(rdb).Causes(t.Context(), "m")
	if want := []CauseCount{{wire.CodeUnknown, n - 1}, {"no_word", 1}}; err != nil || !slices.Equal(causes, want) {
		t.Errorf("causes %+v, %v", causes, err)
	}
	if s := laneStatus(t, rdb)[tasks.Live]; s.Dead != n || s.Active != 0 || rdb.ZCard(t.Context(), k.Archived()).Val() != 0 {
		t.Errorf("lane %+v", s)
	}
	if left := rdb.Keys(t.Context(), k.Tasks()+"*").Val(); len(left) > 0 {
		t.Errorf("%d hashes are left (T7)", len(left))
	}
	list, err := NewDead(rdb).List(t.Context(), "m", DeadFilter{IDs: []string{"t3", "t4", "t6"}}, 10)
	if err != nil || len(list) != 3 {
		t.Fatalf("letters %+v, %v", list, err)
	}
	for _, l := range list {
		want := map[string]string{"t3": "reading a task message", "t4": "its hash is gone", "t6": "it failed"}[l.ID]
		if !strings.Contains(l.Message, want) || l.ID == "t6" && l.Attempts != 5 || l.ID == "t3" && l.Worker != "w9" {
			t.Errorf("letter %+v", l)
		}
	}
	// Those without a task that can be read stay; nothing is lost by trying.
	r, err := NewDead(rdb).Replay(t.Context(), "m", DeadFilter{}, nil)
	if want := (Revival{Chosen: n, Replayed: n - 2, Unreadable: 2}); err != nil || r != want {
		t.Errorf("revival %+v, %v, want %+v", r, err, want)
	}
}

// Who is enqueued again is not dead, in whichever lane.
func TestEnqueuedAgainIsNotDead(t *testing.T) {
	t.Parallel()
	for _, lane := range []tasks.Lane{tasks.Live, tasks.Backfill} {
		rdb := testkit.Redis(t)
		kill(t, rdb, queuetest.Tasks(tasks.Live, 3)...)
		again := queuetest.Task(lane, 1)
		enqueue(t, queue.NewClient(rdb, nil), again)
		if got := queuetest.Whereabouts(t, rdb, wire.KeysOf("m", tasks.Live), "t1") + queuetest.Whereabouts(t, rdb, wire.KeysOf("m", tasks.Backfill), "t1"); got != "pending" {
			t.Errorf("enqueued into %s: task is in %q", lane, got)
		}
		causes, err := NewDead(rdb).Causes(t.Context(), "m")
		if err != nil || !slices.Equal(causes, []CauseCount{{wire.CodeUnknown, 2}}) {
			t.Errorf("causes %+v, %v", causes, err)
		}
		if n := rdb.Exists(t.Context(), wire.KeysOf("m", tasks.Live).Letter("t1")).Val(); n != 0 {
			t.Error("its letter is still there")
		}
	}
}

func TestDeadFilter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		kill(t, rdb, document(t, tasks.Live, "d1", "dart"), document(t, tasks.Backfill, "n1", "news"))
		time.Sleep(time.Hour)
		kill(t, rdb, document(t, tasks.Live, "n2", "news"))
		ctx, d, hour := t.Context(), NewDead(rdb), time.Now().Add(-time.Minute)
		tests := map[string]struct {
			f    DeadFilter
			want []string
		}{
			"all, latest first":   {DeadFilter{}, []string{"n2", "d1", "n1"}},
			"lane":                {DeadFilter{Lanes: []tasks.Lane{tasks.Backfill}}, []string{"n1"}},
			"source":              {DeadFilter{Sources: []string{"news"}}, []string{"n2", "n1"}},
			"cause":               {DeadFilter{Codes: []string{"panic"}}, nil},
			"document":            {DeadFilter{IDs: []string{"d1"}}, []string{"d1"}},
			"young":               {DeadFilter{After: hour}, []string{"n2"}},
			"old":                 {DeadFilter{Before: hour}, []string{"d1", "n1"}},
			"old and of a source": {DeadFilter{Before: hour, Sources: []string{"dart"}}, []string{"d1"}},
		}
		for name, tt := range tests {
			list, err := d.List(ctx, "m", tt.f, 10)
			var got []string
			for _, l := range list {
				got = append(got, l.Document)
			}
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
			}
		}
		if list, err := d.List(ctx, "m", DeadFilter{}, 2); err != nil || len(list) != 2 {
			t.Errorf("limited to 2: %d, %v", len(list), err)
		}
		if _, err := d.List(ctx, "m", DeadFilter{Lanes: []tasks.Lane{"nope"}}, 2); err == nil {
			t.Error("a lane that is none is accepted")
		}
		r, err := d.Replay(ctx, "m", DeadFilter{Sources: []string{"news"}}, nil)
		if want := (Revival{Chosen: 2, Replayed: 2}); err != nil || r != want {
			t.Errorf("replay: %+v, %v", r, err)
		}
		if n, err := d.Drop(ctx, "m", DeadFilter{}); err != nil || n != 1 {
			t.Errorf("drop: %d, %v", n, err)
		}
		if s := laneStatus(t, rdb); s[tasks.Live].Pending != 1 || s[tasks.Backfill].Pending != 1 || s[tasks.Live].Dead != 0 {
			t.Errorf("lanes: %+v", s)
		}
		if keys := rdb.Keys(ctx, "embedfleet:{*").Val(); len(keys) > 0 {
			t.Errorf("left over: %q", keys)
		}
	})
}

// A replayed task is the producer's task again, with all its retries.
func TestReplayedTask(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	doc := document(t, tasks.Live, "d1", "dart")
	kill(t, rdb, doc)
	if _, err := NewDead(rdb).Replay(t.Context(), "m", DeadFilter{}, nil); err != nil {
		t.Fatal(err)
	}
	doc.Version, doc.Tokens = 0, 0 // they are for the producer's side
	h := queuetest.NewRecorder(nil)
	queuetest.Serve(t, rdb, h, nil, tasks.Live)
	failures, err := queue.NewClient(rdb, nil).Wait(t.Context(), []queue.Receipt{{ID: doc.ID, Model: "m", Lane: tasks.Live, State: queue.Enqueued}}, nil)
	if err != nil || len(failures) > 0 || len(h.Tasks()) != 1 || fmt.Sprint(h.Tasks()[0]) != fmt.Sprint(doc) {
		t.Errorf("handler saw %+v, want %+v; %v, %v", h.Tasks(), doc, failures, err)
	}
}

func TestTrim(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	kill(t, rdb, queuetest.Tasks(tasks.Live, 1203)...)
	k := wire.KeysOf("m", tasks.Live)
	for i := range 1201 {
		rdb.ZAdd(t.Context(), k.Dead(), redis.Z{Score: float64(time.Now().Add(-maxLetterAge - time.Minute).UnixMilli()), Member: fmt.Sprintf("t%d", i)})
	}
	for range 2 { // again is no error
		if err := New(rdb, nil).sweep(t.Context(), round{read: true, trim: true}); err != nil {
			t.Fatal(err)
		}
	}
	causes, err := NewDead(rdb).Causes(t.Context(), "m")
	if err != nil || !slices.Equal(causes, []CauseCount{{wire.CodeUnknown, 2}}) {
		t.Errorf("causes %+v, %v", causes, err)
	}
	if n := len(rdb.Keys(t.Context(), k.Letters()+"*").Val()); n != 2 {
		t.Errorf("%d letters are left, want 2", n)
	}
}

// A long list is read in pages that overlap nowhere and leave nobody out, also where many died at the same
// moment.
func TestLetterPages(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	var members []redis.Z
	for i := range 3000 {
		members = append(members, redis.Z{Score: float64(1_700_000_000_000 + i*i/2_000_000*1000), Member: fmt.Sprintf("t%04d", i)})
	}
	rdb.ZAdd(t.Context(), "index", members...)
	want := rdb.ZRangeArgs(t.Context(), redis.ZRangeArgs{Key: "index", Start: 0, Stop: -1, Rev: true}).Val()
	for _, size := range []int{1, 7, 999, 1000, 3000, 5000} {
		pages := letterPages{rdb: rdb, key: "index", at: *DeadFilter{}.window()}
		var got []string
		for !pages.end {
			ids, err := pages.next(t.Context(), size)
			if err != nil || len(ids) > size {
				t.Fatalf("page of %d ids, %v", len(ids), err)
			}
			got = append(got, ids...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %d ids, want %d in order", size, len(got), len(want))
		}
	}
}

// A lane keeps so many letters and no more: the oldest go.
func TestTrimToTheNumber(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	k, now := wire.KeysOf("m", tasks.Live), float64(time.Now().UnixMilli())
	const excess = 700
	for from := 0; from < maxLetters+excess; from += 10_000 {
		var members []redis.Z
		for i := from; i < min(from+10_000, maxLetters+excess); i++ {
			members = append(members, redis.Z{Score: now + float64(i), Member: fmt.Sprintf("t%d", i)}) // the index alone
		}
		rdb.ZAdd(t.Context(), k.Dead(), members...)
	}
	m := New(rdb, nil)
	if err := (laneSweep{m, k, "m", tasks.Live}).trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	oldest := rdb.ZRange(t.Context(), k.Dead(), 0, 0).Val()
	if n := rdb.ZCard(t.Context(), k.Dead()).Val(); n != maxLetters || oldest[0] != fmt.Sprintf("t%d", excess) {
		t.Errorf("%d letters are kept, the oldest %q", n, oldest)
	}
}

// With 100,000 letters all that an operator does stays quick, and none of it holds Redis up: meanwhile another
// client's answers are timed.
func TestManyLettersLeaveRedisFree(t *testing.T) {
	t.Parallel()
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	rdb := testkit.Redis(t)
	kill(t, rdb, document(t, tasks.Live, "dart:7", "dart"))
	plantLetters(t, rdb, queuetest.Tasks(tasks.Live, n-1))
	d := NewDead(rdb)
	timed := func(what string, most time.Duration, f func()) {
		t.Helper()
		stop := beat(rdb)
		begun := time.Now()
		f()
		took := time.Since(begun)
		p99, worst := stop()
		t.Logf("%-26s %8v; another client's ping p99 %v, max %v", what, took.Round(time.Millisecond), p99.Round(10*time.Microsecond), worst.Round(10*time.Microsecond))
		// Some times what a busy machine needs; a command over all letters at once would show all the same.
		if took > most || worst > 2*time.Second {
			t.Errorf("%s took %v, and held another client up for %v", what, took, worst)
		}
	}
	list := func(f DeadFilter, want int) func() {
		return func() {
			if got, err := d.List(t.Context(), "m", f, 50); err != nil || len(got) != want {
				t.Errorf("%d letters, %v, want %d", len(got), err, want)
			}
		}
	}
	timed("the latest 50", 5*time.Second, list(DeadFilter{}, 50))
	timed("one by its source", 20*time.Second, list(DeadFilter{Sources: []string{"dart"}}, 1))
	timed("one by its document", 20*time.Second, list(DeadFilter{IDs: []string{"dart:7"}}, 1))
	timed("the histogram", 5*time.Second, func() {
		if causes, err := d.Causes(t.Context(), "m"); err != nil || !slices.Equal(causes, []CauseCount{{wire.CodeUnknown, int64(n)}}) {
			t.Errorf("causes %+v, %v", causes, err)
		}
	})
	timed("replay of all", 2*time.Minute, func() {
		calls := 0
		r, err := d.Replay(t.Context(), "m", DeadFilter{}, func(Revival) { calls++ })
		if err != nil || r != (Revival{Chosen: n, Replayed: n}) || calls != n/replayPage {
			t.Errorf("%+v in %d batches, %v", r, calls, err)
		}
	})
	if s := laneStatus(t, rdb)[tasks.Live]; s.Pending != int64(n) || s.Dead != 0 {
		t.Errorf("lane %+v", s)
	}
}

// plantLetters writes what the sweep would write of tasks that died, in a hundredth of the time.
func plantLetters(t *testing.T, rdb *redis.Client, list []tasks.Task) {
	t.Helper()
	for part := range slices.Chunk(list, 1000) {
		pipe := rdb.Pipeline()
		for i, one := range part {
			m := wire.Message{Type: string(one.Kind), Payload: one.Payload, ID: one.ID, Queue: wire.QueueName(one.Model, one.Lane),
				Retry: 25, Timeout: one.Timeout}
			k, at := wire.KeysOf(one.Model, one.Lane), time.Now().Add(-time.Duration(i)*time.Second).UnixMilli()
			pipe.HSet(t.Context(), k.Letter(one.ID), "code", wire.CodeUnknown, "message", "it failed", "first", at, "last", at,
				"attempts", 5, "crashes", 0, "worker", "", "kind", string(one.Kind), "document", "", "source", "", "msg", m.Append(nil))
			pipe.ZAdd(t.Context(), k.Dead(), redis.Z{Score: float64(at), Member: one.ID})
			pipe.HIncrBy(t.Context(), k.Causes(), wire.CodeUnknown, 1)
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// beat pings every millisecond until stop is called, which tells how long the answers took.
func beat(rdb *redis.Client) (stop func() (p99, worst time.Duration)) {
	ending, ended := make(chan struct{}), make(chan []time.Duration)
	go func() {
		var list []time.Duration
		for {
			select {
			case <-ending:
				ended <- list
				return
			case <-time.After(time.Millisecond):
				begun := time.Now()
				rdb.Ping(context.Background())
				list = append(list, time.Since(begun))
			}
		}
	}()
	return func() (p99, worst time.Duration) {
		close(ending)
		list := <-ended
		if len(list) == 0 {
			return 0, 0
		}
		slices.Sort(list)
		return list[len(list)*99/100], list[len(list)-1]
	}
}
