package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A trap is a place in a scheduler's talk with Redis where the process is killed.
type trap struct {
	name    string
	pattern string // in what it sends
	nth     int    // occurrence, from 1
	// done says that the command is carried out and only its answer does not arrive; else it is lost.
	done bool
}

// traps lie before and behind each step of a run. A pass of the outbox takes 500 items, so a run that sees
// the whole day makes two.
var traps = []trap{
	{"the claim is done", "ef:{crawl:dart}:slots:dart-wide", 1, true},
	{"a call is counted", "ef:{crawl:dart}:quota:", 1, false},
	{"the seen-set is asked", "zmscore", 1, false},
	{"the queue is registered", "asynq:queues", 1, true},
	{"the enqueue is lost", "asynq:{embed:m:live}:pending", 1, false},
	{"the enqueue is done", "asynq:{embed:m:live}:pending", 1, true},
	{"the marks are lost", "zremrangebyscore", 1, false},
	{"the marks are done", "zremrangebyscore", 1, true},
	{"the end is not told", "\r\n$4\r\ndone\r\n", 1, false},
	{"the end is told", "\r\n$4\r\ndone\r\n", 1, true},
	{"the second part's enqueue is done", "asynq:{embed:m:live}:pending", 2, true},
	{"the second part's marks are lost", "zremrangebyscore", 2, false},
}

// A wire is a way to Redis with a trap on it.
type wire struct {
	net.Listener
	target string
	trap   trap
	kill   func()

	mu   sync.Mutex
	seen int
	wg   sync.WaitGroup
}

// newWire listens; kill is called when the trap is entered.
func newWire(t *testing.T, target string, tr trap, kill func()) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, target: target, trap: tr, kill: kill}
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.carry(c) })
		}
	})
	return w
}

func (w *wire) end() {
	_ = w.Close()
	w.wg.Wait()
}

// enters reports whether the trap's occurrence is in what is sent.
func (w *wire) enters(b []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.seen
	w.seen += bytes.Count(b, []byte(w.trap.pattern))
	return before < w.trap.nth && w.seen >= w.trap.nth
}

// carry takes one connection's bytes over. A pattern that is cut between two reads would pass the trap by; the
// test notices that the process was not killed.
func (w *wire) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.target)
	if err != nil {
		return
	}
	back := make(chan struct{})
	sprung := new(atomic.Bool)
	go func() {
		defer close(back)
		w.answers(client, server, sprung)
	}()
	defer func() { _ = server.Close(); <-back }()
	b := make([]byte, 1<<20)
	for {
		n, err := client.Read(b)
		if err != nil {
			return
		}
		if w.enters(b[:n]) {
			if !w.trap.done {
				w.kill()
				return
			}
			sprung.Store(true)
		}
		if _, err := server.Write(b[:n]); err != nil {
			return
		}
	}
}

// answers takes the other direction over, until the trap is sprung: from then on answers get lost, and when
// the server has given all of them the process is killed.
func (w *wire) answers(client, server net.Conn, sprung *atomic.Bool) {
	b, lost := make([]byte, 64<<10), false
	for {
		n, err := server.Read(b)
		switch {
		case lost && errors.Is(err, os.ErrDeadlineExceeded):
			w.kill()
			return
		case err != nil:
			return
		case sprung.Load():
			lost = true
			_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		default:
			if _, err := client.Write(b[:n]); err != nil {
				return
			}
		}
	}
}

// A crowd is a Redis, the imitation whose day a test moves on, and real scheduler processes.
type crowd struct {
	*stage
	binary string
	clock  atomic.Int64 // of the imitation: minutes since midnight in Seoul of the day before today
	log    buffer       // of all processes
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	c := &crowd{binary: filepath.Join(t.TempDir(), "scheduler")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", c.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the scheduler: %v: %s", err, out)
	}
	y, m, d := time.Now().In(scheduler.KST).AddDate(0, 0, -1).Date()
	midnight := time.Date(y, m, d, 0, 0, 0, 0, scheduler.KST)
	c.stage = newStageAt(t, midnight, func() time.Time { return midnight.Add(time.Duration(c.clock.Load()) * time.Minute) })
	return c
}

// start starts a process whose Redis is at address.
func (c *crowd) start(address string, args ...string) (cmd *exec.Cmd, out *buffer) {
	c.t.Helper()
	out = new(buffer)
	cmd = exec.CommandContext(context.WithoutCancel(c.t.Context()), c.binary, append([]string{"--log-level", "debug"}, args...)...)
	for k, v := range c.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Env = append(cmd.Env, "REDIS_URL=redis://"+address)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(out, &c.log), &c.log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return cmd, out
}

// trapped runs a sweep that is killed in a trap.
func (c *crowd) trapped(tr trap) {
	c.t.Helper()
	var cmd *exec.Cmd
	started := make(chan struct{})
	w := newWire(c.t, c.rdb.Addr, tr, func() { <-started; _ = cmd.Process.Kill() })
	cmd, _ = c.start(w.Addr().String(), "run", dart.JobWide)
	close(started)
	err := cmd.Wait()
	w.end()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Exited() {
		c.t.Fatalf("the sweep ended before the trap %q: %v\n%s", tr.name, err, c.log.String())
	}
	c.free()
}

// free does what half a minute of waiting does to the lease of a killed run.
func (c *crowd) free() {
	c.t.Helper()
	if err := c.rdb.Client().Del(c.t.Context(), "ef:{crawl:dart}:lease:"+dart.JobWide).Err(); err != nil {
		c.t.Fatal(err)
	}
}

// sweep runs one that nobody kills.
func (c *crowd) sweep() (r scheduler.Report) {
	c.t.Helper()
	cmd, out := c.start(c.rdb.Addr, "run", dart.JobWide)
	if err := cmd.Wait(); err != nil {
		c.t.Fatalf("%v\n%s", err, c.log.String())
	}
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		c.t.Fatalf("%q: %v", out.String(), err)
	}
	return r
}

// counting counts what is stored.
type counting struct {
	*storeredis.Store
	mu     sync.Mutex
	stored map[string]int
}

func (c *counting) PutMany(ctx context.Context, recs []vector.Record) ([]bool, []error) {
	stored, errs := c.Store.PutMany(ctx, recs)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, rec := range recs {
		if stored[i] {
			c.stored[rec.Document.ID]++
		}
	}
	return stored, errs
}

// work drains the lane with a fake model.
func (c *crowd) work(docs *counting) {
	c.t.Helper()
	handler := tasks.NewHandler(slog.New(slog.DiscardHandler), tasks.Parts{
		Model: "m", Space: "s", Embedder: &embedtest.Embedder{}, Store: docs, Answers: docs,
	}, nil)
	server, err := consumer.New(c.rdb.Client(), "m", []tasks.Lane{tasks.Live}, handler, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	await(c.t, "an empty lane", func() bool { return c.unfinished(tasks.Live) == 0 })
	stop()
	if err := <-done; err != nil {
		c.t.Error(err)
	}
}

// TestSchedulersKilledAtEveryStep: two processes beside each other, a third killed with kill -9 at each step of
// its runs, and the seen-set lost in the middle of the day. Each filing is stored once, and the key is in no
// line that any of them wrote.
func TestSchedulersKilledAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("starts twenty processes; not in -short")
	}
	t.Parallel()
	c := newCrowd(t)
	docs := &counting{Store: storeredis.New(c.rdb.Client()), stored: map[string]int{}}
	var daemons []*exec.Cmd
	for range 2 {
		cmd, _ := c.start(c.rdb.Addr)
		daemons = append(daemons, cmd)
	}
	// Their first runs see the night, in which nothing was published, and leave the day to the others.
	await(t, "the daemons' first runs", func() bool { return strings.Count(c.log.String(), `msg="slot done"`) >= 3 })
	for i, tr := range traps {
		c.clock.Store(int64(9*60 + 50*i)) // to 18:10, and all of the day for the parts of the second pass
		if tr.nth > 1 {
			c.clock.Store(20 * 60)
			c.wipe()
		}
		c.trapped(tr)
		if i == len(traps)/2 {
			c.work(docs)
			before := len(docs.stored)
			c.wipe()
			if r := c.sweep(); before == 0 || r.Stored != before {
				t.Errorf("after the seen-set was lost %d filings were found in the store, of %d", r.Stored, before)
			}
		}
	}
	c.sweep()
	c.work(docs)
	if r := c.sweep(); r.New != 0 || r.Stored != 0 || r.Items != 502 {
		t.Errorf("the last sweep found %+v, want all of 502 known", r)
	}
	for id, n := range docs.stored {
		if n != 1 {
			t.Errorf("%s was stored %d times", id, n)
		}
	}
	if len(docs.stored) != 502 {
		t.Errorf("%d filings are stored, want 502", len(docs.stored))
	}
	// Not of all: what was stored before it could be marked is not measured.
	await(t, "the freshness", func() bool {
		list, err := ledger.New(c.rdb.Client()).Status(t.Context())
		return err == nil && len(list) == 1 && list[0].Freshness.Documents > 200 && list[0].Freshness.Awaited == 0
	})
	c.dart.Close() // what a failed call says must not tell the key either
	failed, _ := c.start(c.rdb.Addr, "run", dart.JobSweep)
	if err := failed.Wait(); err == nil || !strings.Contains(c.log.String(), "connection refused") {
		t.Errorf("without the service a sweep ends with %v", err)
	}
	for _, cmd := range daemons {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("a daemon ended with %v", err)
		}
	}
	if strings.Contains(c.log.String(), key) {
		t.Errorf("the key is in a log:\n%s", c.log.String())
	}
}

// wipe loses the seen-set.
func (c *crowd) wipe() {
	c.t.Helper()
	if err := c.rdb.Client().Del(c.t.Context(), "ef:{crawl:dart}:seen").Err(); err != nil {
		c.t.Fatal(err)
	}
}
