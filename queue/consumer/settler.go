package consumer

import (
	"context"
	_ "embed"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/coalesce"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed settle.lua
var settleLua string

const (
	// minDelay and maxDelay bound the back-off of a failed task.
	minDelay = 2 * time.Second
	maxDelay = 10 * time.Minute
	// overloadDelay is how long a task waits that found no room; it doubles at most by jitter, for the
	// lack of room is over in seconds.
	overloadDelay = time.Second
	// asideDelay is how long a task waits that only a newer worker understands.
	asideDelay = 30 * time.Second

	// commitTasks and commitDelay bound a group commit: the tasks of one script, during which Redis serves nobody else,
	// and how long it waits for company while there is much.
	commitTasks = 1024
	commitDelay = 30 * time.Millisecond
	// settleTimeout bounds a script, settleAgain is when one is repeated that failed.
	settleTimeout = 3 * time.Second
	settleAgain   = time.Second
	// countsKept is how long the count of a day is kept: as long as asynq's own scripts keep it.
	countsKept = 90 * 24 * time.Hour
)

// A decision is what becomes of a task: a word of settle.lua, and its arguments.
type decision struct {
	run    *run
	word   string
	args   []any
	failed chan error // of one; receives when the script has not run
}

// judge is the table from a handler's result to what becomes of the task. probe says that the result is one of the
// circuit breaker's probes.
//
//	result                         word      charged
//	done                           done      -        or keep, where the producer asked for that
//	permanent                      dead      -
//	retry, and tries are left      retry     yes      with back-off; not while the circuit breaker is open
//	retry, and none is left        dead      yes
//	overloaded                     retry     no       in a second or two
//	newer                          retry     no       in half a minute, for a newer worker
//	cancelled                      requeue   no       the worker stops
//	expired                        done      -        nobody waits for it
//	revoked                        revoke    -        it was cancelled
func (p *pool) judge(r *run, err error, probe bool) decision {
	outcome := tasks.Classify(err)
	if cause := context.Cause(r.ctx); err != nil && cause != nil {
		err, outcome = cause, tasks.Classify(cause)
	}
	own := p.breaker.record(r.task.ID, probe, outcome, err)
	m := r.message
	switch outcome {
	case tasks.Done, tasks.Expired:
		if m.Retention > 0 && outcome == tasks.Done {
			until := time.Now().Add(m.Retention).Unix()
			return decision{run: r, word: "keep", args: []any{m.UniqueKey, until, wire.Completed(r.raw, time.Now())}}
		}
		return decision{run: r, word: "done", args: []any{m.UniqueKey}}
	case tasks.Revoked:
		if r.cancelledByTool() {
			return decision{run: r, word: "done", args: []any{m.UniqueKey}}
		}
		return decision{run: r, word: "revoke"}
	case tasks.Cancelled:
		return decision{run: r, word: "requeue"}
	case tasks.Overloaded:
		return p.later(r, err, overloadDelay+rand.N(overloadDelay), false)
	case tasks.Newer:
		return p.later(r, err, asideDelay+rand.N(asideDelay), false)
	case tasks.Retry:
		if !own {
			return p.later(r, heldText(err), overloadDelay+rand.N(overloadDelay), false)
		}
		if m.Retried < m.Retry {
			return p.later(r, err, backOff(m.Retried), true)
		}
	}
	return p.dead(r, err)
}

// later has a task wait for another try. One that is not charged has as many tries left as before.
func (p *pool) later(r *run, err error, delay time.Duration, charged bool) decision {
	retried, failed := r.message.Retried, "0"
	if charged {
		retried, failed = retried+1, "1"
	}
	msg := wire.Failed(r.raw, retried, wire.Cause(err), time.Now())
	due := time.Now().Add(delay).Unix()
	return decision{run: r, word: "retry", args: []any{due, msg, failed, wire.Code(tasks.Code(err)), p.worker}}
}

// dead makes a dead letter of a task.
func (p *pool) dead(r *run, err error) decision {
	l := wire.Letter{Kind: r.task.Kind}
	l.Describe(r.task.Payload)
	code, attempts := wire.Code(tasks.Code(err)), r.message.Retried+1
	p.log.Warn("task is dead", "task", r.task.ID, "lane", string(r.task.Lane), "code", code, "attempts", attempts)
	return decision{run: r, word: "dead", args: []any{
		r.message.UniqueKey, code, p.worker, wire.Cause(err), attempts, string(r.task.Kind), l.Document, l.Source,
	}}
}

// backOff doubles from failure to failure and lies in the upper half of its bound, so that tasks that
// failed together do not come back together: 2 to 4 s, 4 to 8 s ... 5 to 10 min.
func backOff(n int) time.Duration {
	bound := maxDelay
	if n < 8 { // 2 x minDelay x 2^8 is beyond maxDelay
		bound = min(maxDelay, 2*minDelay<<max(0, n))
	}
	return bound/2 + rand.N(bound/2)
}

// A settler carries decisions out: those of a moment together, each lane's as one script.
type settler struct {
	log    *slog.Logger
	rdb    redis.UniversalClient
	script wire.Script
	commit *coalesce.Group[decision]
	done   func([]*run) // whose decisions have been carried out, or are not this consumer's to carry out

	open sync.WaitGroup  // decisions under way
	quit context.Context //nolint:containedctx // ends when nothing is repeated any more
	stop context.CancelFunc
}

func newSettler(log *slog.Logger, rdb redis.UniversalClient, done func([]*run)) *settler {
	s := &settler{log: log, rdb: rdb, script: wire.NewScript(wire.LettersLua + settleLua), done: done}
	s.quit, s.stop = context.WithCancel(context.Background())
	s.commit = coalesce.New(commitTasks, coalesce.Patience{Linger: commitDelay}, s.carryOut)
	return s
}

// settle carries decisions out. Nobody waits for it. What fails is repeated until Redis has answered: the script does
// nothing for a task that is not the holder's any more, so it may be sent any number of times.
func (s *settler) settle(list []decision) {
	if len(list) == 0 {
		return
	}
	s.open.Go(func() {
		for {
			for i := range list {
				list[i].failed = make(chan error, 1)
			}
			s.commit.DoAll(s.quit, list)
			var left []decision
			var err error
			for _, d := range list {
				if failure := <-d.failed; failure != nil {
					left, err = append(left, d), failure
				}
			}
			if list = left; len(list) == 0 {
				return
			}
			s.log.Warn("settling tasks failed, it is tried again", "tasks", len(list), "err", err)
			if wire.Pause(s.quit, settleAgain); s.quit.Err() != nil {
				return
			}
		}
	})
}

// carryOut runs the script for decisions that came at the same time.
func (s *settler) carryOut(_ context.Context, list []decision) {
	byLane := map[*lane][]decision{}
	for _, d := range list {
		byLane[d.run.batch.lane] = append(byLane[d.run.batch.lane], d)
	}
	for lane, some := range byLane {
		err := s.runScript(lane, some)
		for _, d := range some {
			d.failed <- err
		}
	}
}

func (s *settler) runScript(l *lane, list []decision) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.quit), settleTimeout)
	defer cancel()
	k, now := l.keys, time.Now()
	today := ":" + now.UTC().Format(time.DateOnly)
	keys := []string{
		k.Active(), k.Lease(), k.Pending(), k.Retry(), k.Completed(), k.Processed(), k.Processed() + today,
		k.Failed(), k.Failed() + today, k.Dead(), k.Causes(), k.Cancelled(),
	}
	args := []any{now.UnixMilli(), now.Add(countsKept).Unix(), k.Tasks(), k.Letters()}
	for _, d := range list {
		args = append(append(args, d.run.task.ID, d.run.batch.holder, d.word), d.args...)
	}
	answers, err := s.script.Run(ctx, s.rdb, keys, args...).Int64Slice()
	if err != nil {
		return err
	}
	runs, lost := make([]*run, len(list)), 0
	for i, d := range list {
		runs[i] = d.run
		if i < len(answers) && answers[i] == 0 {
			lost++
		}
	}
	s.done(runs)
	if lost > 0 {
		s.log.Debug("settled tasks that were not in hand any more", "lane", string(l.name), "tasks", lost)
	}
	return nil
}

// wait waits until ctx ends for decisions under way, and then for nothing.
func (s *settler) wait(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()
	s.open.Wait()
	s.stop()
}
