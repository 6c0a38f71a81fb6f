package fleet

import (
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

const (
	// failuresInRow of a job are a trouble of more than the moment.
	failuresInRow = 3
	// slotGrace is how long a slot may take before its run is missed.
	slotGrace = 3 * time.Minute
)

// SourceID is the id of the element that shows a source.
func SourceID(name string) string { return "source-" + name }

// sources looks at what crawlers wrote down.
func (j *judge) sources() {
	for _, s := range j.snapshot.Sources {
		if s.Paused != "" {
			f := Finding{
				Level: Watch, Runbook: "a-source-is-paused", About: SourceID(s.Source),
				What: fmt.Sprintf("Source %s is paused.", s.Source), Why: sentence(s.Paused),
				Do: "Resume it when the reason is gone; what was missed is caught up.",
			}
			if !s.PausedUntil.IsZero() {
				f.When = fmt.Sprintf("It goes on by itself in %s.", words.Span(max(time.Second, s.PausedUntil.Sub(j.now))))
				f.Do = "Nothing, unless it should go on earlier."
			}
			j.find(f)
			continue
		}
		for _, job := range s.Jobs {
			j.job(s, job)
		}
		if failing := s.Failing(); len(failing) > 0 && len(failing) == len(s.Feeds) {
			j.find(Finding{
				Level: Wrong, Runbook: "a-source-fails", About: SourceID(s.Source),
				What: fmt.Sprintf("None of the %d feeds of %s answers.", len(s.Feeds), s.Source), Why: sentence(failing[0].Error),
				Do: "Look whether the scheduler's host reaches the internet.",
			})
		}
	}
}

func (j *judge) job(s ledger.SourceStatus, job ledger.Job) {
	f := Finding{Level: Wrong, About: SourceID(s.Source)}
	switch {
	case !job.Kept:
		f.Runbook = "nobody-crawls"
		f.What = fmt.Sprintf("Job %s of %s is kept by no scheduler.", job.Job, s.Source)
		f.Why = "No scheduler said so in the last three minutes."
		f.Do = "Start a scheduler with the flags of the source; what was missed is caught up."
	case job.Failures >= failuresInRow:
		f.Runbook = "a-source-fails"
		f.What = fmt.Sprintf("Job %s of %s failed %d times in a row.", job.Job, s.Source, job.Failures)
		f.Why, f.Do = sentence(job.Error), "Mend the cause; the next slot looks back to the last success, so nothing is lost."
	case j.missed(s, job):
		f.Level, f.Runbook = Watch, "a-slot-is-late"
		f.What = fmt.Sprintf("Job %s of %s is late: its last slot that was done began %s ago.", job.Job, s.Source, words.Span(j.now.Sub(job.LastSlot)))
		f.Why, f.Do = "Its run takes longer than a slot, or the scheduler is held up.", "Look at the scheduler's log."
	default:
		return
	}
	j.find(f)
}

// missed reports whether two whole slots have gone by without a run that was done or is under way.
func (j *judge) missed(s ledger.SourceStatus, job ledger.Job) bool {
	timetable := scheduler.Schedule{Job: job.Job, Source: s.Source, Cron: job.Cron}
	begin, _, err := timetable.Slot(j.now.Add(-slotGrace))
	if err != nil || job.Running != "" || job.LastSlot.IsZero() {
		return false
	}
	before, _, err := timetable.Slot(begin.Add(-time.Second))
	return err == nil && job.LastSlot.Before(before)
}
