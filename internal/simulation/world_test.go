package simulation

import (
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// before is how long a world waits for its beginning, so that a slot begins in its 10th second.
	before = 50 * time.Second
	// horizon is when a world must have come to rest.
	horizon = 15 * time.Minute
)

// A world is one run of a plan. It lives in a bubble.
type world struct {
	t      *testing.T
	log    *slog.Logger
	plan   plan
	began  time.Time
	net    *network
	faults *faults
	watch  *watcher
	tasks  map[string]string // task id -> what it is called in a history
	// crawled has the task ids of the crawler's documents.
	crawled map[string]string
	redis   *process // in name only: whom the history blames for what befalls all
	buried  chan struct{}

	mu        sync.Mutex
	processes []*process
	awayFrom  time.Time
	awayTo    time.Time
	demoted   bool // in this time it answers, but takes no writes
	ended     bool
	births    sync.WaitGroup // of successors
	unborn    int
}

// An outcome is what became of a run.
type outcome struct {
	plan       plan
	history    []line
	violations []violation
	fired      []bool          // beside the plan's faults
	writes     map[string]bool // by op, if the plan asks for it
	hash       uint64
	took       time.Duration // of fake time
}

// failed reports whether an invariant was broken, "" for any.
func (o outcome) failed(invariant string) bool {
	return slices.ContainsFunc(o.violations, func(v violation) bool { return invariant == "" || v.Invariant == invariant })
}

// run lives through a plan, and reports what it saw. A deadlock of the bubble is a violation too.
func run(t *testing.T, p plan) (o outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, p)
		w.live()
		o = outcome{
			plan: p, history: w.watch.history, violations: w.watch.violations, fired: w.faults.fired,
			writes: w.watch.writes, hash: w.watch.hash(), took: time.Since(w.began),
		}
		w.end()
	})
	return o
}

func newWorld(t *testing.T, p plan) *world {
	w := &world{t: t, log: slog.New(slog.DiscardHandler), plan: p, tasks: map[string]string{}, crawled: map[string]string{}, buried: make(chan struct{})}
	if *logs {
		w.log = testkit.Logger(t)
	}
	time.Sleep(before)
	w.began = time.Now()
	w.redis = &process{world: w, name: "-"}
	w.faults, w.watch, w.net = newFaults(p.Faults), newWatcher(w), newNetwork(w)
	if p.Spy {
		w.watch.writes = map[string]bool{}
	}
	for _, x := range p.Texts {
		task, err := x.task()
		if err != nil {
			t.Fatal(err)
		}
		w.tasks[task.ID] = x.Text
		if x.Crawled {
			w.crawled[x.Doc] = task.ID
		}
	}
	return w
}

// live starts everybody, and returns when the world has come to rest and was checked.
func (w *world) live() {
	go w.net.run()
	for _, f := range w.plan.Faults {
		w.appoint(f)
	}
	w.startScheduler("s1")
	w.startScheduler("s2")
	for i := range workers {
		w.startWorker("w"+strconv.Itoa(i+1), i)
	}
	w.startProducer()
	for time.Since(w.began) < horizon {
		time.Sleep(time.Second)
		if w.settled() {
			break
		}
	}
	w.check()
}

// appoint arranges for a fault that comes at a time.
func (w *world) appoint(f fault) {
	switch f.Kind {
	case demoted:
		w.awayFrom, w.awayTo = w.began.Add(f.At), w.began.Add(f.At+f.For)
		w.demoted = true
	case away:
		w.awayFrom, w.awayTo = w.began.Add(f.At), w.began.Add(f.At+f.For)
		w.births.Go(func() {
			time.Sleep(f.At)
			w.watch.happened(w.redis, "FAULT Redis is away for %v", f.For)
			w.sever()
			time.Sleep(f.For)
			w.watch.happened(w.redis, "Redis is back")
		})
	case flushed:
		w.births.Go(func() {
			time.Sleep(f.At)
			w.watch.happened(w.redis, "FAULT the registry of queues is gone")
			w.net.redis.Del("asynq:queues")
		})
	case retired:
		w.births.Go(func() {
			time.Sleep(f.At)
			w.retire("w" + strconv.Itoa(f.Who+1))
		})
	}
}

// retire tells a worker to stop, and starts another one when it has.
func (w *world) retire(name string) {
	w.mu.Lock()
	i := slices.IndexFunc(w.processes, func(p *process) bool { return p.name == name })
	p := w.processes[i]
	w.unborn++
	w.mu.Unlock()
	w.watch.happened(p, "FAULT told to stop")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.end()
	}()
	select {
	case <-ended:
	case <-p.died: // before it has stopped; so it has a successor already
	}
	w.mu.Lock()
	w.unborn--
	gone := w.ended || p.isDead()
	w.mu.Unlock()
	if !gone {
		w.watch.happened(p, "has stopped")
		w.startWorker(name+"'", int(name[1]-'1'))
	}
}

// sever ends the connections of everybody.
func (w *world) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.processes {
		p.sever()
	}
}

func (w *world) away() bool { return !w.demoted && w.wasAway(time.Now(), time.Now()) }

func (w *world) readonly() bool { return w.demoted && w.wasAway(time.Now(), time.Now()) }

// wasAway reports whether Redis was away at any instant between two, with a moment for the clients to find it again.
func (w *world) wasAway(from, to time.Time) bool {
	if w.awayTo.IsZero() {
		return false
	}
	if !from.Equal(to) {
		from = from.Add(-20 * time.Second) // a lease that could not be renewed lapses that much later, and nobody is taken back from at once
	}
	return !to.Before(w.awayFrom) && from.Before(w.awayTo)
}

// excuse is how much later than promised a task may come back that was lost at an instant: while Redis was away
// nobody could take it, and a sweep that a fault ended is repeated with the next.
func (w *world) excuse(since time.Time) (d time.Duration) {
	if w.wasAway(since, time.Now()) {
		d = w.awayTo.Sub(w.awayFrom) + 20*time.Second
	}
	for _, f := range w.plan.Faults {
		switch f.Kind {
		case skew:
			d += max(0, f.For)
		case lostRequest, lostReply, refused, refusedLate, killed:
			d += time.Duration(f.Runs) * 2 * time.Second // a sweep
		}
	}
	return d
}

func (w *world) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

func (w *world) add(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.processes = append(w.processes, p)
}

// kill ends a process where it stands. A worker has a successor; a scheduler has the other one, so the second
// stays alive.
func (w *world) kill(p *process, why string) {
	if strings.HasPrefix(p.name, "producer") || strings.HasPrefix(p.name, "s") && w.lastScheduler(p) || !p.dead.CompareAndSwap(false, true) {
		return
	}
	close(p.died)
	w.watch.died(p, why)
	if !strings.HasPrefix(p.name, "w") {
		return
	}
	w.mu.Lock()
	w.unborn++
	w.mu.Unlock()
	w.births.Go(func() {
		time.Sleep(restart)
		w.mu.Lock()
		w.unborn--
		ended := w.ended
		w.mu.Unlock()
		if !ended {
			who, _ := strconv.Atoi(strings.TrimRight(p.name[1:], "'"))
			w.startWorker(p.name+"'", who-1)
		}
	})
}

func (w *world) lastScheduler(p *process) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !slices.ContainsFunc(w.processes, func(o *process) bool {
		return o != p && strings.HasPrefix(o.name, "s") && !o.isDead()
	})
}

// produced are the producer's texts, by document.
func (w *world) produced() (list [][]text) {
	at := map[string]int{}
	for _, x := range w.plan.Texts {
		if x.Crawled {
			continue
		}
		i, known := at[x.Doc]
		if !known {
			i, list = len(list), append(list, nil)
			at[x.Doc] = i
		}
		list[i] = append(list[i], x)
	}
	return list
}

// shown is what the crawled source has at this instant.
func (w *world) shown() (list []scheduler.Item) {
	for _, x := range w.plan.Texts {
		if x.Crawled && time.Since(w.began) >= x.At {
			list = append(list, scheduler.Item{Document: vector.Document{ID: x.Doc, Text: x.Text}, Event: w.began.Add(x.At)})
		}
	}
	return list
}

// pass waits while a process works, also a dead one.
func (w *world) pass(p *process, d time.Duration) { <-w.after(p, d) }

// after is a timer that also ends with the world.
func (w *world) after(p *process, d time.Duration) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.buried:
		}
	}()
	return done
}

// twice reports whether a task was handed in for two lanes: it is one in each, and may run in each.
func (w *world) twice(id string) bool {
	name := w.tasks[strings.TrimRight(id, "+")]
	return slices.ContainsFunc(w.plan.Texts, func(x text) bool { return x.Twice && x.Text == name })
}

func bad(s string) bool { return strings.Contains(s, badWord) }

// end ends every process, the dead ones too, and waits for all that belongs to the world.
func (w *world) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.births.Wait()
	close(w.buried)
	w.net.close()
	w.sever()
	var all sync.WaitGroup
	for _, p := range w.processes {
		all.Go(p.end)
	}
	all.Wait()
	w.net.redis.Close()
	time.Sleep(10 * time.Second) // go-redis's last dials end by themselves
}

// settled reports whether nothing is on its way any more.
func (w *world) settled() bool {
	w.mu.Lock()
	unborn := w.unborn
	w.mu.Unlock()
	if unborn > 0 || time.Since(w.began) < w.earliest() {
		return false
	}
	for _, lane := range served {
		for _, list := range []string{"pending", "active", "lease", "scheduled", "retry", "archived"} {
			if w.net.redis.Exists(fmt.Sprintf("asynq:{embed:%s:%s}:%s", alias, lane, list)) {
				return false
			}
		}
	}
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	for id := range w.tasks {
		if !w.watch.accepted[id] {
			return false
		}
	}
	return true
}

// earliest is when all that the plan has in store has happened.
func (w *world) earliest() time.Duration {
	last := 15 * time.Second
	for _, f := range w.plan.Faults {
		if f.Kind == away || f.Kind == demoted || f.Kind == flushed || f.Kind == retired {
			last = max(last, f.At+f.For+5*time.Second)
		}
	}
	return last
}

// sent returns a command as it is to reach Redis: with the chance in a back-off drawn by the seed instead of by
// the process, and every time in it off by as much as the process's clock is. Only the queue's own times are the
// sender's; a document's version is its producer's.
func (w *world) sent(p *process, o op, cmd []string) []string {
	if o.name == opRetry {
		cmd = w.backOff(o, cmd)
	}
	if p.skew == 0 || len(o.keys) == 0 || !strings.HasPrefix(o.keys[0], "asynq:") && !strings.HasPrefix(o.keys[0], "embedfleet:") {
		return cmd
	}
	cmd = slices.Clone(cmd)
	now := time.Now()
	for i, word := range cmd {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			continue
		}
		for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Nanosecond} {
			if d := n - now.UnixNano()/int64(unit); d > -int64(time.Hour/unit) && d < int64(time.Hour/unit) {
				cmd[i] = strconv.FormatInt(n+int64(p.skew/unit), 10)
			}
		}
	}
	return cmd
}

// backOff puts a time of the seed's in place of a random one, within the bounds of the queue's: 2 to 4 s after the
// first failure, 4 to 8 s after the next, and 1 to 2 s for what is nobody's failure.
func (w *world) backOff(o op, cmd []string) []string {
	cmd = slices.Clone(cmd)
	for _, d := range o.decisions() {
		if d.word != "retry" {
			continue
		}
		least := time.Second
		if o.args[d.at+2] == "1" {
			least = 2 * time.Second << min(7, w.watch.failure(d.id))
		}
		h := fnv.New64a()
		fmt.Fprint(h, w.plan.Seed, d.id, time.Now())
		due := time.Now().Add(least + time.Duration(h.Sum64()%uint64(least)))
		cmd[len(cmd)-len(o.args)+d.at] = strconv.FormatInt(due.Unix(), 10)
	}
	return cmd
}
