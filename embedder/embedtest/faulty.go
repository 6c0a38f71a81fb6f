package embedtest

import (
	"context"
	"sync"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/vector"
)

// Faulty is a model that fails or hangs in chosen runs, counted from 1 in the order in which they begin,
// and is the model beneath it in all others. Faults are set before the run they concern begins.
type Faulty struct {
	embedder.Model

	mu     sync.Mutex
	runs   int
	faults map[int]func(ctx context.Context) error
}

// NewFaulty returns a model without faults above m.
func NewFaulty(m embedder.Model) *Faulty {
	return &Faulty{Model: m, faults: make(map[int]func(context.Context) error)}
}

// FailOn makes run n return err.
func (f *Faulty) FailOn(n int, err error) {
	f.on(n, func(context.Context) error { return err })
}

// BlockOn makes run n hang until release is called, and then go on, or until its context ends, and then
// fail with the cause. The channel is closed when the run has begun.
func (f *Faulty) BlockOn(n int) (entered <-chan struct{}, release func()) {
	in, out := make(chan struct{}), make(chan struct{})
	f.on(n, func(ctx context.Context) error {
		close(in)
		select {
		case <-out:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	return in, sync.OnceFunc(func() { close(out) })
}

func (f *Faulty) on(n int, fault func(context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[n] = fault
}

// Run implements [embedder.Model].
func (f *Faulty) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	f.mu.Lock()
	f.runs++
	fault := f.faults[f.runs]
	f.mu.Unlock()
	if fault != nil {
		if err := fault(ctx); err != nil {
			return nil, err
		}
	}
	return f.Model.Run(ctx, b)
}
