package simulation

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/vector"
)

// check judges what can only be judged at the end. It asks Redis as any process does, but undisturbed.
func (w *world) check() {
	if !w.settled() {
		w.violate(worldComesEnd, "after %v there is still work: %s", horizon, w.remains())
	}
	w.faults.stop()
	p := newProcess(w, "check")
	w.add(p)
	w.checkOutcomes(p)
	w.checkLeft(p)
	w.checkSlots()
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	for id, died := range w.watch.missing {
		if took := time.Since(died); took > recovery+w.excuse(died) {
			w.watch.violate(comesBack, "%s is away since %v, when its worker died", w.tasks[id], took)
		}
	}
}

func (w *world) violate(invariant, format string, args ...any) {
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	w.watch.violate(invariant, format, args...)
}

// remains names what keeps a world from its rest.
func (w *world) remains() (list []string) {
	for _, key := range w.net.redis.Keys() {
		o := opOf([]string{"GET", key})
		if len(o.label) > 9 && o.label[:9] == "GET lane:" {
			list = append(list, key)
		}
	}
	return list
}

// newest returns each document's text that counts.
func (w *world) newest() map[string]text {
	docs := map[string]text{}
	for _, x := range w.plan.Texts {
		if old, ok := docs[x.Doc]; !ok || x.Version > old.Version {
			docs[x.Doc] = x
		}
	}
	return docs
}

func (w *world) checkOutcomes(p *process) {
	docs := storeredis.New(p.rdb)
	letters, err := upkeep.NewDead(p.rdb).List(p.ctx, alias, upkeep.DeadFilter{}, 1000)
	if err != nil {
		w.violate(oneOutcome, "reading the dead letters: %v", err)
	}
	dead, ids := map[string]string{}, map[string]bool{}
	for _, l := range letters {
		name := w.watch.called(l.ID)
		if ids[l.ID] && !w.twice(l.ID) {
			w.violate(oneOutcome, "%s has two dead letters", name)
		}
		ids[l.ID] = true
		dead[name] = l.Code + ": " + l.Message
		if !bad(name) && !poisons(name) && !w.mayDie() {
			w.violate(oneOutcome, "%s is dead, and has done nothing: %s", name, dead[name])
		}
	}
	for doc, x := range w.newest() {
		rec, err := docs.Get(p.ctx, alias, doc)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			w.violate(oneOutcome, "reading %s: %v", doc, err)
			continue
		}
		stored := err == nil && rec.Document.Text == x.Text
		switch cause := dead[x.Text]; {
		case stored && cause != "":
			w.violate(oneOutcome, "%q is stored, and dead (%s)", x.Text, cause)
		case !stored && cause == "":
			w.violate(oneOutcome, "%q has neither vector nor dead letter; the store has %q", x.Text, rec.Document.Text)
		case stored && (bad(x.Text) || poisons(x.Text)):
			w.violate(oneOutcome, "%q is stored, which no model can have read", x.Text)
		case stored:
			w.checkVector(rec)
		}
	}
}

// mayDie reports whether a text without fault may be taken for poison: its worker has to die three times with it.
func (w *world) mayDie() bool {
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	return w.watch.deaths >= 3
}

func (w *world) checkVector(rec vector.Record) {
	if len(rec.Chunks) != 1 || embedtest.Quote(rec.Chunks[0].Vector) != rec.Document.Text {
		w.violate(oneOutcome, "%q has the vector of another text", rec.Document.Text)
	}
}

// checkLeft has Redis checked as an operator would.
func (w *world) checkLeft(p *process) {
	findings, err := upkeep.Fsck(p.ctx, p.rdb, &upkeep.FsckOptions{Models: []string{alias}})
	if err != nil {
		w.violate(nothingLeft, "checking: %v", err)
	}
	for _, f := range findings {
		names := slices.Clone(f.Examples)
		for i, id := range names {
			if name, ok := w.tasks[id]; ok {
				names[i] = name
			}
		}
		w.violate(nothingLeft, "%s in lane %s: %d, as %q", f.Fault, f.Lane, f.Count, names)
	}
}

// checkSlots looks for slots that nobody did. The last ones may be under way; those in which Redis was away, or a
// scheduler was struck, may have been missed, which the next makes up for.
func (w *world) checkSlots() {
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	for begin := w.began.Truncate(time.Minute); time.Since(begin) > 45*time.Second; begin = begin.Add(time.Minute) {
		from, to := begin, begin.Add(time.Minute)
		if from.Before(w.began) {
			from = w.began
		}
		if to.Sub(from) < 30*time.Second || w.wasAway(from, from.Add(30*time.Second)) {
			continue
		}
		if name := scheduler.SlotName("crawl", begin); w.watch.slots[name] != 1 {
			w.watch.violate(slotOnce, "slot %s was done %d times, of %v", name, w.watch.slots[name], fmt.Sprint(w.watch.slots))
		}
	}
}
