package page

import (
	"fmt"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/fleet"
	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// A sourceView is a group of the table of sources.
type sourceView struct {
	ledger.SourceStatus

	ID, State, Class string
	Detail           string
	Fresh            string // how fast its documents can be searched
	Can              bool
	Jobs             []jobView
	Fails            []ledger.Feed
}

// A jobView is a row.
type jobView struct {
	ledger.Job

	State, Class string
	NextIn       string
	Source       string
	Can          bool
}

func (v *view) sources(s *fleet.Snapshot, now time.Time) {
	for _, one := range s.Sources {
		row := sourceView{SourceStatus: one, ID: fleet.SourceID(one.Source), Can: v.can, State: "running", Class: "ok", Fails: one.Failing(), Fresh: fresh(one.Freshness)}
		if one.Paused != "" {
			row.State, row.Class, row.Detail = "paused", "warn", one.Paused
			if !one.PausedUntil.IsZero() {
				row.Detail += ", until " + words.Clock(one.PausedUntil)
			}
		}
		for _, job := range one.Jobs {
			row.Jobs = append(row.Jobs, newJob(job, one.Source, v.can, now))
		}
		v.Sources = append(v.Sources, row)
	}
}

// fresh says how fast documents of a source can be searched, and how many are on their way.
func fresh(f ledger.Freshness) string {
	seconds := func(s float64) string { return words.Span(time.Duration(s * float64(time.Second))) }
	var parts []string
	if f.Documents > 0 {
		parts = append(parts, fmt.Sprintf("searchable %s after the event, 95 %% within %s", seconds(f.P50), seconds(f.P95)))
	}
	if f.Awaited > 0 {
		parts = append(parts, fmt.Sprintf("%s on the way, the oldest for %s", words.Plural(f.Awaited, "document"), seconds(f.Oldest)))
	}
	return strings.Join(parts, "; ")
}

func newJob(job ledger.Job, source string, can bool, now time.Time) jobView {
	row := jobView{Job: job, Source: source, Can: can, State: "waiting", Class: "ok"}
	switch {
	case !job.Kept:
		row.State, row.Class = "nobody keeps it", "bad"
	case job.Running != "":
		row.State, row.Class = "running", "busy"
	case job.Failures > 0:
		row.State, row.Class = "failed "+words.Plural(int64(job.Failures), "time"), "warn"
		if job.Failures >= 3 {
			row.Class = "bad"
		}
	}
	if !job.Next.IsZero() {
		row.NextIn = "in " + words.Span(max(time.Second, job.Next.Sub(now)))
	}
	return row
}
