package scheduler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"runtime/debug"
	"time"
)

const (
	// A claim or a run that failed is tried again after the first pause, then after twice that, up to the
	// longest; each pause is varied by a quarter, so that replicas do not keep step.
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// A run of an earlier slot whose lease is still renewed after that long is slow, not dead.
	patience = LeaseTime + 5*time.Second
	// A result that the board does not take is offered this often.
	finishTries = 5
)

// tick does what there is to do about one slot: runs it, waits until another replica has, or gives it up at
// its end. It reports false if by the board's clock the slot is not the current one.
func (s *Scheduler) tick(ctx context.Context, j job, begin, end time.Time) bool {
	log := s.log.With("slot", SlotName(j.Job.Job, begin))
	var blocked time.Duration // by a run of an earlier slot
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		wait := vary(pause)
		g, err := s.board.Claim(ctx, Claim{Job: j.Job.Job, Source: j.Source, Begin: begin, End: end, Token: rand.Text()})
		s.clock.follow(g.Now)
		switch {
		case err != nil:
			log.Warn("claiming a slot failed", "err", err, "again_in", wait)
		case g.Answer == Elsewhen:
			return false
		case g.Answer == Granted:
			if s.run(ctx, j, g) {
				return true
			}
		case g.Answer == Busy && g.Same:
			wait = g.Left + time.Second // it ends by then, or says that it lives
		case g.Answer == Busy:
			if blocked >= patience {
				log.Warn("slot is skipped, the run before it is slow")
				s.seen.Skipped(j.Job.Job, "slow")
				return true
			}
			wait = g.Left + time.Second
			blocked += wait
		case g.Answer == Exhausted:
			log.Error("slot is given up, it failed too often", "attempts", MaxAttempts)
			s.seen.Skipped(j.Job.Job, "exhausted")
			return true
		default:
			log.Debug("slot needs nothing", "answer", string(g.Answer), "why", g.Why)
			return true
		}
		if s.clock.now().Add(wait).After(end) {
			if err != nil {
				log.Error("slot is missed, the board could not be reached", "err", err)
				s.seen.Skipped(j.Job.Job, "unreachable")
			}
			return true
		}
		sleep(ctx, wait)
	}
	return true
}

func vary(d time.Duration) time.Duration {
	return d - d/4 + mathrand.N(d/2+1)
}

// run does a granted slot and reports whether that was all there is to do about it.
func (s *Scheduler) run(ctx context.Context, j job, g Grant) bool {
	log := s.log.With("slot", SlotName(g.Job, g.Begin), "attempt", g.Attempt)
	began := time.Now()
	result := s.do(ctx, j, g)
	outcome := result.outcome()
	took := time.Since(began)
	if err := s.finish(ctx, g, result); err != nil {
		log.Warn("telling how a slot ended failed, it may be run again", "outcome", outcome, "err", err)
	}
	s.seen.Ran(g.Job, outcome, result.Report, took)
	log = log.With("dur", took, "requests", result.Report.Requests, "items", result.Report.Items, "new", result.Report.New)
	switch outcome {
	case "done":
		log.Info("slot done")
	case "paused":
		log.Error("source is paused", "source", g.Source, "err", result.Err)
	case "released":
		log.Info("slot given back, this process stops")
	default:
		log.Warn("slot failed", "err", result.Err)
	}
	return outcome != "failed"
}

func (r Result) outcome() string {
	switch {
	case r.Released:
		return "released"
	case r.Pause != nil:
		return "paused"
	case r.Err != nil:
		return "failed"
	default:
		return "done"
	}
}

// do runs the job while the lease is kept.
func (s *Scheduler) do(ctx context.Context, j job, g Grant) Result {
	inside, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	inside, stop := context.WithTimeout(inside, j.Timeout)
	defer stop()
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		s.keep(inside, g, cancel)
	}()
	report, err := safely(inside, j, Tick{Schedule: j.Schedule, Slot: g.Begin, Now: g.Now, Since: g.Since})
	if cause := context.Cause(inside); err != nil && cause != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	cancel(nil)
	<-kept
	r := Result{Report: report, Err: err, Released: err != nil && ctx.Err() != nil}
	_ = errors.As(err, &r.Pause) // stays nil if it is none
	return r
}

// safely turns a panic into an error: one source's bug must not stop the others' clocks.
func safely(ctx context.Context, j job, t Tick) (r Report, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("job panicked: %v\n%s", v, debug.Stack())
		}
	}()
	return j.Do(ctx, t)
}

// keep renews the lease until ctx ends. It cancels the run if the lease is lost, or may be: whoever claims
// the slot then must not find this one still at work.
func (s *Scheduler) keep(ctx context.Context, g Grant, cancel context.CancelCauseFunc) {
	renewed := time.Now()
	for {
		sleep(ctx, renewTime)
		if ctx.Err() != nil {
			return
		}
		before := time.Now()
		err := s.board.Renew(ctx, g)
		switch {
		case err == nil:
			renewed = before
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrLost):
			cancel(err)
			return
		case time.Since(renewed) > LeaseTime-renewTime:
			cancel(fmt.Errorf("renewing the slot's lease: %w", err))
			return
		}
	}
}

// finish tells the board, also when the process stops, for a moment longer.
func (s *Scheduler) finish(ctx context.Context, g Grant, r Result) (err error) {
	stopping := ctx.Err() != nil
	ctx = context.WithoutCancel(ctx)
	for range finishTries {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err = s.board.Finish(try, g, r)
		cancel()
		if err == nil || errors.Is(err, ErrLost) || stopping {
			return err
		}
		sleep(ctx, firstPause)
	}
	return err
}

// RunNow claims and runs one slot by hand, whatever the time and whether it was done before. It refuses if
// a run of the job is under way.
func (s *Scheduler) RunNow(ctx context.Context, name string, at time.Time) (Report, error) {
	for _, j := range s.current() {
		if j.Job.Job != name {
			continue
		}
		begin, end := j.table.current(at)
		if begin.IsZero() {
			return Report{}, fmt.Errorf("job %s has no slot at %s", name, at.Format(time.RFC3339))
		}
		g, err := s.board.Claim(ctx, Claim{Job: name, Source: j.Source, Begin: begin, End: end, Token: rand.Text(), ByHand: true})
		if err != nil {
			return Report{}, fmt.Errorf("claiming slot %s: %w", SlotName(name, begin), err)
		}
		if g.Answer != Granted {
			return Report{}, fmt.Errorf("slot %s: a run of the job is under way, try again in %v", SlotName(name, begin), g.Left.Round(time.Second))
		}
		if at.Before(g.Now) { // the window is the slot's, not today's
			g.Now = at
		}
		r := s.do(ctx, j, g)
		if err := s.finish(ctx, g, r); err != nil && r.Err == nil {
			return r.Report, fmt.Errorf("telling how slot %s ended: %w", SlotName(name, begin), err)
		}
		s.seen.Ran(name, r.outcome(), r.Report, 0)
		return r.Report, r.Err
	}
	return Report{}, fmt.Errorf("there is no job %q", name)
}

// nobody is told.
type nobody struct{}

func (nobody) Ran(string, string, Report, time.Duration) {}
func (nobody) Skipped(string, string)                    {}
