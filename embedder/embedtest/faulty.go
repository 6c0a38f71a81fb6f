package embedtest

import (
	"context"
	"strings"
	"sync"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/vector"
)

// Faulty is a model that fails for chosen texts, and fails or hangs in chosen runs, counted from 1 in the
// order in which they begin; it is the model beneath it in all others. Faults are set before the run they
// concern begins.
type Faulty struct {
	embedder.Model

	mu     sync.Mutex
	runs   int
	faults map[int]func(ctx context.Context) error
	texts  map[string]error
}

// NewFaulty returns a model without faults above m.
func NewFaulty(m embedder.Model) *Faulty {
	return &Faulty{Model: m, faults: make(map[int]func(context.Context) error), texts: make(map[string]error)}
}

// FailOn makes run n return err.
func (f *Faulty) FailOn(n int, err error) {
	f.on(n, func(context.Context) error { return err })
}

// FailFor makes every run with a text that contains part return err, for all of its texts.
func (f *Faulty) FailFor(part string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts[part] = err
}

// Runs is the number of runs that have begun.
func (f *Faulty) Runs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runs
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
	err := f.refusalLocked(b)
	f.mu.Unlock()
	if err == nil && fault != nil {
		err = fault(ctx)
	}
	if err != nil {
		return nil, err
	}
	return f.Model.Run(ctx, b)
}

// refusalLocked returns the error of the texts of b that must fail.
func (f *Faulty) refusalLocked(b embedder.Batch) error {
	for part, err := range f.texts {
		for _, row := range b.Rows {
			if strings.Contains(Text(row), part) {
				return err
			}
		}
	}
	return nil
}
