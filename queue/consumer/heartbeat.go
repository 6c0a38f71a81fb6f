package consumer

import (
	"context"
	"os"
	"time"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
)

// beatEvery is how often asynq's own servers beat.
const beatEvery = 5 * time.Second

// heartbeat writes what asynq's tools read of a server, as one of asynq's would, until ctx ends: that it is there, and
// what it has in hand. Payloads stay away (T23); the tools find them with the task.
func (c *Consumer) heartbeat(ctx context.Context) {
	host, _ := os.Hostname() // a name for people; none is fine
	s := wire.Server{Host: host, PID: os.Getpid(), ID: c.id, Started: c.began, Queues: map[string]int{}}
	for _, p := range c.pools {
		for i, l := range p.lanes {
			s.Queues[l.keys.Queue()] = len(p.lanes) - i
		}
	}
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		s.Concurrency, s.Tasks = 0, nil
		for _, p := range c.pools {
			s.Concurrency += p.limiter.bound()
			s.Tasks = append(s.Tasks, p.serverTasks()...)
		}
		if err := wire.Beat(ctx, c.rdb, s); err != nil && ctx.Err() == nil {
			c.log.Debug("the heartbeat for asynq's tools failed", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := wire.Gone(last, c.rdb, s); err != nil {
		c.log.Debug("taking the heartbeat away failed, it lapses", "err", err)
	}
}

// serverTasks is what the pool has in hand, as asynq's tools show it.
func (p *pool) serverTasks() []wire.ServerTask {
	var list []wire.ServerTask
	for _, b := range p.batches() {
		for _, r := range b.all() {
			if r.undecided() {
				list = append(list, wire.ServerTask{
					ID: r.task.ID, Type: string(r.task.Kind), Queue: b.lane.keys.Queue(),
					Started: r.leased, Deadline: r.leased.Add(p.limiter.ahead + r.clock.bound),
				})
			}
		}
	}
	return list
}
