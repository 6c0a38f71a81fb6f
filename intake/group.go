package intake

import (
	"context"
	"iter"
	"time"
)

// Group yields items in groups of at most max, and sooner: no item waits longer than wait for company, so
// that what a slow pipe brings is not held until its end. It stops, also in the middle of a read that
// blocks, when ctx ends; what was read by then and not yielded is lost with it.
func Group(ctx context.Context, items iter.Seq[Item], max int, wait time.Duration) iter.Seq[[]Item] {
	return func(yield func([]Item) bool) {
		stop := make(chan struct{})
		defer close(stop)
		arriving := pump(items, stop)
		var open []Item
		var due <-chan time.Time // nil while nothing is open
		for {
			var full bool
			select {
			case <-ctx.Done():
				return
			case <-due:
				full = true
			case item, more := <-arriving:
				if !more {
					if len(open) > 0 {
						yield(open)
					}
					return
				}
				if open = append(open, item); len(open) == 1 {
					due = time.After(wait)
				}
				full = len(open) == max
			}
			if full {
				if !yield(open) {
					return
				}
				open, due = nil, nil
			}
		}
	}
}

// pump reads items on a goroutine of its own until stop is closed. It is the one goroutine that nobody waits
// for: a read of a terminal or a pipe can't be interrupted, and may last as long as the process.
func pump(items iter.Seq[Item], stop <-chan struct{}) <-chan Item {
	out := make(chan Item)
	go func() {
		defer close(out)
		for item := range items {
			select {
			case out <- item:
			case <-stop:
				return
			}
		}
	}()
	return out
}
