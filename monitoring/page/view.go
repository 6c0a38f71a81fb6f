package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/fleet"
	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// manyLanes is from how many on those in which nothing happens are left out at first.
	manyLanes = 24
	// fewEvents are shown at first; "all" shows what the snapshot has.
	fewEvents   = 12
	fewCauses   = 12
	fewFindings = 6
	// silentAfter is when a worker that says something every 2 s is late with it. With the time between readings
	// and sendings, a worker that was killed is shown so within 10 s.
	silentAfter = 5 * time.Second
)

// A view is what the templates of the fleet page are executed with. Everything is settled here; templates only
// place it.
type view struct {
	look

	Read     bool // lanes and workers were read at least once
	Verdict  fleet.Verdict
	First    []fleet.Finding // of the verdict, and
	Rest     []fleet.Finding // those that are folded away
	Since    time.Time       // of the charts, zero if they show the whole hour
	Orders   []errand
	Tiles    []tile
	Models   []modelView
	Hidden   int // lanes
	Workers  []workerView
	Serving  int
	Sources  []sourceView
	Causes   []causeView
	DeadSum  int64
	Events   []eventView
	Earlier  int // events that are not shown
	MoreDead int // causes that are not shown
}

// Can and Idle are what templates ask the look.
func (v view) Can() bool  { return v.can }
func (v view) Idle() bool { return v.idle }

// A tile is one figure on top of the page.
type tile struct {
	Name, Value, Unit, Note string
	Spark                   *spark
	Class                   string
}

// A modelView is a group of the table of lanes.
type modelView struct {
	ID, Name, Space string
	Can             bool
	Serving, Crew   int // workers
	TokenRate       float64
	Waiting         int64 // texts, in all lanes
	Lanes           []laneView
	Hidden          []tasks.Lane // in which nothing happens
}

// A laneView is a row.
type laneView struct {
	queue.LaneStatus

	ID           string
	Can          bool
	State, Class string
	Pendings     spark
	Rates        spark
	Grew         int64 // dead letters in the last hour
}

// Calm reports whether there is nothing to see but that it is there.
func (l laneView) Calm() bool {
	return l.Pending+l.Active+l.Scheduled+l.Retry+l.Dead == 0 && !l.Paused
}

// Later is what waits for a time to come.
func (l laneView) Later() int64 { return l.Retry + l.Scheduled }

// A workerView is a row.
type workerView struct {
	registry.Worker

	ID, Called   string
	Can          bool
	State, Class string
	Detail       string // of the state
	FirstOfModel bool
	LaneNames    string
}

// An eventView is a row.
type eventView struct {
	registry.Event

	Class string
}

// A causeView is a row.
type causeView struct {
	fleet.Cause

	Can     bool
	Meaning string
	Share   int // of the largest, in percent
}

// view settles what is shown of a snapshot.
func (p *Page) view(s *fleet.Snapshot, l look, now time.Time) view {
	v := view{look: l, Read: s.Read(), Verdict: fleet.Judge(s, now), Orders: p.orders.recent(now)}
	if trend := s.Trends[fleet.Lane{}]; len(trend.Pending) > 0 && len(trend.Pending) < 2*sparkPoints {
		v.Since = s.Since
	}
	n := min(len(v.Verdict.Findings), fewFindings)
	v.First, v.Rest = v.Verdict.Findings[:n], v.Verdict.Findings[n:]
	v.Tiles = tiles(s)
	v.lanes(s)
	v.workers(s)
	v.sources(s, now)
	v.causes(s)
	v.events(s)
	return v
}

// tiles are the figures on top.
func tiles(s *fleet.Snapshot) []tile {
	sum, trend := s.Total(""), s.Trends[fleet.Lane{}]
	pending := newSpark(trend.Pending, trend.End, labelled("waiting"))
	rates := newSpark(trend.Rate, trend.End, labelled("done a second"))
	serving, tokens := 0, 0.0
	for _, w := range s.Workers {
		if w.Serving() {
			serving++
		}
		tokens += w.TokenRate
	}
	list := []tile{
		{Name: "Waiting", Value: words.Count(sum.Pending), Unit: "texts", Spark: &pending, Note: tokensNote(sum)},
		{Name: "In work", Value: words.Count(sum.Active), Unit: "texts", Note: later(sum)},
		{Name: "Done", Value: words.Rate(sum.DrainRate), Unit: "texts/s", Spark: &rates, Note: words.Short(tokens) + " tokens/s"},
		{Name: "Work left", Value: words.Span(sum.Work), Note: "at the workers' full speed"},
		{Name: "Empty in", Value: words.Span(sum.ETA), Note: "at the present rate"},
		{Name: "Workers", Value: fmt.Sprint(serving), Unit: fmt.Sprintf("of %d serve", len(s.Workers))},
		{Name: "Dead letters", Value: words.Count(sum.Dead), Note: grewNote(trend.Grew())},
	}
	return list
}

func tokensNote(sum queue.LaneStatus) string {
	if sum.Tokens == 0 {
		return ""
	}
	return "about " + words.Short(float64(sum.Tokens)) + " tokens"
}

func later(sum queue.LaneStatus) string {
	if n := sum.Retry + sum.Scheduled; n > 0 {
		return words.Count(n) + " for a later try"
	}
	return ""
}

func grewNote(n int64) string {
	if n == 0 {
		return "none in the last hour"
	}
	return "+" + words.Count(n) + " in the last hour"
}

func labelled(what string) func(now, most float64) string {
	return func(now, most float64) string {
		return fmt.Sprintf("%s: %s, at most %s in the last hour", what, words.Short(now), words.Short(most))
	}
}

// lanes groups the lanes by model.
func (v *view) lanes(s *fleet.Snapshot) {
	hide := !v.idle && len(s.Lanes) > manyLanes
	for _, l := range s.Lanes {
		n := len(v.Models)
		if n == 0 || v.Models[n-1].Name != l.Model {
			v.Models = append(v.Models, newModel(s, l.Model, v.can))
			n++
		}
		m := &v.Models[n-1]
		m.Waiting += l.Pending + l.Retry + l.Scheduled
		row := v.lane(s, l)
		if hide && row.quiet() {
			m.Hidden = append(m.Hidden, l.Lane)
			v.Hidden++
			continue
		}
		m.Lanes = append(m.Lanes, row)
	}
}

func newModel(s *fleet.Snapshot, model string, can bool) modelView {
	m := modelView{ID: "model-" + model, Name: model, Can: can}
	for _, w := range s.Workers {
		if w.Model != model {
			continue
		}
		m.Crew++
		if w.Serving() {
			m.Serving++
		}
		m.TokenRate += w.TokenRate
		if w.Space != "" {
			m.Space = w.Space.Short()
		}
	}
	return m
}

// quiet reports whether nothing is in a lane and nothing was for an hour.
func (l laneView) quiet() bool {
	return l.Calm() && l.Pendings.Most == 0 && l.Rates.Most == 0
}

func (v *view) lane(s *fleet.Snapshot, l queue.LaneStatus) laneView {
	trend := s.Trends[fleet.Lane{Model: l.Model, Lane: l.Lane}]
	row := laneView{
		LaneStatus: l, ID: fleet.LaneID(l.Model, l.Lane), Can: v.can, Grew: trend.Grew(),
		Pendings: newSpark(trend.Pending, trend.End, labelled("waiting")), Rates: newSpark(trend.Rate, trend.End, labelled("done a second")),
	}
	row.State, row.Class = v.laneState(s, row)
	return row
}

// laneState is the word for how a lane stands, and the class of its colour.
func (v *view) laneState(s *fleet.Snapshot, l laneView) (word, class string) {
	for _, f := range v.Verdict.Findings {
		if f.About == l.ID && !l.Paused {
			return "late", map[fleet.Level]string{fleet.Watch: "warn", fleet.Wrong: "bad"}[f.Level]
		}
	}
	switch {
	case l.Paused:
		return "paused", "warn"
	case l.Pending > 0 && s.Serving(l.Model, l.Lane) == 0:
		return "unserved", "bad"
	case l.Active > 0:
		return "working", "busy"
	case l.Pending > 0:
		return "waiting", "busy"
	case l.Retry > 0:
		return "retrying", "ok"
	case l.Scheduled > 0:
		return "scheduled", "ok"
	default:
		return "idle", ""
	}
}

func (v *view) workers(s *fleet.Snapshot) {
	for i, w := range s.Workers {
		row := workerView{Worker: w, ID: fleet.WorkerID(w), Called: w.Name, Can: v.can, FirstOfModel: i == 0 || s.Workers[i-1].Model != w.Model}
		if row.Called == "" {
			row.Called = fmt.Sprintf("pid %d", w.PID)
		}
		if len(w.Lanes) > 0 && len(w.Lanes) < len(tasks.Lanes) {
			row.LaneNames = laneNames(w.Lanes)
		}
		row.State, row.Class, row.Detail = workerState(w)
		if w.Serving() {
			v.Serving++
		}
		v.Workers = append(v.Workers, row)
	}
}

func laneNames(lanes []tasks.Lane) string {
	var names []string
	for _, l := range lanes {
		names = append(names, string(l))
	}
	return strings.Join(names, ", ")
}

// workerState is the word for how a worker stands, the class of its colour, and what else there is to say.
func workerState(w registry.Worker) (word, class, detail string) {
	switch {
	case w.State == registry.StateFailed || w.State == registry.StateZombie:
		word, class, detail = map[string]string{registry.StateFailed: "failed", registry.StateZombie: "stuck"}[w.State], "bad", w.Reason
	case time.Duration(w.Silent) > silentAfter:
		word, class, detail = "silent", "warn", "nothing heard for "+words.Span(time.Duration(w.Silent))
	case w.Held != nil:
		word, class, detail = "holding back", "warn", w.Held.Cause
	case w.State == registry.StateLoading:
		word, class = w.State, "busy"
		if w.Loading != nil {
			detail = loading(*w.Loading)
		}
	case w.State == registry.StateDraining:
		word, class = w.State, "warn"
	case w.State == registry.StateBusy:
		word, class = w.State, "busy"
	default:
		word, class = w.State, "ok"
	}
	return cmp.Or(word, "unknown"), class, detail
}

func loading(l registry.Loading) string {
	if l.Total > 0 {
		return fmt.Sprintf("%s, %s of %s", l.Stage, words.Bytes(l.Done), words.Bytes(l.Total))
	}
	return l.Stage
}

func (v *view) causes(s *fleet.Snapshot) {
	v.DeadSum = s.Total("").Dead
	list := slices.Clone(s.Causes)
	slices.SortStableFunc(list, func(a, b fleet.Cause) int { return cmp.Compare(b.Letters, a.Letters) })
	if !v.all && len(list) > fewCauses {
		v.MoreDead = len(list) - fewCauses
		list = list[:fewCauses]
	}
	for _, c := range list {
		v.Causes = append(v.Causes, causeView{Cause: c, Can: v.can, Meaning: fleet.Meaning(c.Code), Share: int(100 * c.Letters / list[0].Letters)})
	}
}

// events takes the latest over.
func (v *view) events(s *fleet.Snapshot) {
	list := s.Events
	if !v.all && len(list) > fewEvents {
		list, v.Earlier = list[:fewEvents], len(list)-fewEvents
	}
	for _, e := range list {
		v.Events = append(v.Events, eventView{e, eventClass(e.What)})
	}
}

// eventClass is the class of an event's colour.
func eventClass(what string) string {
	switch what {
	case registry.EventCrashed, registry.EventLost, registry.EventFailed, registry.EventZombie:
		return "bad"
	case registry.EventRefused, registry.EventPaused, registry.EventDropped, registry.EventCancelled, registry.EventForgotten:
		return "warn"
	case registry.EventReady, registry.EventResumed:
		return "ok"
	default:
		return ""
	}
}
