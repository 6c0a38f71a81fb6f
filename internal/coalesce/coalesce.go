// Package coalesce turns calls that happen at the same time into one: while a batch is under way, the next
// one gathers. A lone call is not delayed; many callers share round trips, and where there are many it waits a moment
// for more. It knows nothing of what a batch does.
package coalesce

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// hotFor is how long after a batch of several the next caller waits for company.
const hotFor = time.Second

// quietParts is the part of its longest wait in which nobody has come when a batch stops waiting.
const quietParts = 6

// A Patience says how long a batch waits for more items, while batches have several: callers that were all woken by the
// same event come one after the other, and what they share is worth more than the wait. The zero Patience has none.
type Patience struct {
	// Linger is the longest wait, 0 for none. It ends when nobody has come for a sixth of it.
	Linger time.Duration
	// Yield is for batches whose end somebody waits for. Where one goroutine runs at a time (GOMAXPROCS of 1), such a batch
	// waits in turns of the scheduler instead of time, until two in a row have brought nobody: those who were woken with its
	// first caller are in line before it.
	Yield bool
}

// A Group runs items in batches, one batch at a time, in the order of their arrival. There is no goroutine
// behind it: the first caller of a batch runs it for all.
type Group[T any] struct {
	run      func(ctx context.Context, items []T)
	max      int
	patience Patience
	full     chan struct{} // of one: as many wait as a batch may have

	mu      sync.Mutex
	busy    bool // a caller is running a batch, or has been told to
	waiting []*entry[T]
	shared  time.Time // when the latest batch of several was run
}

// An entry is a caller that waits. It is told once: true to run the next batch, which its own item begins,
// or false when its item has been run.
type entry[T any] struct {
	item T
	lead chan bool
}

// New returns a group of batches of at most max items. Run is never called twice at once. It leaves the
// outcome of each item in the item.
func New[T any](max int, p Patience, run func(ctx context.Context, items []T)) *Group[T] {
	return &Group[T]{run: run, max: max, patience: p, full: make(chan struct{}, 1)}
}

// Do returns when a batch with item in it has been run. It does not end with ctx, since the batch may be
// writing to the item: run must end by itself. Run gets the values of its first caller's context, but
// neither its deadline nor its cancellation, which are not the other callers'.
func (g *Group[T]) Do(ctx context.Context, item T) { g.DoAll(ctx, []T{item}) }

// DoAll is Do for several items of one caller, in their order, in as few batches as possible.
func (g *Group[T]) DoAll(ctx context.Context, items []T) {
	// No more at a time than a batch takes, so that a caller whose batch panics leaves nothing in line.
	for some := range slices.Chunk(items, g.max) {
		entries := make([]*entry[T], len(some))
		for i, item := range some {
			entries[i] = &entry[T]{item: item, lead: make(chan bool, 1)}
		}
		lead := g.join(entries)
		for _, e := range entries {
			if lead || <-e.lead {
				g.lead(ctx)
			}
			lead = false
		}
	}
}

// lead runs the next batch, whose first entry is the caller's.
func (g *Group[T]) lead(ctx context.Context) {
	g.gather()
	batch := g.take()
	defer g.pass(batch) // also if run panics, lest the others wait for ever
	items := make([]T, len(batch))
	for i, e := range batch {
		items[i] = e.item
	}
	g.run(context.WithoutCancel(ctx), items)
}

// join adds entries to the next batch and reports whether their caller is to run it at once.
func (g *Group[T]) join(entries []*entry[T]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, entries...)
	if len(g.waiting) >= g.max {
		select {
		case g.full <- struct{}{}:
		default:
		}
	}
	if g.busy {
		return false
	}
	g.busy = true
	return true
}

// gather waits for company, if there is likely to be any.
func (g *Group[T]) gather() {
	g.mu.Lock()
	n := len(g.waiting)
	wait := g.patience.Linger > 0 && n < g.max && time.Since(g.shared) < hotFor
	select {
	case <-g.full: // of an earlier batch
	default:
	}
	g.mu.Unlock()
	switch {
	case !wait:
	case g.patience.Yield && runtime.GOMAXPROCS(0) == 1:
		g.yield(n)
	default:
		g.sleep(n)
	}
}

// yield lets others run until that has brought nobody twice. There are n. Once does not count, since now and then the
// scheduler gives a goroutine that yields its turn before others; and turns may be long.
func (g *Group[T]) yield(n int) {
	end := time.Now().Add(g.patience.Linger)
	for quiet := 0; quiet < 2 && n < g.max && time.Now().Before(end); quiet++ {
		runtime.Gosched()
		before := n
		if n = g.count(); n > before {
			quiet = -1
		}
	}
}

// sleep waits until nobody has come for a while, or as many as a batch may have. There are n.
func (g *Group[T]) sleep(n int) {
	quiet := g.patience.Linger / quietParts
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for range quietParts {
		select {
		case <-g.full:
			return
		case <-timer.C:
		}
		before := n
		if n = g.count(); n == before {
			return
		}
		timer.Reset(quiet)
	}
}

func (g *Group[T]) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

// take returns the next batch, which begins with the caller's own entry.
func (g *Group[T]) take() []*entry[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(g.max, len(g.waiting))
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	if n > 1 {
		g.shared = time.Now()
	}
	return batch
}

// pass tells the callers of a batch that has been run, and makes the next one in line run the next.
func (g *Group[T]) pass(batch []*entry[T]) {
	for _, e := range batch[1:] {
		e.lead <- false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) > 0 {
		g.waiting[0].lead <- true
		return
	}
	g.busy, g.waiting = false, nil
}
