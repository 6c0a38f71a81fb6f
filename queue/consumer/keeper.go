package consumer

import (
	"context"
	_ "embed"
	"time"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
)

//go:embed renew.lua
var renewLua string

// keep renews the leases of what the pool has in hand, until ctx ends.
func (p *pool) keep(ctx context.Context) {
	script := wire.NewScript(renewLua)
	ticker := time.NewTicker(p.lanes[0].life.renew)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		byLane := map[*lane][]*run{}
		for _, b := range p.batches() {
			p.end(b)
			byLane[b.lane] = append(byLane[b.lane], b.all()...)
		}
		for l, runs := range byLane {
			p.renew(ctx, script, l, runs)
		}
	}
}

// end ends tasks of a batch that the handler has lost, or keeps for too long after their deadline.
func (p *pool) end(b *batch) {
	p.mu.Lock()
	newest := p.newest
	p.mu.Unlock()
	var late []decision
	for _, r := range b.unreported() {
		if newest.After(r.leased) && r.clock.idle() > r.clock.bound+overtaken*p.limiter.ahead {
			r.clock.end()
		}
		if r.clock.overdue() >= overdueGrace && r.decide() {
			late = append(late, p.judge(r, deadlineError{r.clock.bound}, b.probe))
		}
	}
	p.settler.settle(late)
}

// renew renews leases of one lane. Whoever is lost is given up: the task may be another worker's.
func (p *pool) renew(ctx context.Context, script wire.Script, l *lane, runs []*run) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	args := []any{l.life.lasts.Seconds(), l.keys.Tasks()}
	for _, r := range runs {
		args = append(args, r.task.ID, r.batch.holder)
	}
	lost, err := script.Run(ctx, p.rdb, []string{l.keys.Active(), l.keys.Lease()}, args...).Int64Slice()
	if err != nil {
		if ctx.Err() == nil {
			p.log.Warn("renewing leases failed", "tasks", len(runs), "err", err)
		}
		return
	}
	var gone []*run
	for _, n := range lost {
		r := runs[n-1]
		gone = append(gone, r)
		if r.decide() { // else it has just been settled
			p.giveUp(r, errLeaseLost)
			p.log.Warn("lost the lease of a task", "task", r.task.ID, "lane", string(l.name))
		}
	}
	settled(gone)
}
