package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// A batch is tasks that were leased together and are handed to the handler together.
type batch struct {
	lane   *lane
	holder string
	probe  bool            // of the circuit breaker
	ctx    context.Context //nolint:containedctx // of the handler's call
	cancel context.CancelCauseFunc
	free   func() // lets who is to run alone pass; any number of times

	mu       sync.Mutex
	runs     map[*run]struct{} // whose leases are to be renewed
	inside   map[*run]struct{} // that the handler has not reported
	returned bool              // the handler has
}

// execute hands a batch to the handler, and returns when the handler has returned. One that is to run alone waits until
// the others have nothing in hand.
func (p *pool) execute(b *batch, runs []*run) {
	defer b.free()
	defer b.cancel(nil)
	defer b.end()
	for _, other := range p.others {
		_ = other.Acquire(context.Background(), everything) // never fails: its context does not end
		defer other.Release(everything)
	}
	var items []tasks.Item
	var handed []*run
	for _, r := range runs {
		if err := screen(r); err != nil {
			p.report(r, err)
			continue
		}
		items, handed = append(items, tasks.Item{Ctx: r.ctx, Task: r.task}), append(handed, r)
	}
	if len(items) > 0 {
		p.handle(b.ctx, items, handed)
	}
	for _, r := range handed { // the handler's contract broken
		p.report(r, tasks.AsPermanent(errors.New("the handler returned without saying what became of the task")))
	}
}

// begin takes in hand what was leased: from now on its leases are renewed. The batch has one of the pool's weight.
func (p *pool) begin(l *lane, got lease, probe bool) (*batch, []*run) {
	b := &batch{lane: l, holder: got.holder, probe: probe, runs: map[*run]struct{}{}, inside: map[*run]struct{}{}}
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	b.free = sync.OnceFunc(func() { p.alone.Release(1) })
	runs := make([]*run, len(got.tasks))
	rate, _ := p.limiter.rate.perSecond()
	for i, t := range got.tasks {
		r := &run{raw: t.message, work: t.work, leased: got.at, place: i, batch: b}
		m, err := wire.ParseMessage([]byte(t.message))
		if err != nil || m.ID != t.id {
			// Whoever waits for a query is told even so; of a document a dead letter tells.
			m = &wire.Message{ID: t.id, Other: true}
			if b.lane.name == tasks.Query {
				m.Type = string(tasks.EmbedQuery)
			}
		}
		r.message = m
		r.task = tasks.Task{
			ID: t.id, Kind: tasks.Kind(m.Type), Model: b.lane.model, Lane: b.lane.name, Payload: m.Payload,
			Timeout: m.Timeout, Expires: m.Expires, Trace: m.Trace,
		}
		own, cancel := context.WithCancelCause(context.WithValue(b.ctx, runKey{}, r))
		r.ctx, r.cancel = own, cancel
		r.clock.bound, r.clock.seen = bound(m.Timeout, t.work, rate, p.deadline), got.at
		r.clock.expire = func() { cancel(deadlineError{after: r.clock.bound}) }
		runs[i] = r
		b.runs[r], b.inside[r] = struct{}{}, struct{}{}
		p.limiter.take(r.work)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[b] = struct{}{}
	return b, runs
}

// screen returns what becomes of a task that is not for the handler.
func screen(r *run) error {
	switch {
	case !r.task.Expires.IsZero() && time.Now().After(r.task.Expires): // of a producer that does not use our client
		return expiredError{}
	case r.task.Kind == "":
		return tasks.AsPermanent(fmt.Errorf("its message of %d bytes can't be read", len(r.raw)))
	}
	return nil
}

// handle calls the handler, which reports each task when it knows what became of it.
func (p *pool) handle(ctx context.Context, items []tasks.Item, runs []*run) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("handler panicked", "tasks", len(items), "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			for _, r := range runs {
				p.report(r, tasks.AsPermanent(fmt.Errorf("handler panicked: %v", v)))
			}
		}
	}()
	p.handler.HandleBatch(ctx, items, func(results []tasks.Result) {
		some := make([]*run, len(results))
		errs := make([]error, len(results))
		for i, res := range results {
			some[i], errs[i] = runs[res.Index], res.Err
		}
		p.reportAll(some, errs)
	})
}

func (p *pool) report(r *run, err error) { p.reportAll([]*run{r}, []error{err}) }

// reportAll decides what becomes of tasks whose results are known, unless that was decided before. Their places are
// free: a task holds its place until the handler has reported it, whatever was decided meanwhile (T4).
func (p *pool) reportAll(runs []*run, errs []error) {
	var list []decision
	for i, r := range runs {
		first := r.decide()
		if errs[i] == nil {
			p.overtake(r)
		}
		if r.batch.left(r) {
			p.limiter.put(r.work, first && errs[i] == nil)
		}
		if first {
			list = append(list, p.judge(r, errs[i], r.batch.probe))
			r.cancel(nil)
		}
	}
	p.settler.settle(list)
}

// overtake takes note of when the newest task was leased that is done.
func (p *pool) overtake(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.leased.After(p.newest) {
		p.newest = r.leased
	}
}

// giveBack returns tasks that the handler has not reported to the head of their lane, uncharged. Their contexts end;
// handlers may still be inside.
func (p *pool) giveBack() {
	var list []decision
	for _, b := range p.batches() {
		for _, r := range b.all() {
			if !r.decide() {
				continue
			}
			p.giveUp(r, errGivenBack)
			list = append(list, decision{run: r, word: "requeue"})
		}
	}
	// The first leased goes last, and so is at the head in the end.
	slices.SortFunc(list, func(a, b decision) int {
		return cmp.Or(b.run.leased.Compare(a.run.leased), b.run.place-a.run.place)
	})
	p.settler.settle(list)
}

// giveUp ends a task without a result. Its handler may still be inside.
func (p *pool) giveUp(r *run, cause error) {
	p.breaker.cancel(r.batch.probe)
	r.cancel(cause)
}

// all returns the runs whose leases are to be renewed.
func (b *batch) all() []*run {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.runs))
}

// unreported returns the runs that the handler has not reported.
func (b *batch) unreported() []*run {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.inside))
}

// left takes note that the handler has reported a run, and reports whether it had not.
func (b *batch) left(r *run) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, inside := b.inside[r]
	delete(b.inside, r)
	return inside
}

// settled takes runs out of their batches: their decisions have been carried out, or they are lost.
func settled(runs []*run) {
	for _, r := range runs {
		b := r.batch
		b.mu.Lock()
		delete(b.runs, r)
		b.mu.Unlock()
	}
}

// end notes that the handler has returned.
func (b *batch) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.returned = true
}

// over reports whether nothing of the batch is in hand any more.
func (b *batch) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.returned && len(b.runs) == 0
}
