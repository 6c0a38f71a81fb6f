package fleet

import (
	"cmp"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
)

// The parts of a snapshot.
const (
	PartLanes   = "lanes"
	PartWorkers = "workers"
	PartEvents  = "events"
	PartCauses  = "dead letters"
	PartSources = "sources"
)

// A Snapshot is the fleet as it was last read. It is never changed once it was handed out.
type Snapshot struct {
	Number  int64     // of the snapshot; rises
	Since   time.Time // when the collector began
	Lanes   []queue.LaneStatus
	Workers []registry.Worker
	Events  []registry.Event // the latest first
	Causes  []Cause          // by model, the most frequent first
	Sources []ledger.SourceStatus
	Trends  map[Lane]Trend
	Memory  float64 // used part of what Redis may use, 0 if it has no limit
	Parts   map[string]Part
}

// A Part says how old what a snapshot holds of it is.
type Part struct {
	At   time.Time     // when the last reading that succeeded began; zero if none did
	Took time.Duration // it
	Err  string        // of the last reading, "" if it succeeded
}

// A Lane names a lane of a model.
type Lane struct {
	Model string
	Lane  tasks.Lane
}

// A Cause is how many dead letters of a model have one cause.
type Cause struct {
	Model string
	upkeep.CauseCount
}

func compareCauses(a, b Cause) int {
	return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(b.Letters, a.Letters), cmp.Compare(a.Code, b.Code))
}

// staleAfter is the age at which a part is called old: three readings were missed, or one hangs.
const staleAfter = 3*readEvery + time.Second

// Stale returns the parts that are old at a time, and the time of the oldest of them, zero if one of them
// was never read. Parts that are read seldom are given their time.
func (s *Snapshot) Stale(now time.Time) (parts []string, since time.Time) {
	never := false
	for _, name := range []string{PartLanes, PartWorkers, PartSources, PartCauses, PartEvents} {
		patience := staleAfter
		if name == PartSources || name == PartCauses {
			patience += 2 * seldomEvery
		}
		at := s.Parts[name].At
		began := at
		if at.IsZero() {
			began = s.Since
		}
		if now.Sub(began) < patience {
			continue
		}
		parts = append(parts, name)
		never = never || at.IsZero()
		if since.IsZero() || at.Before(since) {
			since = at
		}
	}
	if never {
		since = time.Time{}
	}
	return parts, since
}

// Read reports whether lanes and workers were read at least once, so that an empty list means that there
// are none.
func (s *Snapshot) Read() bool {
	return !s.Parts[PartLanes].At.IsZero() && !s.Parts[PartWorkers].At.IsZero()
}

// Total sums up all lanes of a model, or of the fleet if model is "". ETA is that of the slowest lane. Work is that
// of the model with most of it: lanes of one model share its workers, models do not.
func (s *Snapshot) Total(model string) (sum queue.LaneStatus) {
	work := map[string]time.Duration{}
	for _, l := range s.Lanes {
		if model != "" && l.Model != model {
			continue
		}
		sum.Pending += l.Pending
		sum.Active += l.Active
		sum.Scheduled += l.Scheduled
		sum.Retry += l.Retry
		sum.Dead += l.Dead
		sum.Tokens += l.Tokens
		sum.Processed += l.Processed
		sum.DrainRate += l.DrainRate
		sum.OldestPending = max(sum.OldestPending, l.OldestPending)
		sum.ETA = max(sum.ETA, l.ETA)
		work[l.Model] += l.Work
		sum.Work = max(sum.Work, work[l.Model])
	}
	return sum
}

// Serving counts the workers that take texts of a lane.
func (s *Snapshot) Serving(model string, lane tasks.Lane) int {
	n := 0
	for _, w := range s.Workers {
		if w.Model == model && w.Serving() && (len(w.Lanes) == 0 || slices.Contains(w.Lanes, lane)) {
			n++
		}
	}
	return n
}
