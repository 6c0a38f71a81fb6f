package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/words"
)

// A Level is how bad something is.
type Level int

// The levels.
const (
	Fine  Level = iota
	Watch       // somebody should look today
	Wrong       // somebody should act now
)

// String is the word for it.
func (l Level) String() string { return [...]string{"fine", "watch", "wrong"}[l] }

// A Finding is one thing that is not as it should be, in words for an operator.
type Finding struct {
	Level   Level
	What    string // is late, missing, broken
	Why     string // as far as the figures tell
	When    string // it will be done, "" if that does not apply
	Do      string // first
	Runbook string // the section of docs/operations.md, as an anchor
	About   string // the id of the element of the page that shows it, "" if none does
}

// A Verdict answers the question whether the fleet is healthy.
type Verdict struct {
	Level    Level
	Headline string
	Detail   string    // what is under way and when it is done
	Findings []Finding // the worst first
}

// Judge says what a snapshot means at a time.
func Judge(s *Snapshot, now time.Time) Verdict {
	var j judge
	j.snapshot, j.now = s, now
	j.stale()
	if s.Read() {
		j.memory()
		j.workers()
		j.lanes()
		j.sources()
		j.dead()
	}
	slices.SortStableFunc(j.findings, func(a, b Finding) int { return cmp.Compare(b.Level, a.Level) })
	v := Verdict{Findings: j.findings}
	for _, f := range v.Findings {
		v.Level = max(v.Level, f.Level)
	}
	v.Headline, v.Detail = j.headline(v)
	return v
}

// A judge collects findings.
type judge struct {
	snapshot *Snapshot
	now      time.Time
	findings []Finding
}

func (j *judge) find(f Finding) { j.findings = append(j.findings, f) }

func (j *judge) headline(v Verdict) (headline, detail string) {
	s := j.snapshot
	if !s.Read() {
		if v.Level == Fine {
			return "Looking", "The fleet is being read for the first time."
		}
		return "Unknown", "Nothing could be read from Redis yet."
	}
	wrong, watch := 0, 0
	for _, f := range v.Findings {
		switch f.Level {
		case Wrong:
			wrong++
		case Watch:
			watch++
		case Fine:
		}
	}
	switch {
	case wrong > 0 && watch > 0:
		headline = fmt.Sprintf("%s wrong, %d to watch", things(wrong), watch)
	case wrong > 0:
		headline = things(wrong) + " wrong"
	case watch > 0:
		headline = "Working, " + things(watch) + " to watch"
	default:
		headline = "Healthy"
	}
	return headline, j.detail()
}

func things(n int) string {
	if n == 1 {
		return "1 thing"
	}
	return fmt.Sprintf("%d things", n)
}

// detail says what is under way.
func (j *judge) detail() string {
	sum := j.snapshot.Total("")
	serving := 0
	for _, w := range j.snapshot.Workers {
		if w.Serving() {
			serving++
		}
	}
	who := fmt.Sprintf("%s serving.", workers(serving))
	switch {
	case sum.Pending+sum.Active == 0 && sum.Retry+sum.Scheduled > 0:
		return fmt.Sprintf("Nothing waits but %s for a later try. %s", texts(sum.Retry+sum.Scheduled), who)
	case sum.Pending+sum.Active == 0:
		return "Nothing waits. " + who
	case sum.ETA > 0:
		return fmt.Sprintf("%s waiting, done in about %s if nothing is added. %s", texts(sum.Pending), words.Span(sum.ETA), who)
	case sum.Pending > 0:
		return fmt.Sprintf("%s waiting; how long that takes is not known yet. %s", texts(sum.Pending), who)
	default:
		return fmt.Sprintf("%s in work, nothing waiting. %s", texts(sum.Active), who)
	}
}

func workers(n int) string {
	switch n {
	case 0:
		return "No worker is"
	case 1:
		return "1 worker is"
	default:
		return fmt.Sprintf("%d workers are", n)
	}
}

func texts(n int64) string {
	if n == 1 {
		return "1 text"
	}
	return words.Count(n) + " texts"
}

// stale tells that the figures are old.
func (j *judge) stale() {
	parts, since := j.snapshot.Stale(j.now)
	if len(parts) == 0 {
		return
	}
	f := Finding{Level: Wrong, Runbook: "redis-is-slow-or-away",
		Do: "Look whether Redis runs and is reachable from here. Workers go on by themselves as soon as it is back; nothing is lost."}
	if since.IsZero() {
		f.What = "Redis does not answer: " + strings.Join(parts, ", ") + " could not be read since this monitor started."
	} else {
		f.What = fmt.Sprintf("Redis does not answer: what is shown of %s is %s old.", strings.Join(parts, ", "), words.Span(j.now.Sub(since)))
	}
	for _, name := range parts {
		if err := j.snapshot.Parts[name].Err; err != "" {
			f.Why = "The last reading ended with: " + err + "."
			break
		}
	}
	if f.Why == "" {
		f.Why = "A reading that began has not come back."
	}
	j.find(f)
}

// The parts of Redis's memory from which on somebody should look, and above which the queue takes no documents.
const (
	muchMemory = 0.75
	fullMemory = 0.85
)

// memory tells that Redis is filling up.
func (j *judge) memory() {
	used := j.snapshot.Memory
	if used < muchMemory {
		return
	}
	f := Finding{
		Level: Watch, Runbook: "redis-is-full",
		What: fmt.Sprintf("Redis uses %.0f %% of its memory.", 100*used),
		Why:  fmt.Sprintf("Above %.0f %% no documents are taken, above 95 %% no queries.", 100*fullMemory),
		Do:   "Give Redis more, let the lanes drain, or drop dead letters that nobody will replay.",
	}
	if used >= fullMemory {
		f.Level, f.Why = Wrong, "Producers are told to come back; workers go on and make room."
	}
	j.find(f)
}

// dead tells of dead letters that came in the last hour. Old ones are known, and are shown in their table.
func (j *judge) dead() {
	byModel := map[string]int64{}
	for lane, trend := range j.snapshot.Trends {
		if lane.Model != "" {
			byModel[lane.Model] += trend.Grew()
		}
	}
	for _, c := range j.snapshot.Causes {
		n := byModel[c.Model]
		if n == 0 {
			continue
		}
		delete(byModel, c.Model) // the most frequent cause comes first; one line a model
		j.find(Finding{
			Level: Watch, Runbook: "dead-letters", About: "dead",
			What: fmt.Sprintf("%s of %s failed for good in the last hour.", texts(n), c.Model),
			Why:  fmt.Sprintf("The most frequent cause is %s: %s.", c.Code, Meaning(c.Code)),
			Do:   "Open the dead letters, mend the cause, then replay them; or drop what should never have come.",
		})
	}
}

// Meaning says what a cause of dead letters is, in words.
func Meaning(code string) string {
	for prefix, meaning := range meanings {
		if code == prefix || strings.HasSuffix(prefix, "_") && strings.HasPrefix(code, prefix) {
			return meaning
		}
	}
	return "see the letters' messages"
}

// meanings of the bounded words that queue, tasks and embedder use; one that ends with "_" stands for all that
// begin so.
var meanings = map[string]string{
	"poison":        "the text crashed every worker that took it, the last time alone",
	"timeout":       "the worker did not finish it in time, in any try",
	"lease_expired": "its worker was out of reach for longer than a lease",
	"unknown":       "archived by a tool that gives no cause",
	"panic":         "a bug in the worker; its log has the place",
	"bad_payload":   "the task can't be read",
	"invalid_":      "the text can't be embedded",
	"retry":         "every try failed in a way that seemed worth another",
}
