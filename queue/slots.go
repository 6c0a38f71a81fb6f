package queue

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/embedfleet/embedfleet/tasks"
)

// A Run is one call of the handler that has not returned.
type Run struct {
	ID       string // the task's
	Lane     tasks.Lane
	Started  time.Time
	Deadline time.Time // the handler was to return by then

	revoke context.CancelCauseFunc
}

// slots counts the handler's calls. asynq frees its own slot when a deadline passes or a lease is lost,
// although the call goes on, and starts the next one beside it (T4); here a slot is held until the call
// returns.
type slots struct {
	size int64
	free *semaphore.Weighted

	mu   sync.Mutex
	runs map[*Run]struct{}
}

func newSlots(n int) *slots {
	return &slots{size: int64(n), free: semaphore.NewWeighted(int64(n)), runs: map[*Run]struct{}{}}
}

// enter waits for a slot and returns the function that gives it back. revoke ends the call's context.
func (s *slots) enter(ctx context.Context, t tasks.Task, revoke context.CancelCauseFunc) (leave func(), err error) {
	if err := s.free.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	run := &Run{ID: t.ID, Lane: t.Lane, Started: time.Now(), Deadline: deadline, revoke: revoke}
	s.mu.Lock()
	s.runs[run] = struct{}{}
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.runs, run)
		s.mu.Unlock()
		s.free.Release(1)
	}), nil
}

// seize waits until no call is inside and keeps new ones out until release is called.
func (s *slots) seize(ctx context.Context) (release func(), err error) {
	if err := s.free.Acquire(ctx, s.size); err != nil {
		return nil, err
	}
	return func() { s.free.Release(s.size) }, nil
}

// inside returns the calls for which want is true, the oldest first.
func (s *slots) inside(want func(*Run) bool) []Run {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Run
	for run := range s.runs {
		if want(run) {
			list = append(list, *run)
		}
	}
	slices.SortFunc(list, func(a, b Run) int { return a.Started.Compare(b.Started) })
	return list
}
