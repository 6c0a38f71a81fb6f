package scheduler

import (
	"errors"
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// KST is Korea's time, in which schedules, quotas and filing dates are counted. It has had no summer time
// since 1988.
var KST = time.FixedZone("KST", 9*60*60)

// A Schedule says when a job runs, and why then.
type Schedule struct {
	Job    string   // unique; part of keys and commands
	Source string   // what the job crawls; jobs of one source are paused together
	Cron   []string // five fields each, in KST; a slot begins when any of them fires
	// Window is how far back a run looks at least. A run that follows a gap looks back to the last success.
	Window time.Duration
	Reason string // why so often and so far, for people
}

// A timetable is a schedule that was read.
type timetable []cron.Schedule

// horizon bounds the search for the slot before now: a line fires at least every leap year's cycle, or never.
const horizon = 8 * 366 * 24 * time.Hour

func (s Schedule) timetable() (timetable, error) {
	if s.Job == "" || s.Source == "" {
		return nil, errors.New("a schedule needs a job and a source")
	}
	// Without descriptors: "@every 5m" counts from the start of the process and is not aligned (T10).
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	var table timetable
	for _, line := range s.Cron {
		parsed, err := parser.Parse(line)
		if err != nil {
			return nil, fmt.Errorf("schedule of %s: line %q: %w", s.Job, line, err)
		}
		table = append(table, parsed)
	}
	if len(table) == 0 {
		return nil, fmt.Errorf("schedule of %s: no cron line", s.Job)
	}
	if table.next(time.Now()).IsZero() {
		return nil, fmt.Errorf("schedule of %s: %q never fires", s.Job, s.Cron)
	}
	return table, nil
}

// next returns the first beginning of a slot after t, the zero time if there is none.
func (tt timetable) next(t time.Time) (first time.Time) {
	for _, line := range tt {
		if at := line.Next(t.In(KST)); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// current returns the slot that t lies in. cron only looks forward, so the search begins ever earlier.
func (tt timetable) current(t time.Time) (begin, end time.Time) {
	for back := time.Hour; back <= horizon; back *= 2 {
		from := t.Add(-back)
		for at := tt.next(from); !at.IsZero() && !at.After(t); at = tt.next(at) {
			begin = at
		}
		if !begin.IsZero() {
			return begin, tt.next(begin)
		}
	}
	return time.Time{}, tt.next(t)
}

// Next returns the beginnings of the next n slots after t.
func (s Schedule) Next(t time.Time, n int) ([]time.Time, error) {
	table, err := s.timetable()
	if err != nil {
		return nil, err
	}
	list := make([]time.Time, 0, n)
	for at := table.next(t); len(list) < n && !at.IsZero(); at = table.next(at) {
		list = append(list, at)
	}
	return list, nil
}

// Slot returns the slot that t lies in.
func (s Schedule) Slot(t time.Time) (begin, end time.Time, err error) {
	table, err := s.timetable()
	if err != nil {
		return begin, end, err
	}
	begin, end = table.current(t)
	if begin.IsZero() {
		return begin, end, fmt.Errorf("schedule of %s: no slot before %s", s.Job, t.Format(time.RFC3339))
	}
	return begin, end, nil
}

// SlotName is how a slot is called in keys, logs and commands.
func SlotName(job string, begin time.Time) string {
	return job + ":" + begin.UTC().Format("2006-01-02T15:04Z")
}
