package page

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

const (
	runsPage    = 100
	runsTimeout = 5 * time.Second
)

// Histories are the runs of crawlers; *ledger.Ledger is one.
type Histories interface {
	// RunsOf returns the runs of a source that ended before a time, the latest first; a zero time is now.
	RunsOf(ctx context.Context, source string, before time.Time, limit int) ([]ledger.Run, error)
}

// A runsView is what runs.html shows.
type runsView struct {
	Source  string
	Sources []string
	Runs    []runView
	Older   string // address of the next page, "" if there is none
	Newest  bool   // this is the first page
	Wrong   string
}

// A runView is a row.
type runView struct {
	ledger.Run

	Class   string
	Reasons []string // the most frequent first
}

func newRun(r ledger.Run) runView {
	v := runView{Run: r, Class: map[string]string{"done": "ok", "failed": "bad", "paused": "warn", "released": "busy"}[r.Outcome]}
	for _, reason := range slices.SortedFunc(maps.Keys(r.Report.Reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Report.Reasons[b], r.Report.Reasons[a]), cmp.Compare(a, b))
	}) {
		v.Reasons = append(v.Reasons, fmt.Sprintf("%s %d", strings.ReplaceAll(reason, "_", " "), r.Report.Reasons[reason]))
	}
	return v
}

// Lost is what of the items did not become documents for good.
func (v runView) Lost() int { return v.Report.Dropped + v.Report.Refused }

// showRuns is the page at /runs, and with format=json the same as JSON.
func (p *Page) showRuns(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s, _ := p.parts.Fleet.Snapshot()
	v := runsView{Source: q.Get("source")}
	for _, one := range s.Sources {
		v.Sources = append(v.Sources, one.Source)
	}
	if v.Source == "" && len(v.Sources) > 0 {
		v.Source = v.Sources[0]
	}
	if v.Source != "" && !slices.Contains(v.Sources, v.Source) {
		p.parts.Frame.Refuse(w, r, http.StatusNotFound, "No crawler of this week has such a source.")
		return
	}
	before := time.Time{}
	if ms, err := strconv.ParseInt(q.Get("before"), 10, 64); err == nil && ms > 0 {
		before = time.UnixMilli(ms)
	}
	v.Newest = before.IsZero()
	status := http.StatusOK
	runs, err := p.runs(r.Context(), v.Source, before)
	if err != nil {
		p.log.Warn("reading the runs failed", "source", v.Source, "err", err)
		v.Wrong, status = "The runs can't be read now.", http.StatusServiceUnavailable
	}
	if q.Get("format") == "json" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(runs); err != nil {
			p.log.Debug("a reader of runs went away", "err", err)
		}
		return
	}
	for _, run := range runs {
		v.Runs = append(v.Runs, newRun(run))
	}
	if len(runs) == runsPage {
		next := url.Values{"source": {v.Source}, "before": {strconv.FormatInt(runs[runsPage-1].Ended.UnixMilli(), 10)}}
		v.Older = "/runs?" + next.Encode()
	}
	p.parts.Frame.Render(w, r, frame.Page{Title: "Runs of " + v.Source, Here: "/", Status: status, Body: p.history, Data: v, Styles: []string{"page/page.css"}})
}

func (p *Page) runs(ctx context.Context, source string, before time.Time) ([]ledger.Run, error) {
	if source == "" {
		return []ledger.Run{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, runsTimeout)
	defer cancel()
	return p.parts.Histories.RunsOf(ctx, source, before, runsPage)
}
