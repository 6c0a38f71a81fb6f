package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/queue/upkeep"
)

// run is the whole play: start, storm, calm, report. Everything that was started has ended when it returns.
func (p plan) run(ctx context.Context, log *slog.Logger, out io.Writer) (r *report, err error) {
	boot.RedisLog(log)
	dir, err := os.MkdirTemp("", "embedfleet-chaos-")
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	s, err := p.open(ctx, log, dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = s.root.Close()
		if err == nil && !r.broken() {
			_ = os.RemoveAll(dir) // nobody needs it
			return
		}
		fmt.Fprintf(out, "logs and Redis's file are in %s; seed %d\n", dir, p.seed)
	}()
	stopping, stop := context.WithCancel(ctx)
	group, inner := errgroup.WithContext(stopping)
	group.Go(func() error { return s.run(inner) })
	group.Go(func() (err error) {
		defer stop()
		r, err = s.play(inner, out)
		return err
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return r, err
}

// play is what happens on a stage that runs.
func (s *stage) play(ctx context.Context, out io.Writer) (*report, error) {
	f, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := s.awaitReady(ctx, f); err != nil {
		return nil, err
	}
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	say("%d workers serve; %v of storm: a worker dies every %v, Redis %d times", len(s.workers), s.storm, s.killEvery, s.redisKills)
	producer, err := newProducer(s.log, f, s.texts)
	if err != nil {
		return nil, err
	}
	watch := newWatcher(s.log, f, s.deaths)
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	var group errgroup.Group
	group.Go(func() error { return watch.run(watching) })
	begun := time.Now()
	err = s.storming(ctx, producer)
	if err == nil {
		say("calm after %v; waiting for what is left, half a minute for each of the killer's crashes", time.Since(begun).Round(time.Second))
		err = s.settle(ctx, f)
	}
	unwatch()
	if err := errors.Join(err, group.Wait()); err != nil {
		return nil, err
	}
	return s.report(ctx, f, producer, watch, time.Since(begun))
}

// awaitReady returns when every worker serves.
func (s *stage) awaitReady(ctx context.Context, f *fleet.Fleet) error {
	for {
		list, err := f.Workers.List(ctx)
		if err != nil {
			return err
		}
		ready := 0
		for _, w := range list {
			if w.Serving() {
				ready++
			}
		}
		if ready >= len(s.workers) {
			return nil
		}
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// storming hands the texts in, and kills meanwhile.
func (s *stage) storming(ctx context.Context, p *producer) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.send(ctx, s.storm/3) })
	group.Go(func() error { return s.trap(ctx) })
	group.Go(func() error { return s.killWorkers(ctx) })
	group.Go(func() error { return s.killRedis(ctx, p) })
	return group.Wait()
}

func (s *stage) killWorkers(ctx context.Context) error {
	random := rand.New(rand.NewPCG(s.seed, 0))
	for end := time.Now().Add(s.storm); time.Now().Before(end); {
		if err := rest(ctx, s.killEvery); err != nil {
			return err
		}
		for _, i := range random.Perm(len(s.workers)) { // one that is about to start again can't die
			if s.workers[i].kill() {
				s.log.Info("killed", "who", s.workers[i].name)
				break
			}
		}
	}
	return nil
}

// killRedis kills it at even distances. Its supervisor brings it back, and the producer looks after its texts.
func (s *stage) killRedis(ctx context.Context, p *producer) error {
	for range s.redisKills {
		if err := rest(ctx, s.storm/time.Duration(s.redisKills+1)); err != nil {
			return err
		}
		died := time.Now()
		if !s.redis.kill() {
			return errors.New("killing Redis: it did not run")
		}
		s.log.Info("killed", "who", s.redis.name)
		if err := rest(ctx, outage); err != nil {
			return err
		}
		if err := p.check(ctx, died); err != nil {
			return err
		}
	}
	return nil
}

// settle returns when nothing waits, runs or is to be retried, and every dead text has its letter, twice in a
// row: a text that goes to quarantine is in both lanes for a moment, never in none.
func (s *stage) settle(ctx context.Context, f *fleet.Fleet) error {
	for quiet := 0; quiet < 2; {
		var open int64
		err := persist(ctx, func() (err error) { open, err = openTasks(ctx, f); return err })
		if err != nil {
			return err
		}
		quiet++
		if open > 0 {
			quiet = 0
		}
		if err := rest(ctx, 250*time.Millisecond); err != nil {
			return fmt.Errorf("%d texts are open: %w", open, err)
		}
	}
	return nil
}

// openTasks counts the tasks that have not come to an end.
func openTasks(ctx context.Context, f *fleet.Fleet) (int64, error) {
	lanes, err := f.Lanes.Status(ctx, alias)
	if err != nil {
		return 0, err
	}
	var open, dead int64
	for _, l := range lanes {
		open += l.Pending + l.Active + l.Scheduled + l.Retry
		dead += l.Dead
	}
	letters, err := f.Dead.List(ctx, alias, upkeep.DeadFilter{}, int(dead))
	return open + dead - int64(len(letters)), err // what asynq archived gets its letter soon
}
