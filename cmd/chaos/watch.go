package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	lookEvery = 200 * time.Millisecond
	// leaseTime is how long a document's lease lasts from its renewal.
	leaseTime = 6 * time.Second
	// orphaned is how old a lease is that its worker can't have meant to leave unrenewed: it renews every 2 s.
	orphaned = 4500 * time.Millisecond
)

// A watcher sees from outside, in Redis, how long the texts of dead workers wait, and who is charged with a
// failure.
type watcher struct {
	log    *slog.Logger
	fleet  *fleet.Fleet
	deaths func() []time.Time // of workers, in order

	leases   map[string]time.Time     // by task, until when
	returned map[string]time.Duration // of orphans that left the dead worker: after what time

	mu       sync.Mutex
	lost     time.Time // since when Redis does not answer; zero while it does
	outages  [][2]time.Time
	recovery []time.Duration
	charged  map[string]string // id and count of failures -> cause
}

func newWatcher(log *slog.Logger, f *fleet.Fleet, deaths func() []time.Time) *watcher {
	return &watcher{log: log, fleet: f, deaths: deaths, leases: map[string]time.Time{}, returned: map[string]time.Duration{}, charged: map[string]string{}}
}

// run looks until ctx ends.
func (w *watcher) run(ctx context.Context) error {
	for rest(ctx, lookEvery) == nil {
		list, err := w.fleet.Lanes.Leases(ctx, alias)
		now := time.Now()
		w.answered(now, err == nil)
		if err != nil {
			continue
		}
		w.see(now, list)
		for _, lane := range tasks.Lanes {
			failures, err := w.fleet.Lanes.Retrying(ctx, alias, lane, 1000)
			if err == nil {
				w.charge(failures)
			}
		}
	}
	return nil
}

// answered keeps the book of Redis's absences.
func (w *watcher) answered(now time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !ok && w.lost.IsZero():
		w.lost = now.Add(-lookEvery)
	case ok && !w.lost.IsZero():
		w.outages = append(w.outages, [2]time.Time{w.lost, now})
		w.lost = time.Time{}
	}
}

// see compares the leases with those of the look before. A lease that is not renewed for long and then gone is
// an orphan's that came back; if another worker has it then, it runs again, and otherwise does so when it is
// leased again. Whose it was is not known, so its time is counted from the first death of any worker after the
// last renewal: what is measured is what it took, or more. With kills further apart than renewals, which come
// every 2 s, it is what it took.
func (w *watcher) see(now time.Time, list []queue.Lease) {
	current := map[string]time.Time{}
	for _, l := range list {
		current[string(l.Lane)+"/"+l.ID] = l.Until
	}
	for key, until := range w.leases {
		again, there := current[key]
		sign := until.Add(-leaseTime)
		if there && again.Equal(until) || now.Sub(sign) < orphaned {
			continue
		}
		began := w.death(sign)
		took := now.Sub(began) - w.absence(began, now)
		if there {
			w.recovered(took)
		} else {
			w.returned[key] = took // perhaps it is done already
		}
	}
	for key := range current {
		if took, ok := w.returned[key]; ok {
			delete(w.returned, key)
			w.recovered(took)
		}
	}
	w.leases = current
}

// death returns the first one after a worker's last sign; the sign itself if there was none.
func (w *watcher) death(sign time.Time) time.Time {
	for _, at := range w.deaths() {
		if at.After(sign) {
			return at
		}
	}
	return sign
}

func (w *watcher) recovered(took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recovery = append(w.recovery, took)
}

// absence is how long of some time Redis was away.
func (w *watcher) absence(from, to time.Time) (sum time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.outages {
		begin, end := o[0], o[1]
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		sum += max(0, end.Sub(begin))
	}
	return sum
}

// charge takes down who was charged with a failure, and for what.
func (w *watcher) charge(failures []queue.Failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range failures {
		key := f.ID + "/" + time.Duration(f.Retried).String()
		if _, known := w.charged[key]; !known {
			w.log.Info("a text was charged with a failure", "task", f.ID, "cause", f.Cause)
		}
		w.charged[key] = f.Cause
	}
}

// times returns the median and the longest recovery, and of how many. The rest of those that returned were done
// before they could be seen to run.
func (w *watcher) times() (median, longest time.Duration, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.recovery)
	for _, took := range w.returned {
		all = append(all, took)
	}
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1], len(all)
}

// A toll says how many failures were charged, and for what.
type toll struct {
	redis    int    // it was away
	deadline int    // the machine was too slow for all that its workers had leased
	crash    int    // anything else: nothing but a crash is left
	example  string // of the latter
}

// burnt counts the failures charged to tasks apart from those named.
func (w *watcher) burnt(except map[string]bool) toll {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sum toll
	for key, cause := range w.charged {
		id, _, _ := strings.Cut(key, "/")
		switch {
		case except[id]:
		case ofRedis(cause):
			sum.redis++
		case strings.Contains(cause, "the model worked on it"), strings.Contains(cause, "the handler has lost it"):
			sum.deadline++
		default:
			sum.crash++
			sum.example = cause
		}
	}
	return sum
}

// ofRedis reports whether a cause is a connection's.
func ofRedis(cause string) bool {
	return slices.ContainsFunc([]string{
		"connection refused", "connection reset", "EOF", "broken pipe", "i/o timeout", "LOADING", "use of closed", "pool timeout",
	}, func(s string) bool { return strings.Contains(cause, s) })
}
