package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// slowLoad is when a load is worth a word; the largest model of the catalogue takes two minutes unprepared.
	slowLoad = 5 * time.Minute
	// crashMemory is how long a crash is news.
	crashMemory = time.Hour
)

// A crew is the workers of one model.
type crew struct {
	workers []registry.Worker
	loading []registry.Worker
	held    string // why one of them holds texts back
}

func (j *judge) crew(model string) crew {
	var c crew
	for _, w := range j.snapshot.Workers {
		if w.Model != model {
			continue
		}
		c.workers = append(c.workers, w)
		if w.State == registry.StateLoading {
			c.loading = append(c.loading, w)
		}
		if w.Held != nil && c.held == "" {
			c.held = w.Held.Cause
		}
	}
	return c
}

// WorkerName is what people call a worker.
func WorkerName(w registry.Worker) string {
	name := w.Name
	if name == "" {
		name = fmt.Sprintf("pid %d", w.PID)
	}
	if w.Host == "" {
		return name
	}
	return name + " on " + w.Host
}

// WorkerID is the id of the element that shows a worker.
func WorkerID(w registry.Worker) string { return "worker-" + w.ID }

// workers looks at the workers, and at lanes that have none.
func (j *judge) workers() {
	for _, w := range j.snapshot.Workers {
		j.worker(w)
	}
	waits := map[string]int64{}
	var models []string
	for _, l := range j.snapshot.Lanes {
		if l.Pending == 0 || l.Paused || j.snapshot.Serving(l.Model, l.Lane) > 0 {
			continue
		}
		if waits[l.Model] == 0 {
			models = append(models, l.Model)
		}
		waits[l.Model] += l.Pending
	}
	for _, model := range models {
		j.unserved(model, waits[model])
	}
	j.spaces()
	j.crashes()
}

// unserved tells that texts wait for a model that nobody serves.
func (j *judge) unserved(model string, pending int64) {
	c := j.crew(model)
	f := Finding{
		Level: Wrong, Runbook: "nobody-serves-a-model", About: "model-" + model,
		What: fmt.Sprintf("%s of %s wait and no worker serves them.", texts(pending), model),
		Why:  "No worker of the model is alive.",
		Do:   fmt.Sprintf("Start one: bin/worker --alias %s --model ...", model),
	}
	switch {
	case len(c.loading) > 0:
		w := c.loading[0]
		f.Level, f.Why = Watch, fmt.Sprintf("%s is loading the model since %s.", WorkerName(w), words.Span(j.now.Sub(w.Since)))
		if w.Loading != nil {
			f.Why = fmt.Sprintf("%s is %s.", WorkerName(w), progress(*w.Loading, j.now))
		}
		f.Do = "Wait; texts stay in their lanes meanwhile."
		f.About = WorkerID(w)
	case len(c.workers) > 0:
		f.Why = fmt.Sprintf("Its workers are %s, or do not take that lane.", states(c.workers))
		f.Do = "Look at them below, and start another."
	}
	j.find(f)
}

func states(list []registry.Worker) string {
	var words []string
	for _, w := range list {
		if !slices.Contains(words, w.State) {
			words = append(words, w.State)
		}
	}
	return strings.Join(words, " or ")
}

// progress says how far a load is.
func progress(l registry.Loading, now time.Time) string {
	s := fmt.Sprintf("%s since %s", l.Stage, words.Span(max(time.Second, now.Sub(l.Since))))
	if l.Total > 0 {
		s += fmt.Sprintf(", %d %% of %d MB", 100*l.Done/l.Total, l.Total/1e6)
	}
	return s
}

func (j *judge) worker(w registry.Worker) {
	f := Finding{Level: Wrong, About: WorkerID(w)}
	name := fmt.Sprintf("Worker %s of %s", WorkerName(w), w.Model)
	switch {
	case w.State == registry.StateFailed:
		f.What, f.Why, f.Runbook = name+" has given up.", sentence(w.Reason), "a-worker-has-failed"
		f.Do = "Read the reason, mend it, start the worker anew; a restart alone won't help."
	case w.State == registry.StateZombie:
		f.What, f.Why, f.Runbook = name+" is stuck.", sentence(w.Reason), "a-worker-is-stuck"
		f.Do = "Its liveness probe fails, so its supervisor restarts it; without one, kill it. Its texts run again elsewhere within 10 s."
	case w.Held != nil:
		f.What, f.Why, f.Runbook = fmt.Sprintf("%s holds texts back since %s.", name, words.Span(j.now.Sub(w.Held.Since))), sentence(w.Held.Cause), "texts-are-held-back"
		f.Do = "Mend the cause; the worker tries again by itself and charges nobody a retry."
	case w.State == registry.StateLoading && j.now.Sub(w.Since) > slowLoad:
		f.Level, f.Runbook = Watch, "a-model-loads-slowly"
		f.What = fmt.Sprintf("%s is loading since %s.", name, words.Span(j.now.Sub(w.Since)))
		if w.Loading != nil {
			f.Why = "It is " + progress(*w.Loading, j.now) + "."
		}
		f.Do = "Fetching and preparing take long once per host only; look at its log if the stage does not change."
	case w.Overdue > 0:
		f.Level, f.Runbook = Watch, "texts-are-overdue"
		f.What = fmt.Sprintf("%s has %s inside beyond their deadline.", name, texts(int64(w.Overdue)))
		f.Do = "If that lasts, the worker says that it is stuck and is restarted."
	case w.Refused != "":
		f.Level, f.Runbook = Watch, "settings-were-refused"
		f.What, f.Why = name+" did not take the latest settings.", sentence(w.Refused)
		f.Do = "Set others, or take them back."
	default:
		return
	}
	j.find(f)
}

// sentence ends a reason with a full stop.
func sentence(s string) string {
	if s == "" || strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// spaces tells of workers of one alias that write vectors of different spaces.
func (j *judge) spaces() {
	seen := map[string]vector.Space{}
	for _, w := range j.snapshot.Workers {
		if w.Space == "" || !w.Serving() {
			continue
		}
		other, ok := seen[w.Model]
		if ok && other != w.Space {
			j.find(Finding{
				Level: Wrong, Runbook: "change-a-model", About: WorkerID(w),
				What: fmt.Sprintf("Workers of %s write two vector spaces, %s and %s.", w.Model, other.Short(), w.Space.Short()),
				Why:  "They were started with different models, revisions or settings.",
				Do:   "Stop those of the old space; the store refuses their vectors anyway.",
			})
			return
		}
		seen[w.Model] = w.Space
	}
}

// crashes tells of crashes in the last hour.
func (j *judge) crashes() {
	n, last := 0, registry.Event{}
	for _, e := range j.snapshot.Events {
		if (e.What == registry.EventCrashed || e.What == registry.EventLost) && j.now.Sub(e.At) < crashMemory {
			if n == 0 {
				last = e
			}
			n++
		}
	}
	if n == 0 {
		return
	}
	times := "once"
	if n > 1 {
		times = fmt.Sprintf("%d times", n)
	}
	j.find(Finding{
		Level: Watch, Runbook: "a-worker-crashed", About: "events",
		What: fmt.Sprintf("Workers crashed %s in the last hour, the last one %s ago.", times, words.Span(max(time.Second, j.now.Sub(last.At)))),
		Why:  sentence(last.Text),
		Do:   "Nothing at once: its texts run again within 10 s, and one that crashes two workers is put apart. Read the worker's log.",
	})
}
