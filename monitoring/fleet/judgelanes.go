package fleet

import (
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// patience is how long the oldest text of a lane may have waited before the lane is late. A backfill takes the
// time that it takes, so there it is movement that counts; see [judge.lane].
var patience = map[tasks.Lane]time.Duration{
	tasks.Query:      10 * time.Second,
	tasks.Live:       5 * time.Minute,
	tasks.Quarantine: 30 * time.Minute,
}

const (
	// standing is how long the backfill may stand still, in points of its trend: five minutes.
	standing = int(5 * time.Minute / trendStep)
	// unforwarded is how many due retries nobody moved before that is worth a word; a few are always between.
	unforwarded = 50
	// rising is over how many points a growing lane is one that falls behind: ten minutes.
	rising = int(10 * time.Minute / trendStep)
)

// LaneID is the id of the element that shows a lane.
func LaneID(model string, lane tasks.Lane) string { return "lane-" + model + "-" + string(lane) }

// lanes looks at each lane.
func (j *judge) lanes() {
	due := int64(0)
	for _, l := range j.snapshot.Lanes {
		due += l.RetryDue
		j.lane(l)
	}
	if due > unforwarded {
		j.find(Finding{
			Level: Wrong, Runbook: "retries-do-not-move",
			What: fmt.Sprintf("%s are due for another try and nobody moves them.", texts(due)),
			Why:  "The upkeep of the lanes does not run: no worker and no scheduler is alive, or Redis is too slow for it.",
			Do:   "Start a scheduler, or a worker of any model; each does the upkeep.",
		})
	}
}

func (j *judge) lane(l queue.LaneStatus) {
	if l.Pending == 0 {
		return
	}
	f := Finding{About: LaneID(l.Model, l.Lane), When: eta(l)}
	name := fmt.Sprintf("Lane %s of %s", l.Lane, l.Model)
	serving := j.snapshot.Serving(l.Model, l.Lane)
	switch {
	case l.Paused:
		f.Level, f.Runbook = Watch, "a-lane-is-paused"
		f.What = fmt.Sprintf("%s is paused; %s waiting.", name, texts(l.Pending))
		f.Why = j.who(registry.EventPaused, l)
		f.When = ""
		f.Do = "Resume it when the reason is gone."
	case serving == 0:
		return // said with the workers
	case !j.late(l):
		return
	default:
		f.Level, f.Runbook = Watch, "a-lane-is-late"
		if l.Lane == tasks.Query {
			f.Level = Wrong
		}
		f.What = fmt.Sprintf("%s is late: the oldest of %s waits for %s.", name, texts(l.Pending), words.Span(l.OldestPending))
		f.Why, f.Do = j.why(l, serving)
	}
	j.find(f)
}

// late reports whether a lane with texts waiting keeps them for too long.
func (j *judge) late(l queue.LaneStatus) bool {
	if limit, ok := patience[l.Lane]; ok {
		return l.OldestPending > limit
	}
	t := j.snapshot.Trends[Lane{l.Model, l.Lane}]
	if len(t.Rate) < standing || l.OldestPending < 5*time.Minute {
		return false
	}
	for _, rate := range t.Rate[len(t.Rate)-standing:] {
		if rate > 0 {
			return false
		}
	}
	return true
}

// why explains a late lane by what is most likely.
func (j *judge) why(l queue.LaneStatus, serving int) (why, do string) {
	if c := j.crew(l.Model); c.held != "" {
		return "Workers hold texts back, because " + c.held + ".", "Mend that; they try again by themselves."
	}
	if l.DrainRate == 0 {
		if l.Lane == tasks.Backfill {
			return fmt.Sprintf("Nothing leaves the lane, although %s it: more urgent lanes of the model take all.", serve(serving)),
				"Start more workers, or wait until the other lanes are empty."
		}
		return fmt.Sprintf("Nothing leaves the lane, although %s it.", serve(serving)),
			"Look at the workers' logs and at their /statusz."
	}
	rate := fmt.Sprintf("%s at %.3g a second", serve(serving), l.DrainRate)
	if j.snapshot.Trends[Lane{l.Model, l.Lane}].Rising(rising) {
		return rate + ", and more comes in than goes out.", fmt.Sprintf("Start more workers of %s, or slow the producer down.", l.Model)
	}
	return rate + "; the lane shrinks, or stands.", "Wait, or start more workers."
}

func serve(n int) string {
	if n == 1 {
		return "1 worker serves"
	}
	return fmt.Sprintf("%d workers serve", n)
}

// eta is when a lane will be empty, in words.
func eta(l queue.LaneStatus) string {
	if l.ETA <= 0 {
		return ""
	}
	return "Done in about " + words.Span(l.ETA) + " if nothing is added."
}

// who names whoever did something to a lane last, as far back as the events go.
func (j *judge) who(what string, l queue.LaneStatus) string {
	for _, e := range j.snapshot.Events {
		if e.What == what && e.Model == l.Model && e.About == string(l.Lane) {
			s := fmt.Sprintf("%s did it %s ago", e.Who, words.Span(max(time.Second, j.now.Sub(e.At))))
			if e.Text != "" {
				s += ": " + e.Text
			}
			return s + "."
		}
	}
	return ""
}
