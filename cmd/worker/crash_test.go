package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// buildWorker builds this command as users do, with tags or none.
func buildWorker(t *testing.T, tags string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", tags, "-o", path, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("building the worker: %v\n%s", err, out)
	}
	return path
}

// A disaster is a fleet of real worker processes, with a real model, on a real Redis of its own.
type disaster struct {
	t      *testing.T
	binary string
	url    string
	rdb    *redis.Client
	fleet  *fleet.Fleet
}

const crashAlias = "minilm"

func newDisaster(t *testing.T, tags string) *disaster {
	t.Helper()
	if testing.Short() {
		t.Skip("the system notices a dead worker after half a minute; not in -short")
	}
	server := testkit.RedisServer(t)
	conn, err := queue.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Open(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &disaster{t: t, binary: buildWorker(t, tags), url: server.URL(), rdb: server.Client(), fleet: f}
}

// A process is a worker that was started.
type process struct {
	*os.Process
	ended chan struct{}
	log   *strings.Builder // to be read when it has ended
}

// start starts a worker; it is killed with the test at the latest.
func (d *disaster) start(args ...string) *process {
	d.t.Helper()
	args = append([]string{"--redis-url", d.url, "--model", testkit.DefaultModel(d.t), "--onnxruntime", testkit.ONNXRuntime(d.t),
		"--alias", crashAlias, "--http", "127.0.0.1:0"}, args...)
	log := new(strings.Builder)
	cmd := exec.CommandContext(context.WithoutCancel(d.t.Context()), d.binary, args...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	p := &process{cmd.Process, make(chan struct{}), log}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // most are killed
	}()
	d.t.Cleanup(func() {
		_ = p.Kill() // it may have ended
		<-p.ended
		if d.t.Failed() {
			d.t.Logf("worker %d said:\n%s", p.Pid, log)
		}
	})
	return p
}

func (d *disaster) until(within time.Duration, what string, ok func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("not within %v: %s; %+v, %v", within, what, d.lanes(), d.stored())
		}
	}
}

// ready reports whether n workers serve.
func (d *disaster) ready(n int) bool {
	list, err := d.fleet.Workers.List(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, w := range list {
		if w.Serving() {
			n--
		}
	}
	return n <= 0
}

// lanes returns the lanes that hold anything.
func (d *disaster) lanes() (busy []queue.LaneStatus) {
	all, err := d.fleet.Lanes.Status(d.t.Context(), crashAlias)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, l := range all {
		if l.Pending+l.Active+l.Scheduled+l.Retry+l.Dead > 0 {
			busy = append(busy, l)
		}
	}
	return busy
}

func (d *disaster) stored() (sum store.Stats) {
	counts, err := d.fleet.Store.Stats(d.t.Context(), crashAlias)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, n := range counts { // one space
		sum = n
	}
	return sum
}

// enqueue hands in documents with the given texts.
func (d *disaster) enqueue(texts ...string) []queue.Receipt {
	d.t.Helper()
	list := make([]tasks.Task, len(texts))
	for i, text := range texts {
		doc := vector.Document{ID: fmt.Sprintf("d%03d", i), Text: text}
		var err error
		if list[i], err = tasks.New(crashAlias, tasks.Live, doc, nil); err != nil {
			d.t.Fatal(err)
		}
	}
	receipts, err := d.fleet.Queue.Enqueue(d.t.Context(), list)
	if err != nil {
		d.t.Fatal(err)
	}
	return receipts
}

// TestSIGHUP sends a worker the signal by which other servers reload, while it loads and while it serves.
func TestSIGHUP(t *testing.T) {
	t.Parallel()
	d := newDisaster(t, "")
	p := d.start()
	entry := func() (w queue.Worker) {
		if list, err := d.fleet.Workers.List(t.Context()); err == nil && len(list) == 1 {
			w = list[0]
		}
		return w
	}
	hangup := func() {
		t.Helper()
		if err := p.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	d.until(testPatience, "it loads", func() bool { return entry().PID == p.Pid })
	hangup()
	d.until(testPatience, "it serves", func() bool { return entry().Serving() })
	before := entry()
	hangup()
	d.enqueue("one", "two", "three")
	d.until(testPatience, "it goes on", func() bool { return d.stored().Documents == 3 })
	if after := entry(); after.ID != before.ID || !after.Since.Equal(before.Since) || after.Space != before.Space {
		t.Errorf("after the signal %+v, before %+v", after, before)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	if n := strings.Count(p.log.String(), "loading the model at start-up"); n != 1 {
		t.Errorf("it loaded %d times:\n%s", n, p.log)
	}
}

// TestKilledWorker kills one of two workers while it has tasks in hand. All of them run again, in time, and
// nobody is charged with a failure.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	const documents, inHand = 300, 64
	d := newDisaster(t, "")
	leases := fmt.Sprint("--concurrency=", inHand)
	first := d.start(leases)
	d.start(leases)
	d.until(testPatience, "two workers serve", func() bool { return d.ready(2) })

	texts := make([]string, documents)
	for i := range texts {
		texts[i] = fmt.Sprintf("Report %d. %s", i, strings.Repeat("The company announced its results for the quarter. ", 10+i%10))
	}
	receipts := d.enqueue(texts...)
	d.until(testPatience, "both are busy", func() bool { return d.stored().Documents >= 20 })
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	<-first.ended

	waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var orphans int64 // what is left when the other worker has nothing to do and no lease has lapsed
	failures, err := d.fleet.Queue.Wait(waiting, receipts, func(queue.Progress) {
		for _, l := range d.lanes() {
			if l.Retry+l.Dead+l.Scheduled > 0 {
				t.Errorf("somebody was charged: %+v", l)
			}
			if since := time.Since(killed); l.Pending == 0 && since > 10*time.Second && since < 25*time.Second {
				orphans = l.Active
			}
		}
	})
	if err != nil || len(failures) > 0 {
		t.Fatalf("after %v: %v, %v; stored %+v", time.Since(killed), err, failures, d.stored())
	}
	took := time.Since(killed).Round(100 * time.Millisecond)
	if s := d.stored(); s.Documents != documents || s.Chunks != documents {
		t.Errorf("stored %+v, want %d documents of a chunk each", s, documents)
	}
	if orphans == 0 {
		t.Error("the killed worker had nothing in hand: the test shows nothing")
	}
	if failed, err := d.rdb.Keys(t.Context(), "asynq:*:failed*").Result(); err != nil || len(failed) > 0 {
		t.Errorf("asynq counted failures in %v, %v", failed, err)
	}
	t.Logf("%d tasks of the killed worker were done %v after its end; %d texts were written for %d documents",
		orphans, took, d.stored().TextsTotal, documents)
}

// TestPoison lets one text among many kill every process that runs it. The others are stored, and it ends as
// a dead letter after it did so alone.
func TestPoison(t *testing.T) {
	t.Parallel()
	const innocents = 200
	d := newDisaster(t, "crashtest")
	begun := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	var maintenance sync.WaitGroup
	defer maintenance.Wait()
	defer cancel()
	maintenance.Go(func() {
		_ = queue.NewMaintenance(d.rdb, &queue.MaintenanceOptions{Logger: testkit.Logger(t), Models: []string{crashAlias}}).Run(ctx)
	})
	texts := make([]string, innocents+1)
	for i := range texts {
		texts[i] = fmt.Sprintf("Notice %d of the exchange, %s", i, strings.Repeat("and more ", i%7))
	}
	texts[innocents/2] = "this will kill the worker"
	receipts := d.enqueue(texts...)

	crashes := 0
	for ; ; crashes++ {
		if crashes > 5 {
			t.Fatalf("%d workers died; %+v, %+v", crashes, d.lanes(), d.stored())
		}
		worker := d.start()
		if d.finished(worker) {
			break
		}
		// A new maintenance charges nobody at first; after that the test need not wait for leases to lapse.
		d.until(time.Minute, "the amnesty", func() bool { return time.Since(begun) > 22*time.Second })
		d.lapse()
		d.until(testPatience, "the dead worker's tasks are back", func() bool {
			for _, l := range d.lanes() {
				if l.Active > 0 {
					return false
				}
			}
			return true
		})
	}
	if crashes != 3 {
		t.Errorf("%d workers died, want 2 and one in quarantine", crashes)
	}
	if s := d.stored(); s.Documents != innocents {
		t.Errorf("stored %+v, want all %d innocents", s, innocents)
	}
	letters, err := d.fleet.Dead.List(t.Context(), crashAlias, queue.DeadFilter{}, 10)
	if err != nil || len(letters) != 1 || letters[0].Code != queue.CodePoison || letters[0].Lane != tasks.Quarantine ||
		letters[0].ID != receipts[innocents/2].ID {
		t.Errorf("dead letters %+v, %v; want the poison, from quarantine", letters, err)
	}
	t.Logf("done %v after the beginning", time.Since(begun).Round(time.Second))
}

// finished waits until the worker is dead, or nothing is left to do.
func (d *disaster) finished(worker *process) bool {
	done := false
	d.until(time.Minute, "a worker that is dead or done", func() bool {
		select {
		case <-worker.ended:
			return true
		default:
		}
		done = true
		for _, l := range d.lanes() {
			done = done && l.Pending+l.Active+l.Scheduled+l.Retry == 0
		}
		return done
	})
	if done {
		_ = worker.Signal(syscall.SIGTERM) // nothing is left that it could lose
		<-worker.ended
	}
	return done
}

// lapse is what half a minute of silence does to a dead worker: its entry and its leases lapse.
func (d *disaster) lapse() {
	d.t.Helper()
	ctx := d.t.Context()
	workers, err := d.rdb.Keys(ctx, "embedfleet:worker:*").Result()
	if err == nil && len(workers) > 0 {
		err = d.rdb.Del(ctx, workers...).Err()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	for _, lane := range tasks.Lanes {
		key := fmt.Sprintf("asynq:{embed:%s:%s}:lease", crashAlias, lane)
		ids, err := d.rdb.ZRange(ctx, key, 0, -1).Result()
		for _, id := range ids {
			if err == nil {
				err = d.rdb.ZAddXX(ctx, key, redis.Z{Score: 1, Member: id}).Err()
			}
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}
