package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"
)

// A Tick is one run of a job.
type Tick struct {
	Schedule
	Slot  time.Time // its beginning
	Now   time.Time // the board's time when the run began
	Since time.Time // the beginning of the last slot that succeeded, zero if none did
}

// From returns how far back the run must look: its window, or further after a gap.
func (t Tick) From() time.Time {
	from := t.Now.Add(-t.Window)
	if !t.Since.IsZero() && t.Since.Before(from) {
		return t.Since
	}
	return from
}

// A Job is work that is done once per slot. Do may be run again for a slot after a crash or a failure, so
// it must leave the same state when repeated. An error that wraps a [*PauseError] pauses the source.
type Job struct {
	Schedule
	Timeout time.Duration // of one run
	// Version changes when what Do does changes, for [Scheduler.Replace].
	Version string
	Do      func(ctx context.Context, t Tick) (Report, error)
}

// An Observer is told how runs end.
type Observer interface {
	// Ran is called after each run; outcome is "done", "failed", "paused" or "released".
	Ran(job, outcome string, r Report, took time.Duration)
	// Skipped is called for a slot that this replica did not run and nobody else did to its knowledge;
	// why is "slow", "unreachable" or "exhausted".
	Skipped(job, why string)
}

// Options may be nil.
type Options struct {
	Logger   *slog.Logger
	Observer Observer
}

// A Scheduler runs jobs at their slots. Any number of them may share a board.
type Scheduler struct {
	log   *slog.Logger
	board Board
	clock *clock
	seen  Observer

	mu      sync.Mutex
	jobs    []job
	changed chan struct{} // holds one when jobs were replaced
}

type job struct {
	Job
	table timetable
}

// New returns a scheduler; nothing happens before Run.
func New(board Board, jobs []Job, opts *Options) (*Scheduler, error) {
	s := &Scheduler{log: slog.New(slog.DiscardHandler), board: board, clock: newClock(), seen: nobody{}, changed: make(chan struct{}, 1)}
	if opts != nil && opts.Logger != nil {
		s.log = opts.Logger
	}
	if opts != nil && opts.Observer != nil {
		s.seen = opts.Observer
	}
	if err := s.Replace(jobs); err != nil {
		return nil, err
	}
	return s, nil
}

// Replace makes jobs the ones that are run. A job that is there before and after with one schedule and version goes on
// undisturbed; a run of any other is given back, as when a process stops. With an error nothing is replaced.
func (s *Scheduler) Replace(jobs []Job) error {
	list, names := []job{}, map[string]bool{}
	for _, j := range jobs {
		table, err := j.timetable()
		if err != nil {
			return err
		}
		if names[j.Job] || j.Do == nil || j.Timeout <= 0 {
			return fmt.Errorf("job %s: want one of the name, with something to do and a timeout", j.Job)
		}
		names[j.Job] = true
		list = append(list, job{j, table})
	}
	s.mu.Lock()
	s.jobs = list
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default: // it was not seen yet that they were replaced before
	}
	return nil
}

func (s *Scheduler) current() []job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs
}

// A follower is a job that is being run.
type follower struct {
	job
	stop context.CancelFunc
	done chan struct{}
}

// Run runs every job's slots until ctx ends, then gives back what is under way and returns nil.
func (s *Scheduler) Run(ctx context.Context) error {
	running := map[string]follower{}
	s.settle(ctx, running)
	for {
		select {
		case <-ctx.Done():
			for _, f := range running {
				f.stop()
				<-f.done
			}
			return nil
		case <-s.changed:
			s.settle(ctx, running)
		}
	}
}

// settle ends the followers of jobs that are not wanted as they are, and begins those that are missing.
func (s *Scheduler) settle(ctx context.Context, running map[string]follower) {
	wanted := map[string]job{}
	for _, j := range s.current() {
		wanted[j.Job.Job] = j
	}
	for name, f := range running {
		if w, ok := wanted[name]; !ok || w.Version != f.Version || !reflect.DeepEqual(w.Schedule, f.Schedule) {
			f.stop()
			<-f.done
			delete(running, name)
		}
	}
	for name, j := range wanted {
		if _, ok := running[name]; ok {
			continue
		}
		inside, stop := context.WithCancel(ctx)
		f := follower{job: j, stop: stop, done: make(chan struct{})}
		running[name] = f
		go func() {
			defer close(f.done)
			s.follow(inside, j)
		}()
	}
}

// follow runs one job's slots.
func (s *Scheduler) follow(ctx context.Context, j job) {
	var handled time.Time
	for ctx.Err() == nil {
		now := s.clock.now()
		begin, end := j.table.current(now)
		if begin.IsZero() || begin.Equal(handled) {
			sleep(ctx, end.Sub(now))
			continue
		}
		if s.tick(ctx, j, begin, end) {
			handled = begin
		}
	}
}

// sleep returns after d, or earlier if ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(d, time.Millisecond)) // a clock that is a hair early must not spin
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
