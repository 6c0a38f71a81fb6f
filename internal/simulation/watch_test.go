package simulation

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// recovery is how long a dead worker's tasks may stay away, with a moment for the round trips.
const recovery = 10*time.Second + 500*time.Millisecond

// A violation is a broken invariant.
type violation struct {
	Invariant string // one of the names below
	Detail    string
}

func (v violation) String() string { return v.Invariant + ": " + v.Detail }

// The invariants.
const (
	oneOutcome    = "one outcome"          // the vector of the newest text, or a dead letter
	oneVector     = "no vector twice"      // each version is written once
	runnersHold   = "runners hold"         // no more native calls than runners
	slotsHold     = "slots hold"           // no more handlers than slots
	slotOnce      = "each slot once"       // of the crawler
	comesBack     = "comes back in time"   // what a dead worker had leased
	ackedOnce     = "acknowledged is done" // a finished task does not run again
	nothingLeft   = "nothing left"         // in Redis that a check would mend
	worldComesEnd = "comes to rest"        // within a quarter of an hour
)

// A line of the history.
type line struct {
	At   time.Duration
	Who  string
	What string
}

func (l line) String() string { return fmt.Sprintf("%9.3fs  %-9s  %s", l.At.Seconds(), l.Who, l.What) }

// A finish is the end of a handler's run that returned nil.
type finish struct {
	by *process
	at time.Time
}

// A watcher sees everything that happens in a world, and judges what can be judged at once.
type watcher struct {
	world *world

	mu         sync.Mutex
	history    []line
	violations []violation
	accepted   map[string]bool      // task ids that the queue took from a producer or the crawler
	leased     map[string]*process  // by task id: who has it
	missing    map[string]time.Time // by task id: when its worker died
	finished   map[string]finish    // by task id
	written    map[string]int       // by document, version and hash
	handlers   map[*process]int     // inside
	calls      map[*process]int     // native, inside
	allCalls   int
	deaths     int
	failures   map[string]int  // by task id, since it was enqueued
	slots      map[string]int  // by name: how often done
	writes     map[string]bool // the ops that wrote, if that is asked for; of the switch only
}

func newWatcher(w *world) *watcher {
	return &watcher{
		world: w, accepted: map[string]bool{}, leased: map[string]*process{}, missing: map[string]time.Time{},
		finished: map[string]finish{}, written: map[string]int{}, handlers: map[*process]int{},
		calls: map[*process]int{}, failures: map[string]int{}, slots: map[string]int{},
	}
}

// note adds to the history. The caller holds the lock.
func (w *watcher) note(who *process, format string, args ...any) {
	w.history = append(w.history, line{time.Since(w.world.began), who.name, fmt.Sprintf(format, args...)})
}

func (w *watcher) violate(invariant, format string, args ...any) {
	w.violations = append(w.violations, violation{invariant, fmt.Sprintf(format, args...)})
}

// hash is the history in one number.
func (w *watcher) hash() uint64 {
	h := fnv.New64a()
	for _, l := range w.history {
		h.Write([]byte(l.String()))
	}
	return h.Sum64()
}

// told are the ops that belong into a history.
var told = map[string]bool{
	opAck: true, opRetry: true, opPut: true, opReap: true, opEnqueue: true, opLeave: true, opBury: true, opFail: true,
	opFinish: true, opRefresh: true, opBegin: true, opRequeue: true, opMark: true,
	opClaimSpace: true,
}

// executed sees a command that Redis has run, and its reply.
func (w *watcher) executed(p *process, o op, cmd []string, reply []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.mentioned(cmd, reply)
	switch o.name {
	case opDequeue:
		for _, id := range ids {
			w.leased[id] = p
			delete(w.missing, id)
		}
		if len(ids) > 0 {
			w.note(p, "leases %s", w.names(ids))
		}
		return
	case opEnqueue:
		for _, id := range ids { // whoever is enqueued again may run again
			delete(w.failures, id)
			for done := range w.finished {
				if strings.TrimRight(done, "+") == id {
					delete(w.finished, done)
				}
			}
		}
	case opReap:
		w.reaped(o, words(reply))
	case opPut:
		w.put(o, words(reply))
	case opFinish:
		if answer := words(reply); len(o.args) > 3 && o.args[3] == "done" && answer[0] == "1" {
			if w.slots[o.args[1]]++; w.slots[o.args[1]] > 1 {
				w.violate(slotOnce, "slot %s was done %d times", o.args[1], w.slots[o.args[1]])
			}
		}
	case opMark: // also of a text that its crawler enqueued with its last breath, and another one found stored
		if id, ok := w.world.crawled[cmd[len(cmd)-1]]; ok {
			w.accepted[id] = true
		}
	case opClaim:
		if words(reply)[0] == "granted" {
			w.note(p, "claims slot %s", words(reply)[2])
		}
	case opAck, opRetry, opFail, opRequeue, opLeave, opBury:
		for _, id := range ids {
			delete(w.leased, id)
			w.back(id)
		}
	}
	if told[o.name] && !bytes.HasPrefix(reply, []byte("-NOSCRIPT")) {
		about := w.names(ids)
		if o.name == opPut || o.name == opRefresh {
			about = ""
			for _, r := range o.records() {
				about += fmt.Sprintf(" %s v%s", r[len(r)-1], r[0])
			}
		}
		w.note(p, "%s %s -> %s", o.name, about, brief(reply))
	}
}

func brief(reply []byte) string {
	list := words(reply)
	for i, word := range list {
		if len(word) > 20 {
			list[i] = word[:20] + "..."
		}
	}
	return strings.Join(list, ",")
}

// mentioned returns the tasks that a command or its reply names.
func (w *watcher) mentioned(cmd []string, reply []byte) []string {
	var ids []string
	for id := range w.world.tasks {
		in := bytes.Contains(reply, []byte(id))
		for i := 1; i < len(cmd) && !in; i++ {
			in = strings.Contains(cmd[i], id)
		}
		if in {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(w.world.tasks[a], w.world.tasks[b]) })
	return ids
}

func (w *watcher) names(ids []string) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = w.world.tasks[id]
	}
	return strings.Join(list, " ")
}

// took sees that the queue has accepted a task, by what its client says.
func (w *watcher) took(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accepted[strings.TrimRight(id, "+")] = true
}

// reaped reads the words of a reap, one for each task.
func (w *watcher) reaped(o op, answers []string) {
	for i, answer := range answers {
		if 1+2*i >= len(o.args) {
			return
		}
		if id := o.args[1+2*i]; answer != "alive" {
			delete(w.leased, id)
			w.back(id)
		}
	}
}

// back judges how long a task was away whose worker had died.
func (w *watcher) back(id string) {
	died, missing := w.missing[id]
	if !missing {
		return
	}
	delete(w.missing, id)
	if took := time.Since(died); took > recovery+w.world.excuse(died) {
		w.violate(comesBack, "%s came back %v after its worker died", w.world.tasks[id], took)
	}
}

// put reads the answers to a put: a space if all was refused, and one for each record.
func (w *watcher) put(o op, answers []string) {
	records := o.records()
	if len(answers) != 1+len(records) {
		return
	}
	for i, r := range records {
		if answers[1+i] != "1" {
			continue
		}
		what := fmt.Sprintf("%s in version %s", r[len(r)-1], r[0])
		if w.written[what+r[1]]++; w.written[what+r[1]] > 1 {
			w.violate(oneVector, "%s was written twice", what)
		}
	}
}

// fault sees a command that a fault befalls.
func (w *watcher) fault(p *process, kind string, o op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(p, "FAULT %s: %s", kind, o.name)
}

// happened sees what a world does to a process, or to all ("redis").
func (w *watcher) happened(who *process, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(who, format, args...)
}

// died sees a process die.
func (w *watcher) died(p *process, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lost []string
	for id, owner := range w.leased {
		if owner == p {
			w.missing[id] = time.Now()
			lost = append(lost, w.world.tasks[id])
		}
	}
	slices.Sort(lost)
	w.deaths++
	w.note(p, "FAULT killed (%s) with %s", why, strings.Join(lost, " "))
}

// enter sees a handler begin, and returns what is to be told of its end.
func (w *watcher) enter(p *process, id string) (leave func(done bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.handlers[p]++; w.handlers[p] > slots+1 { // and one in quarantine
		w.violate(slotsHold, "%s has %d handlers inside, and %d slots", p.name, w.handlers[p], slots+1)
	}
	if f, again := w.finished[id]; again && !w.world.twice(id) && !f.by.isDead() && !w.world.wasAway(f.at, time.Now()) {
		w.violate(ackedOnce, "%s was finished by %s %v ago, and runs again", w.called(id), f.by.name, time.Since(f.at))
	}
	return func(done bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.handlers[p]--
		if done && !p.isDead() {
			w.finished[id] = finish{p, time.Now()}
		}
	}
}

// call sees a native call begin, and returns its number.
func (w *watcher) call(p *process, texts []string) (nth int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allCalls++
	if w.calls[p]++; w.calls[p] > runners {
		w.violate(runnersHold, "%s has %d native calls inside, and %d runners", p.name, w.calls[p], runners)
	}
	w.note(p, "calls %s with %s", strconv.Itoa(w.allCalls), strings.Join(texts, ", "))
	return w.allCalls
}

// called is a task's name. A newer version of a text that runs has the text's id and a mark.
func (w *watcher) called(id string) string { return w.world.tasks[strings.TrimRight(id, "+")] }

// failure counts a task's failure, and returns how many there were before.
func (w *watcher) failure(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures[id]++
	return w.failures[id] - 1
}

func (w *watcher) returned(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[p]--
}
