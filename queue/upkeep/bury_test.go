package upkeep

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// quickWorker finishes a task in quarantine right before the crashes that brought it there are written to it.
type quickWorker struct {
	queuetest.OnCommand // its other methods do nothing here

	rdb   *redis.Client // another
	alone wire.Keys
}

func (w quickWorker) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if scriptOf(cmd, ":t:t1") || cmd.Name() == "hset" {
			w.rdb.Del(ctx, w.alone.Task("t1"), w.alone.Pending())
		}
		return next(ctx, cmd)
	}
}

// A task that is done in quarantine before its crashes are carried there leaves no hash behind (T30), nor is it in
// its old lane any more.
func TestQuarantineLeavesNoPhantom(t *testing.T) {
	t.Parallel()
	for _, quick := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m, rdb := testkit.MiniRedis(t)
			live, alone := wire.KeysOf("m", tasks.Live), wire.KeysOf("m", tasks.Quarantine)
			suspect := queuetest.Task(tasks.Live, 1)
			suspect.Version = 7
			enqueue(t, queue.NewClient(rdb, nil), suspect)
			lease(t, rdb, tasks.Live, 1)
			rdb.HSet(t.Context(), live.Task("t1"), "crashes", quarantineAfter)
			other := testkit.MiniClient(t, m)
			if quick {
				other.AddHook(quickWorker{func(context.Context, redis.Cmder) {}, rdb, alone})
			}
			time.Sleep(10 * time.Second) // its lease
			if err := New(other, &Options{Models: []string{"m"}}).sweep(t.Context(), round{read: true, trim: true}); err != nil {
				t.Fatal(err)
			}
			if got := queuetest.Whereabouts(t, rdb, live, "t1"); got != "" || rdb.Exists(t.Context(), live.Task("t1")).Val() > 0 {
				t.Errorf("quick %v: it is still in %q of its lane", quick, got)
			}
			got := strings.Join(anys(rdb.HMGet(t.Context(), alone.Task("t1"), "crashes", "version").Val()), " ")
			if want := map[bool]string{false: "2 7", true: " "}[quick]; got != want {
				t.Errorf("quick %v: crashes and version in quarantine %q, want %q", quick, got, want)
			}
		})
	}
}

func anys(values []any) (list []string) {
	for _, v := range values {
		s, _ := v.(string)
		list = append(list, s)
	}
	return list
}

// scriptOf reports whether a command is a script whose first key ends like that.
func scriptOf(cmd redis.Cmder, suffix string) bool {
	args := cmd.Args()
	if !strings.HasPrefix(cmd.Name(), "eval") || len(args) < 4 {
		return false
	}
	key, _ := args[3].(string)
	return strings.HasSuffix(key, suffix)
}
