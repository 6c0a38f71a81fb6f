package embedder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// errAbandoned ends a call or a batch that nobody waits for any more.
var errAbandoned = errors.New("every caller has left")

// A batch is rows inside the model. Its fields are guarded by the engine's lock.
type batch struct {
	entries []*entry
	live    int // rows whose caller still waits
	cancel  context.CancelCauseFunc
}

// A choice is what a runner runs next. It needs the engine's lock. Without rows there is nothing for this
// runner until something arrives, or until wait has passed if that isn't 0.
type choice func() (rows []*entry, wait time.Duration)

// anything is the choice of a common runner.
func (e *Engine) anything() ([]*entry, time.Duration) {
	if wait := e.pending.lingering(time.Now(), e.opts.Linger); wait > 0 {
		return nil, wait
	}
	return e.pending.next(), 0
}

// onlyQueries is the choice of a runner that is kept free for those who wait at a screen.
func (e *Engine) onlyQueries() ([]*entry, time.Duration) { return e.pending.take(queries), 0 }

// drop takes a row out of the batch: it is answered, or its caller has left.
func (b *batch) drop(en *entry) {
	if en.batch == b {
		en.batch = nil
		b.live--
	}
}

// callers returns the contexts of those whose texts the rows are, each once.
func callers(entries []*entry) []context.Context {
	seen := make(map[*call]bool, len(entries))
	var list []context.Context
	for _, en := range entries {
		if !seen[en.call] {
			seen[en.call] = true
			list = append(list, en.call.caller)
		}
	}
	return list
}

// run is a runner: it takes one batch after another until ctx ends.
func (e *Engine) run(ctx context.Context, next choice) {
	for {
		batchCtx, cancel := context.WithCancelCause(ctx)
		b := e.take(ctx, next, cancel)
		if b == nil {
			cancel(nil)
			return
		}
		e.runBatch(batchCtx, b)
		cancel(nil)
	}
}

// take waits for a batch; nil means that the engine closes. When it closes, the first runner to notice
// refuses what still waits, so that no caller hangs.
func (e *Engine) take(ctx context.Context, next choice, cancel context.CancelCauseFunc) *batch {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ctx.Err() == nil {
		rows, wait := next()
		switch {
		case rows != nil:
			return e.startLocked(rows, cancel)
		case wait > 0:
			e.waitLocked(wait)
		default:
			e.wake.Wait()
		}
	}
	e.pending.refuse(context.Cause(ctx))
	return nil
}

// startLocked makes a batch of rows that leave the pending set.
func (e *Engine) startLocked(rows []*entry, cancel context.CancelCauseFunc) *batch {
	b := &batch{entries: rows, live: len(rows), cancel: cancel}
	for _, en := range rows {
		en.batch = b
	}
	e.pending.busy++
	return b
}

// waitLocked waits for a sign or for d.
func (e *Engine) waitLocked(d time.Duration) {
	timer := time.AfterFunc(d, func() {
		// The lock makes sure that the waiter waits already.
		e.mu.Lock()
		defer e.mu.Unlock()
		e.wake.Broadcast()
	})
	defer timer.Stop()
	e.wake.Wait()
}

// runBatch runs a batch and answers its callers. A batch that fails is searched for the texts that make it
// fail.
func (e *Engine) runBatch(ctx context.Context, b *batch) {
	if err := e.try(ctx, b, b.entries); err != nil {
		e.search(ctx, b, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending.busy--
}

// try makes one native call of some rows of a batch, longest first, and answers them if it succeeds. An
// error concerns all of them and has been told to nobody.
func (e *Engine) try(ctx context.Context, b *batch, entries []*entry) error {
	rows := make([][]int32, len(entries))
	info := RunInfo{Query: entries[0].call.lane == queries, Texts: len(rows)}
	start := time.Now()
	var prompts []int
	if e.set.PromptExcluded {
		prompts = make([]int, len(entries))
	}
	for i, en := range entries {
		rows[i] = en.ids
		if prompts != nil {
			prompts[i] = en.prompt
		}
		info.Tokens += len(en.ids)
		info.Waited = max(info.Waited, start.Sub(en.since))
	}
	info.Padded = e.pending.lim.computed(len(rows), len(rows[0]), info.Tokens)
	vectors, err := e.call(ctx, Batch{Rows: rows, Prompts: prompts}, callers(entries), &info)
	if err == nil {
		e.settle(b, entries, e.answers(vectors), info)
	}
	e.opts.Observer.Ran(info)
	return err
}

// call runs the model, names those inside while it does, and notes time and error in info.
func (e *Engine) call(ctx context.Context, b Batch, inside []context.Context, info *RunInfo) ([]vector.Vector, error) {
	returned := e.opts.OnCall(inside)
	start := time.Now()
	vectors, err := e.model.Run(ctx, b)
	info.Took = time.Since(start)
	returned() // not deferred: a panic ends the process, and so these texts have crashed it
	if err == nil && len(vectors) != len(b.Rows) {
		err = fmt.Errorf("the model gave %d vectors for %d texts", len(vectors), len(b.Rows))
	}
	info.Err = err
	e.log(*info)
	return vectors, err
}

// An answer is a row's vector or why there is none.
type answer struct {
	vector vector.Vector
	err    error
}

// answers checks the vectors that the model returned; an unusable one concerns its own text only.
func (e *Engine) answers(vectors []vector.Vector) []answer {
	check := vector.Vector.Check
	if e.set.Unit {
		check = vector.Vector.CheckUnit
	}
	as := make([]answer, len(vectors))
	for i, v := range vectors {
		as[i].vector = v
		if err := check(v, e.model.Dim()); err != nil {
			as[i].err = &badVectorError{err}
		}
	}
	return as
}

// settle answers rows of a batch to the callers that still wait.
func (e *Engine) settle(b *batch, entries []*entry, as []answer, info RunInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if info.Took > 0 {
		e.learnLocked(float64(info.Padded) / info.Took.Seconds())
	}
	for i, en := range entries {
		b.drop(en)
		c := en.call
		switch {
		case c.over:
		case as[i].err != nil:
			c.fail(as[i].err)
		default:
			c.vectors[en.row] = as[i].vector
			if c.left--; c.left == 0 {
				c.finish(nil)
			}
		}
	}
}

// reject answers rows of a batch with an error.
func (e *Engine) reject(b *batch, entries []*entry, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, en := range entries {
		b.drop(en)
		en.call.fail(err)
	}
}

// learnLocked smooths the rate over the last ten batches or so.
func (e *Engine) learnLocked(rate float64) {
	if e.rate == 0 {
		e.rate = rate
	}
	e.rate += 0.1 * (rate - e.rate)
}

func (e *Engine) log(info RunInfo) {
	attrs := []any{"texts", info.Texts, "tokens", info.Tokens, "padded", info.Padded, "waited", info.Waited, "dur", info.Took}
	if info.Err != nil && !errors.Is(info.Err, errAbandoned) {
		e.opts.Logger.Warn("batch failed", append(attrs, "err", info.Err)...)
		return
	}
	e.opts.Logger.Debug("batch run", attrs...)
}
