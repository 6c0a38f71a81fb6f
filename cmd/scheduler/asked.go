package main

import (
	"context"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler"
)

// hearEvery is how often the scheduler looks whether somebody asked for a slot on the fleet's page.
const hearEvery = 2 * time.Second

// hear runs slots that operators ask for, until ctx ends. run starts one beside the others.
func (s *server) hear(ctx context.Context, clock *scheduler.Scheduler, run func(func() error)) error {
	ticker := time.NewTicker(hearEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, j := range s.jobs {
			by, ok, err := s.ledger.Asked(ctx, j.Source, j.Job)
			if err != nil {
				break // Redis is away; look says so
			}
			if ok {
				run(func() error { s.obey(ctx, clock, j, by); return nil })
			}
		}
	}
}

// obey runs one slot and tells the fleet what came of it.
func (s *server) obey(ctx context.Context, clock *scheduler.Scheduler, j scheduler.Job, by string) {
	report, err := clock.RunNow(ctx, j.Job, time.Now())
	e := registry.Event{What: "slot run by hand", Who: by, About: j.Job, Text: fmt.Sprintf("%d new of %d items, %d requests", report.New, report.Items, report.Requests)}
	if err != nil {
		e.What, e.Text = "slot by hand failed", err.Error()
		s.log.Warn("a slot that an operator asked for failed", "job", j.Job, "user", by, "err", err)
	} else {
		s.log.Info("a slot that an operator asked for is done", "job", j.Job, "user", by, "new", report.New)
	}
	if err := registry.NewEvents(s.rdb).Append(ctx, e); err != nil {
		s.log.Warn("noting a slot that an operator asked for failed", "job", j.Job, "err", err)
	}
}
