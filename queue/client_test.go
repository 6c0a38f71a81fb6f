package queue

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// What we write must be what asynq's own client writes, byte for byte and key for key.
func TestEnqueueEqualsAsynq(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx := t.Context()
	ours := NewClient(rdb, &ClientOptions{MaxRetry: 7, Retention: 90 * time.Second})
	payloads := map[string][]byte{"empty": nil, "text": []byte("한국어 \x00 \xff"), "long": make([]byte, 70_000)}
	for name, payload := range payloads {
		want := queuetest.Task(tasks.Live, 1)
		want.Payload = payload
		theirs := asynq.NewClientFromRedisClient(rdb) // a new one, for it names a queue only once (T8)
		_, err := theirs.Enqueue(asynq.NewTask(string(want.Kind), payload), asynq.TaskID(want.ID),
			asynq.Queue(wire.QueueName("m", tasks.Live)), asynq.MaxRetry(7), asynq.Timeout(want.Timeout),
			asynq.Retention(90*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, rdb)
		rdb.FlushAll(ctx)
		enqueue(t, ours, want)
		after := snapshot(t, rdb)
		if !slices.Equal(before, after) {
			t.Errorf("%s: asynq wrote\n%.300q\nwe wrote\n%.300q", name, before, after)
		}
		rdb.FlushAll(ctx)
	}
}

// snapshot lists every key with its value; times are left out.
func snapshot(t *testing.T, rdb *redis.Client) []string {
	t.Helper()
	ctx := t.Context()
	var list []string
	for _, key := range rdb.Keys(ctx, "*").Val() {
		var value any
		switch kind := rdb.Type(ctx, key).Val(); kind {
		case "hash":
			fields := rdb.HGetAll(ctx, key).Val()
			if since := fields["pending_since"]; len(since) != len("1700000000000000000") {
				t.Errorf("%s: pending_since %q is not in nanoseconds", key, since)
			}
			delete(fields, "pending_since")
			value = fields
		case "list":
			value = rdb.LRange(ctx, key, 0, -1).Val()
		case "set":
			value = rdb.SMembers(ctx, key).Val()
		default:
			t.Errorf("unexpected %s %s", kind, key)
		}
		list = append(list, fmt.Sprintf("%s %q", key, value))
	}
	slices.Sort(list)
	return list
}

func TestEnqueueConflicts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func(ctx context.Context, rdb *redis.Client, k wire.Keys) // after a first enqueue
		want  State
		lists string // where the task is in the end
	}{
		{"pending", func(context.Context, *redis.Client, wire.Keys) {}, Attached, "pending"},
		{"active", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.LMove(ctx, k.Pending(), k.Active(), "RIGHT", "LEFT")
			rdb.ZAdd(ctx, k.Lease(), redis.Z{Score: 1, Member: "t1"})
			rdb.HSet(ctx, k.Task("t1"), "state", "active")
		}, Attached, "active lease"},
		{"active without lease", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.LMove(ctx, k.Pending(), k.Active(), "RIGHT", "LEFT")
			rdb.HSet(ctx, k.Task("t1"), "state", "active")
		}, Attached, "active"},
		{"scheduled", queuetest.MoveTo(wire.Keys.Scheduled, "scheduled"), Attached, "scheduled"},
		{"retry", queuetest.MoveTo(wire.Keys.Retry, "retry"), Attached, "retry"},
		{"completed", queuetest.MoveTo(wire.Keys.Completed, "completed"), Done, "completed"},
		{"archived", queuetest.MoveTo(wire.Keys.Archived, "archived"), Rerun, "pending"},
		{"archived half-way (T6)", queuetest.MoveTo(wire.Keys.Archived, "active"), Rerun, "pending"},
		{"phantom pending", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Pending())
		}, Repaired, "pending"},
		{"phantom archived (T7)", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			queuetest.MoveTo(wire.Keys.Archived, "archived")(ctx, rdb, k)
			rdb.Del(ctx, k.Archived())
		}, Repaired, "pending"},
		{"phantom completed", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			queuetest.MoveTo(wire.Keys.Completed, "completed")(ctx, rdb, k)
			rdb.Del(ctx, k.Completed())
		}, Repaired, "pending"},
		{"phantom active", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Pending())
			rdb.HSet(ctx, k.Task("t1"), "state", "active")
		}, Repaired, "pending"},
		{"phantom result (T30)", func(ctx context.Context, rdb *redis.Client, k wire.Keys) {
			rdb.Del(ctx, k.Pending(), k.Task("t1"))
			rdb.HSet(ctx, k.Task("t1"), "result", "x")
		}, Repaired, "pending"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rdb := testkit.Redis(t)
			c, k := NewClient(rdb, nil), wire.KeysOf("m", tasks.Live)
			if r := enqueue(t, c, queuetest.Task(tasks.Live, 1)); r[0].State != Enqueued {
				t.Fatalf("first time: %s", r[0].State)
			}
			tt.spoil(t.Context(), rdb, k)
			if r := enqueue(t, c, queuetest.Task(tasks.Live, 1)); r[0].State != tt.want {
				t.Errorf("second time: %s, want %s", r[0].State, tt.want)
			}
			if got := queuetest.Whereabouts(t, rdb, k, "t1"); got != tt.lists {
				t.Errorf("task is in %q, want %q", got, tt.lists)
			}
		})
	}
}

func TestEnqueueRefusesOneByOne(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	spoil := func(f func(*tasks.Task)) tasks.Task {
		bad := queuetest.Task(tasks.Live, 9)
		f(&bad)
		return bad
	}
	bad := map[string]tasks.Task{
		"its id":      spoil(func(t *tasks.Task) { t.ID = "" }),
		"its kind":    spoil(func(t *tasks.Task) { t.Kind = "\xff" }),
		"is 0s":       spoil(func(t *tasks.Task) { t.Timeout = 0 }),
		"is 500ms":    spoil(func(t *tasks.Task) { t.Timeout = 500 * time.Millisecond }),
		"is 1.9s":     spoil(func(t *tasks.Task) { t.Timeout = 1900 * time.Millisecond }),
		"model":       spoil(func(t *tasks.Task) { t.Model = "a{b}" }),
		"no such one": spoil(func(t *tasks.Task) { t.Lane = "no such one" }),
	}
	for want, b := range bad {
		receipts, err := NewClient(rdb, nil).Enqueue(t.Context(), []tasks.Task{queuetest.Task(tasks.Live, 1), b, queuetest.Task(tasks.Live, 2)})
		if err != nil {
			t.Fatal(err)
		}
		if !receipts[0].State.Accepted() || !receipts[2].State.Accepted() {
			t.Errorf("%s: the neighbours are %s and %s", want, receipts[0].State, receipts[2].State)
		}
		r := receipts[1]
		if r.State != Refused || !errors.Is(r.Err, ErrInvalid) || !strings.Contains(r.Err.Error(), want) {
			t.Errorf("%s: %s, %v", want, r.State, r.Err)
		}
	}
	if n := rdb.LLen(t.Context(), wire.KeysOf("m", tasks.Live).Pending()).Val(); n != 2 {
		t.Errorf("%d tasks pending, want 2", n)
	}
}

// The same task twice in one call is one task.
func TestEnqueueTwins(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	receipts := enqueue(t, NewClient(rdb, nil), queuetest.Task(tasks.Live, 1), queuetest.Task(tasks.Query, 1), queuetest.Task(tasks.Live, 1))
	if receipts[0].State != Enqueued || receipts[1].State != Enqueued || receipts[2].State != Attached {
		t.Errorf("receipts %+v", receipts)
	}
	if got := queuetest.Whereabouts(t, rdb, wire.KeysOf("m", tasks.Live), "t1"); got != "pending" {
		t.Errorf("task is in %q", got)
	}
}

// A lost registry comes back with the next call (T8), and a lost script cache goes unnoticed.
func TestEnqueueAfterFlush(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := NewClient(rdb, nil)
	for i := range 2 {
		enqueue(t, c, queuetest.Task(tasks.Live, i))
		if got := rdb.SMembers(t.Context(), wire.RegistryKey).Val(); !slices.Equal(got, []string{"embed:m:live"}) {
			t.Errorf("registry is %q", got)
		}
		rdb.FlushAll(t.Context())
		rdb.ScriptFlush(t.Context())
	}
}

func TestEnqueueKeepsOrder(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	enqueue(t, NewClient(rdb, nil), queuetest.Tasks(tasks.Live, 3*chunkTasks+7)...)
	ids := rdb.LRange(t.Context(), wire.KeysOf("m", tasks.Live).Pending(), 0, -1).Val()
	slices.Reverse(ids) // tasks leave at the tail
	for i, id := range ids {
		if id != fmt.Sprintf("t%d", i) {
			t.Fatalf("place %d holds %s", i, id)
		}
	}
}

// dropHook breaks the connection under the n-th pipeline, before it is sent.
type dropHook struct {
	queuetest.OnCommand // its other methods do nothing here
	n                   *int
}

func (h dropHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if *h.n--; *h.n < 0 {
			err := &net.OpError{Op: "write", Err: errors.New("broken pipe")}
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

func TestEnqueueSaysHowManyWereAccepted(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := NewClient(rdb, nil)
	enqueue(t, c, queuetest.Task(tasks.Backfill, 0)) // loads the script, so that a chunk is one pipeline
	n := 2
	rdb.AddHook(dropHook{func(context.Context, redis.Cmder) {}, &n})
	list := queuetest.Tasks(tasks.Live, 5*chunkTasks)
	receipts, err := c.Enqueue(t.Context(), list)
	const accepted = wire.CallTasks + chunkTasks // the first chunk is small
	if want := fmt.Sprintf("%d of 2500 accepted", accepted); err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want %q in it", err, want)
	}
	for i, r := range receipts {
		if want := map[bool]State{true: Enqueued, false: Unknown}[i < accepted]; r.State != want {
			t.Fatalf("receipt %d: %s, want %s", i, r.State, want)
		}
		if (r.State == Unknown) != (r.Err != nil) {
			t.Fatalf("receipt %d: %s with error %v", i, r.State, r.Err)
		}
	}
	n = 1000 // the connection is back
	again := enqueue(t, c, list...)
	if again[0].State != Attached || again[len(again)-1].State != Enqueued {
		t.Errorf("second time: first %s, last %s", again[0].State, again[len(again)-1].State)
	}
}

// Redis refuses writes when it is full; that is its answer, not a broken connection.
func TestEnqueueWhenRedisIsFull(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := NewClient(rdb, nil)
	enqueue(t, c, queuetest.Task(tasks.Live, 0))
	rdb.ConfigSet(t.Context(), "maxmemory", "1")
	receipts, err := c.Enqueue(t.Context(), queuetest.Tasks(tasks.Live, 3))
	if err == nil || !strings.Contains(err.Error(), "0 of 3 accepted") || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("error %v", err)
	}
	if receipts[2].State != Unknown {
		t.Errorf("receipt says %s", receipts[2].State)
	}
}

func BenchmarkEnqueue(b *testing.B) {
	b.Run("bulk", func(b *testing.B) {
		c := NewClient(testkit.Redis(b), nil)
		list := queuetest.Tasks(tasks.Live, b.N)
		b.ResetTimer()
		if _, err := c.Enqueue(b.Context(), list); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
	})
	b.Run("asynq", func(b *testing.B) {
		c := asynq.NewClientFromRedisClient(testkit.Redis(b))
		list := queuetest.Tasks(tasks.Live, b.N)
		b.ResetTimer()
		for _, t := range list {
			_, err := c.Enqueue(asynq.NewTask(string(t.Kind), t.Payload), asynq.TaskID(t.ID),
				asynq.Queue(wire.QueueName(t.Model, t.Lane)), asynq.MaxRetry(25), asynq.Timeout(t.Timeout))
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
	})
}
