package consumer

import (
	"context"
	_ "embed"
	"slices"
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
		still := p.still()
		for _, b := range p.batches() {
			p.end(b, still)
			byLane[b.lane] = append(byLane[b.lane], b.all()...)
		}
		for l, runs := range byLane {
			// In parts: a script can't hand any number of leases to a command, and Redis serves nobody else meanwhile.
			for part := range slices.Chunk(runs, commitTasks) {
				p.renew(ctx, script, l, part)
			}
		}
	}
}

// forgotten reports whether no native call has had anything of a task for longer than it could have to wait for all
// that the pool has in hand.
func (p *pool) forgotten(r *run) bool {
	return r.clock.idle() > r.clock.bound+overtaken*p.limiter.ahead
}

// still reports whether all of the pool's tasks are forgotten: nothing happens any more.
func (p *pool) still() bool {
	for _, b := range p.batches() {
		for _, r := range b.unreported() {
			if !p.forgotten(r) {
				return false
			}
		}
	}
	return true
}

// end ends tasks of a batch that the handler has lost, or keeps for too long after their deadline. It has lost a task
// that is forgotten while others that were leased later are done, or while nothing happens.
func (p *pool) end(b *batch, still bool) {
	p.mu.Lock()
	newest := p.newest
	p.mu.Unlock()
	var late []decision
	left := b.unreported()
	deaf := 0
	for _, r := range left {
		if p.forgotten(r) && (still || newest.After(r.leased)) {
			r.cancel(deadlineError{r.clock.bound, true}) // first: a context has the cause that came first
			r.clock.end()
		}
		if r.clock.overdue() >= overdueGrace && r.decide() {
			late = append(late, p.judge(r, context.Cause(r.ctx), b.probe))
		}
		if r.clock.overdue() >= overdueGrace {
			deaf++
		}
	}
	p.settler.settle(late)
	if deaf > 0 && deaf == len(left) { // nobody waits for a handler that may never come back
		b.free()
	}
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
