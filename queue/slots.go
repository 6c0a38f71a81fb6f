package queue

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/tasks"
)

// startLate is how long a task that asynq was given may take to reach the handler and still count. asynq
// never calls the handler for a task whose time is over already.
const startLate = time.Second

const (
	// gatherWait is how long a dequeue waits for room for several tasks.
	gatherWait = 300 * time.Millisecond
	// roomWait is how long it waits for room at all. asynq counts a new task's 30 s from before the dequeue.
	roomWait = 10 * time.Second
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
// returns. The limit can be changed at any time; calls beyond a lowered one go on.
type slots struct {
	mu      sync.Mutex
	changed *sync.Cond // somebody who waits should look again
	waiters int
	enough  int // free slots that the dequeue waits for, while it does; 0 while it does not
	limit   int
	runs    map[*Run]struct{}
	waiting int                  // tasks in the handler's door, see enter
	given   map[string]time.Time // tasks that asynq has been given, until they are at the door
	seized  int                  // who keeps new calls out
	closed  bool                 // nobody takes tasks any more
}

func newSlots(n int) *slots {
	s := &slots{limit: n, runs: map[*Run]struct{}{}, given: map[string]time.Time{}}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// enter waits for a slot until end, and returns the function that gives it back. ctx is the call's, and revoke ends it.
func (s *slots) enter(ctx context.Context, end time.Time, t tasks.Task, revoke context.CancelCauseFunc) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.given, t.ID)
	s.waiting++
	if free := func() bool { return s.seized == 0 && len(s.runs) < s.limit }; ctx.Err() != nil || !free() {
		wait, cancel := context.WithDeadline(ctx, end)
		defer cancel()
		err = s.waitLocked(wait, free)
	}
	s.waiting--
	if err != nil {
		s.wakeLocked()
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	run := &Run{ID: t.ID, Lane: t.Lane, Started: time.Now(), Deadline: deadline, revoke: revoke}
	s.runs[run] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.runs, run)
		s.freedLocked()
	}, nil
}

// enterAll takes a slot for each of the runs, which are to have been counted by room; not while somebody keeps calls
// out, or after close.
func (s *slots) enterAll(runs []*Run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.seized > 0 {
		return false
	}
	for _, run := range runs {
		s.runs[run] = struct{}{}
	}
	return true
}

// leaveAll gives the slots of runs back, of those that have one.
func (s *slots) leaveAll(runs []*Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, run := range runs {
		delete(s.runs, run)
	}
	s.freedLocked()
}

// freedLocked wakes those who wait for what was freed.
func (s *slots) freedLocked() {
	if s.waiters > 1 || s.enough == 0 || s.freeLocked() >= s.enough {
		s.wakeLocked()
	}
}

// waitLocked waits until met or the end of ctx, which is asked first.
func (s *slots) waitLocked(ctx context.Context, met func() bool) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if met() {
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wakeLocked()
	})
	defer stop()
	s.waiters++
	defer func() { s.waiters-- }()
	for ctx.Err() == nil && !met() {
		s.changed.Wait()
	}
	return ctx.Err()
}

func (s *slots) wakeLocked() {
	if s.waiters > 0 {
		s.changed.Broadcast()
	}
}

// seize waits until no call is inside and keeps new ones out until release is called.
func (s *slots) seize(ctx context.Context) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seized++
	release = sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seized--
		s.wakeLocked()
	})
	if err := s.waitLocked(ctx, func() bool { return len(s.runs) == 0 }); err != nil {
		s.seized--
		s.wakeLocked()
		return nil, err
	}
	return release, nil
}

// room waits until least tasks may be taken, or one after a while, and returns how many may; 0 after close, or
// when it took too long, or while hurry says that there is something else to do. Whoever makes it say so nudges.
func (s *slots) room(least func(limit int) int, hurry func() bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	begun := time.Now()
	defer func() { s.enough = 0 }()
	for {
		waited := time.Since(begun)
		n := s.freeLocked()
		switch {
		case s.closed || n >= least(s.limit) || n > 0 && waited >= gatherWait:
			return n
		case waited >= roomWait || hurry():
			return 0
		case waited < gatherWait:
			s.enough = least(s.limit)
			s.sleepLocked(gatherWait - waited)
		default:
			s.enough = 1
			s.sleepLocked(roomWait - waited)
		}
	}
}

// rest waits for d, for news, or for close. Whoever has news nudges.
func (s *slots) rest(d time.Duration, news func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for end := time.Now().Add(d); d > 0 && !s.closed && !news(); d = time.Until(end) {
		s.sleepLocked(d)
	}
}

// nudge has those who wait look again.
func (s *slots) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeLocked()
}

// sleepLocked waits for at most d until something changes, or a task may have become late, which wakes nobody.
func (s *slots) sleepLocked(d time.Duration) {
	if len(s.given) > 0 {
		d = min(d, startLate)
	}
	s.waiters++
	defer func() { s.waiters-- }()
	defer time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	}).Stop()
	s.changed.Wait()
}

// freeLocked counts the slots that nobody has or is about to have, 0 after close.
func (s *slots) freeLocked() int {
	if s.closed {
		return 0
	}
	free := s.limit - len(s.runs) - s.waiting - len(s.given)
	if free > 0 || len(s.given) == 0 {
		return max(free, 0)
	}
	for id, at := range s.given {
		if time.Since(at) >= startLate {
			delete(s.given, id)
		}
	}
	return max(s.limit-len(s.runs)-s.waiting-len(s.given), 0)
}

// give notes that asynq has been given a task.
func (s *slots) give(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given[id] = time.Now()
}

// close ends room's waits.
func (s *slots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wakeLocked()
}

// resize changes the limit.
func (s *slots) resize(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
	s.wakeLocked()
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
