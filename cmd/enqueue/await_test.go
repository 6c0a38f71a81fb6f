package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// A text that is written by one goroutine and read by another.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (x *text) Write(b []byte) (int, error) { x.mu.Lock(); defer x.mu.Unlock(); return x.b.Write(b) }
func (x *text) String() string              { x.mu.Lock(); defer x.mu.Unlock(); return x.b.String() }

// A running command, which a test does something to.
type runningCommand struct {
	t         *testing.T
	out, errs text
	interrupt context.CancelFunc
	status    chan int
}

func runCommand(t *testing.T, redis *testkit.Server, stdin string, args ...string) *runningCommand {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &runningCommand{t: t, interrupt: cancel, status: make(chan int, 1)}
	url := redis.URL()
	go func() {
		c.status <- run(ctx, args, streams{in: strings.NewReader(stdin), out: &c.out, err: &c.errs, getenv: func(k string) (string, bool) {
			if k != "REDIS_URL" {
				return "", false
			}
			return url, true
		}})
	}()
	return c
}

// until waits for something to be so.
func (c *runningCommand) until(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s did not come:\n%s%s", what, c.out.String(), c.errs.String())
		}
	}
}

// waits waits until n tasks wait in the live lane.
func (c *runningCommand) waits(redis *testkit.Server, n int64) {
	c.t.Helper()
	rdb := redis.Client()
	c.until(fmt.Sprintf("that %d wait", n), func() bool { return rdb.LLen(c.t.Context(), "asynq:{embed:quote:live}:pending").Val() == n })
}

// ends checks how it ended, and what it said at the end.
func (c *runningCommand) ends(status int, parts ...string) {
	c.t.Helper()
	expect(c.t, <-c.status, status, c.out.String()+c.errs.String(), parts...)
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "text %d\n", i)
	}
	return b.String()
}

// Whatever ends the waiting, what is not stored is not called stored.
func TestWaitTellsTheTruth(t *testing.T) {
	t.Parallel()
	redis := testkit.RedisServer(t)
	ctx, rdb := t.Context(), redis.Client()

	// A flush.
	c := runCommand(t, redis, lines(200), "--model", "quote", "--wait")
	c.waits(redis, 200)
	c.until("that nobody serves", func() bool { return strings.Contains(c.errs.String(), "no worker serves quote") })
	rdb.FlushAll(ctx)
	c.ends(1, "200 read, 200 enqueued", "; 0 stored, 0 failed, 0 open, 200 lost", "is lost: neither stored nor in the queue", "--json names all")

	// The end of the time.
	c = runCommand(t, redis, lines(200), "--model", "quote", "--wait", "--wait-timeout", "1s")
	c.ends(1, "; 0 stored, 0 failed, 200 open, 0 lost", "200 of 200 still open")

	// An interrupt, in JSON.
	c = runCommand(t, redis, lines(200), "--model", "quote", "--wait", "--json")
	c.until("that all are enqueued", func() bool { return strings.Count(c.out.String(), `"attached"`) == 200 })
	c.interrupt()
	c.ends(1, `"stored":0,"failed":0,"open":200,"lost":0`)

	// A flush after some were stored: they are not any more.
	startWorker(t, redis)
	c = runCommand(t, redis, lines(200), "--model", "quote", "--wait")
	c.ends(0, "; 200 stored, 0 failed, 0 open, 0 lost")
	pause(t, redis)
	c = runCommand(t, redis, lines(203), "--model", "quote", "--wait", "--json")
	c.waits(redis, 203)
	resume(t, redis)
	c.ends(0, `"stored":203,"failed":0,"open":0,"lost":0`)
	pause(t, redis)
	c = runCommand(t, redis, "one\ntwo\n", "--model", "quote", "--wait", "--json")
	c.waits(redis, 2)
	rdb.FlushAll(ctx)
	c.ends(1, `"stored":0,"failed":0,"open":0,"lost":2`, `"state":"lost"`)
}

// pause stops the live lane.
func pause(t *testing.T, redis *testkit.Server) {
	t.Helper()
	if err := queue.NewLanes(redis.Client()).Pause(t.Context(), "quote", tasks.Live); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // a lease under way has ended
}

// resume lets the live lane go on.
func resume(t *testing.T, redis *testkit.Server) {
	t.Helper()
	if err := queue.NewLanes(redis.Client()).Resume(t.Context(), "quote", tasks.Live); err != nil {
		t.Fatal(err)
	}
}

// Waiting outlives Redis, and ends with the truth when it does not come back in time.
func TestWaitGoesOnWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	redis := testkit.RedisServer(t)
	c := runCommand(t, redis, lines(50), "--model", "quote", "--wait", "--wait-timeout", "100s")
	c.waits(redis, 50)
	redis.Kill()
	c.until("that Redis is away", func() bool { return strings.Contains(c.errs.String(), "Redis is away, waiting goes on") })
	redis.Start()
	startWorker(t, redis)
	c.ends(0, "; 50 stored, 0 failed, 0 open, 0 lost")

	pause(t, redis)
	c = runCommand(t, redis, "one more\n", "--model", "quote", "--wait", "--wait-timeout", "3s")
	c.waits(redis, 1)
	redis.Kill()
	c.ends(1, "; 0 stored, 0 failed, 1 open, 0 lost", "still open")
	redis.Start()
}

// Who waits for a text that somebody cancels hears of it, and follows one that somebody moves.
func TestCancelAndMoveWhileSomebodyWaits(t *testing.T) {
	t.Parallel()
	redis := testkit.RedisServer(t)
	removed := func(want int, args ...string) {
		t.Helper()
		status, out, errs := call(t, redis, "", append(args, "--model", "quote", "--json")...)
		var r queue.Removal
		if err := json.Unmarshal([]byte(out), &r); err != nil || status != 0 || r.Removed != want {
			t.Errorf("%v: %d %v %s%s", args, status, err, out, errs)
		}
	}
	docs := `{"id":"a","text":"1","source":"news"}` + "\n" + `{"id":"b","text":"2","source":"news"}` + "\n" + `{"id":"c","text":"3","source":"dart"}` + "\n"
	c := runCommand(t, redis, docs, "--model", "quote", "--wait")
	c.waits(redis, 3)
	removed(2, "cancel", "--source", "news")
	removed(1, "move", "--to", "backfill", "c")
	startWorker(t, redis)
	c.ends(1, "; 1 stored, 2 failed, 0 open, 0 lost", "failed: the task was cancelled")
	status, out, errs := call(t, redis, "", "fleet", "events")
	expect(t, status, 0, out+errs, registry.EventCancelled, "2 cancelled", registry.EventMoved, "1 moved to backfill")
}

// The producer is told of a text that no replica has.
func TestReplicas(t *testing.T) {
	t.Parallel()
	redis := testkit.RedisServer(t)
	c := runCommand(t, redis, "a\nb\n", "--model", "quote", "--replicas", "1")
	c.ends(1, "2 enqueued, 0 known already, 0 bad, 2 unconfirmed", "2 documents are enqueued, but 1 replicas did not have them")
	c = runCommand(t, redis, "a\nb\n", "--model", "quote", "--replicas", "1", "--json")
	c.ends(1, `"unconfirmed":true`, `"unconfirmed":2`)

	replica := testkit.RedisServer(t)
	host, port, _ := strings.Cut(redis.Addr, ":")
	if err := replica.Client().ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	follows := func(rdb *goredis.Client) bool {
		return strings.Contains(rdb.Info(t.Context(), "replication").Val(), "master_link_status:up")
	}
	rdb := replica.Client()
	c.until("that the replica follows", func() bool { return follows(rdb) })
	for deadline := time.Now().Add(30 * time.Second); ; {
		c = runCommand(t, redis, "a\nb\n", "--model", "quote", "--replicas", "1")
		if status := <-c.status; status == 0 || time.Now().After(deadline) {
			c.status <- status
			break
		}
	}
	c.ends(0, "0 enqueued, 2 known already, 0 bad, 0 unconfirmed")
}

func TestForget(t *testing.T) {
	t.Parallel()
	redis := testkit.RedisServer(t)
	status, out, errs := call(t, redis, "a\nb\n", "--model", "quote")
	expect(t, status, 0, out+errs, "2 enqueued")
	p := startPuppet(t, redis, servingPuppet)
	status, out, errs = call(t, redis, "", "forget", "quote")
	expect(t, status, 1, out+errs, "it is in use: 1 workers serve it", "--force")
	p.end()
	rdb := redis.Client()
	for deadline := time.Now().Add(20 * time.Second); rdb.ZCard(t.Context(), "embedfleet:workers").Val() > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	status, out, errs = call(t, redis, "", "forget", "quote")
	expect(t, status, 0, out+errs, "quote is forgotten")
	if keys := rdb.Keys(t.Context(), "*quote*").Val(); len(keys) != 0 {
		t.Errorf("left: %q", keys)
	}
	status, out, errs = call(t, redis, "", "fleet", "events")
	expect(t, status, 0, out+errs, registry.EventForgotten)
	for _, tt := range []struct{ args, want string }{
		{"forget", "takes one alias"}, {"forget A", "an alias is of a-z"}, {"cancel", "say which"}, {"cancel --lane x", "is none of"},
		{"move --all", "--to"}, {"move --to query --all", "--to"}, {"move --to live", "say which"},
	} {
		status, out, errs := call(t, redis, "", strings.Fields(tt.args)...)
		expect(t, status, 2, out+errs, tt.want)
	}
}

var servingPuppet = registry.Worker{ID: "aaaa-1", Model: "quote", State: registry.StateLoading, Host: "h", PID: 7}
