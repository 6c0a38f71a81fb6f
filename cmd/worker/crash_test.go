package main

import (
	"context"
	"errors"
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
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
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
		t.Skip("starts processes and kills them; not in -short")
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
	ended <-chan struct{}
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
	ended := make(chan struct{})
	p := &process{cmd.Process, ended, log}
	go func() {
		defer close(ended)
		_ = cmd.Wait() // most are killed
	}()
	d.t.Cleanup(func() {
		_ = p.Kill() // it may have ended
		<-ended
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
	entry := func() (w registry.Worker) {
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

// backAfterKill is when everything of a worker that died is back in its lane, at the latest: 10 s on any machine that
// keeps up, a lease and a sweep, and as long again for one that does not.
const backAfterKill = 20 * time.Second

// queryAfterKill is the same for a query, which is to run again after 3 s.
const queryAfterKill = 15 * time.Second

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
	consumer := d.consumerOf(first)
	d.until(testPatience, "both are busy", func() bool { return d.stored().Documents >= 20 && len(d.heldBy(consumer)) > 0 })
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	<-first.ended
	orphans := d.heldBy(consumer)
	if len(orphans) == 0 {
		t.Error("the killed worker had nothing in hand: the test shows nothing")
	}
	d.until(backAfterKill, "nobody's tasks are the killed worker's", func() bool { return len(d.heldBy(consumer)) == 0 })
	back := time.Since(killed).Round(100 * time.Millisecond)

	waiting, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	failures, err := d.fleet.Queue.Wait(waiting, receipts, func(queue.Progress) {
		for _, l := range d.lanes() {
			if l.Retry+l.Dead+l.Scheduled > 0 {
				t.Errorf("somebody was charged: %+v", l)
			}
		}
	})
	if err != nil || len(failures) > 0 {
		t.Fatalf("after %v: %v, %v; stored %+v", time.Since(killed), err, failures, d.stored())
	}
	if s := d.stored(); s.Documents != documents || s.Chunks != documents {
		t.Errorf("stored %+v, want %d documents of a chunk each", s, documents)
	}
	if failed, err := d.rdb.Keys(t.Context(), "asynq:*:failed*").Result(); err != nil || len(failed) > 0 {
		t.Errorf("asynq counted failures in %v, %v", failed, err)
	}
	t.Logf("%d tasks of the killed worker were taken back %v after its end; %d texts were written for %d documents",
		len(orphans), back, d.stored().TextsTotal, documents)
}

// consumerOf returns by which name a process holds its leases, as its heartbeat for asynq's tools has it.
func (d *disaster) consumerOf(p *process) string {
	d.t.Helper()
	names, err := d.rdb.ZRange(d.t.Context(), "asynq:servers", 0, -1).Result()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, name := range names {
		if _, id, ok := strings.Cut(name, fmt.Sprintf(":%d:", p.Pid)); ok {
			return strings.TrimSuffix(id, "}")
		}
	}
	d.t.Fatalf("process %d has no heartbeat among %q", p.Pid, names)
	return ""
}

// heldBy returns the tasks of the live lane that a consumer holds.
func (d *disaster) heldBy(consumer string) (ids []string) {
	d.t.Helper()
	lane := "asynq:{embed:" + crashAlias + ":live}:"
	active, err := d.rdb.LRange(d.t.Context(), lane+"active", 0, -1).Result()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, id := range active {
		holder, err := d.rdb.HGet(d.t.Context(), lane+"t:"+id, "holder").Result()
		if err != nil && !errors.Is(err, redis.Nil) { // it may have been done meanwhile
			d.t.Fatal(err)
		}
		if strings.HasPrefix(holder, consumer+":") {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestPoison lets one text among many kill every process that runs it. The others are stored, and it ends as
// a dead letter after it did so alone.
func TestPoison(t *testing.T) {
	t.Parallel()
	const innocents = 200
	d := newDisaster(t, "crashtest")
	begun := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	defer cancel()
	sweeping.Go(func() {
		_ = upkeep.New(d.rdb, &upkeep.Options{Logger: testkit.Logger(t), Models: []string{crashAlias}}).Run(ctx)
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
		d.until(backAfterKill, "the dead worker's tasks are back", func() bool {
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
	letters, err := d.fleet.Dead.List(t.Context(), crashAlias, upkeep.DeadFilter{}, 10)
	if err != nil || len(letters) != 1 || letters[0].Code != upkeep.CodePoison || letters[0].Lane != tasks.Quarantine ||
		letters[0].ID != receipts[innocents/2].ID {
		t.Errorf("dead letters %+v, %v; want the poison, from quarantine", letters, err)
	}
	t.Logf("done %v after the beginning", time.Since(begun).Round(time.Second))
}

// TestAQueryOfAKilledWorker lets a search text kill whoever embeds it, with two workers there: the time from the end of the
// first to the end of the second is how long a query is away when its worker dies.
func TestAQueryOfAKilledWorker(t *testing.T) {
	t.Parallel()
	d := newDisaster(t, "crashtest")
	workers := []*process{d.start(), d.start()}
	d.until(testPatience, "two workers serve", func() bool { return d.ready(2) })
	query, err := tasks.NewQuery(crashAlias, "this will kill the worker", &tasks.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.fleet.Queue.Enqueue(t.Context(), []tasks.Task{query}); err != nil {
		t.Fatal(err)
	}
	var ends []time.Time
	for range workers {
		select {
		case <-workers[0].ended:
			workers[0].ended = nil // which waits for ever
		case <-workers[1].ended:
			workers[1].ended = nil
		case <-time.After(testPatience):
			t.Fatalf("after %d ends no worker died of the query; %+v", len(ends), d.lanes())
		}
		ends = append(ends, time.Now())
	}
	took := ends[1].Sub(ends[0])
	t.Logf("the query ran again %v after the end of its worker", took.Round(10*time.Millisecond))
	if took > queryAfterKill {
		t.Errorf("the query ran again after %v, want %v at most", took, queryAfterKill)
	}
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
