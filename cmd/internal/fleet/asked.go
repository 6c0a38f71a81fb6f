package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/search"
)

const (
	// servedFor is how long it is believed that somebody serves an alias, or nobody does.
	servedFor = time.Second
	// withdrawTime bounds the cancelling of queries that nobody waits for any more.
	withdrawTime = 5 * time.Second
)

// An unserved error says that no worker of a model has registered: whoever asks need not wait.
type unserved struct{ model string }

func (e unserved) Error() string {
	return fmt.Sprintf("no worker of model %q has registered; start one, or look at those there are: enqueue fleet list", e.model)
}

// Is makes it what a search calls it when no worker answers.
func (e unserved) Is(target error) bool { return target == search.ErrNoAnswer }

// Overloaded marks it as worth another try.
func (e unserved) Overloaded() bool { return true }

// A serving knows which models have workers, a second late at most.
type serving struct {
	workers *registry.Workers

	mu     sync.Mutex
	models map[string]bool
	looked time.Time
}

// check returns an error if no worker of the model has registered, be it one that still loads. While the registry
// can't be read there is none: whether Redis works is for the queue to find out.
func (s *serving) check(ctx context.Context, model string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.models == nil || time.Since(s.looked) >= servedFor {
		list, err := s.workers.List(ctx)
		if err != nil {
			s.models = nil
			return nil
		}
		s.models, s.looked = map[string]bool{}, time.Now()
		for _, w := range list {
			if w.State != registry.StateFailed {
				s.models[w.Model] = true
			}
		}
	}
	if !s.models[model] {
		return unserved{model}
	}
	return nil
}

// An asked is the set of queries whose answers nobody has fetched yet, and who is cancelling some.
type asked struct {
	mu         sync.Mutex
	open       map[string]bool
	closed     bool
	cancelling sync.WaitGroup
}

func (a *asked) add(ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		a.open[id] = true
	}
}

// take removes ids and returns those that were there.
func (a *asked) take(ids []string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var there []string
	for _, id := range ids {
		if a.open[id] {
			delete(a.open, id)
			there = append(there, id)
		}
	}
	return there
}

// begin reports whether somebody may begin to cancel, who then calls end.
func (a *asked) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.cancelling.Add(1)
	}
	return !a.closed
}

func (a *asked) end() { a.cancelling.Done() }

// close waits for those who are cancelling, and lets nobody begin.
func (a *asked) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancelling.Wait()
}
