package consumer

import (
	"context"
	"math"
	"sync"
	"time"
)

const (
	// gatherWait is how long a fetch waits for a quarter of the room: while most of it is taken there is no hurry, and
	// tasks that are leased one by one as room comes would cost a round trip each.
	gatherWait = 300 * time.Millisecond
	// gatherPart is that part of the room.
	gatherPart = 4
)

// A limiter bounds what a pool has in hand: a number of tasks, and the work that the consumer does in some seconds.
type limiter struct {
	rate  *rate
	ahead time.Duration // so much work at most

	mu      sync.Mutex
	most    int // tasks at most
	tasks   int // in hand
	changed chan struct{}
}

func newLimiter(most int, ahead time.Duration, r *rate) *limiter {
	return &limiter{rate: r, ahead: ahead, most: most, changed: make(chan struct{})}
}

// room is how much may be leased.
type room struct {
	tasks int
	work  float64
}

// wait returns what there is room for as soon as that is a quarter of all, or anything after a moment; false when ctx
// ends.
func (l *limiter) wait(ctx context.Context) (room, bool) {
	gather := time.NewTimer(gatherWait)
	defer gather.Stop()
	part := gatherPart
	for ctx.Err() == nil {
		r, changed := l.look(part)
		if r.tasks > 0 {
			return r, true
		}
		select {
		case <-ctx.Done():
		case <-gather.C:
			part = math.MaxInt
		case <-changed:
		}
	}
	return room{}, false
}

// look returns the room if it is a part of all at least, else what is closed when that may have changed. The channel is
// taken before anything is looked at, so that no change is missed.
func (l *limiter) look(part int) (room, <-chan struct{}) {
	l.mu.Lock()
	changed, free, most := l.changed, l.most-l.tasks, l.most
	l.mu.Unlock()
	perSecond, hand := l.rate.perSecond()
	budget := perSecond * l.ahead.Seconds()
	work := budget - hand
	if free < max(1, most/part) || work <= 0 || work < budget/float64(part) {
		return room{}, changed
	}
	return room{free, work}, nil
}

// take counts a task that was leased, put one that has come to its end.
func (l *limiter) take(work float64) {
	l.rate.add(work)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tasks++
}

func (l *limiter) put(work float64, done bool) {
	l.rate.remove(work, done)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tasks--
	l.wakeLocked()
}

// resize changes how many tasks there may be. Those beyond a lowered number are finished.
func (l *limiter) resize(most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most = most
	l.wakeLocked()
}

func (l *limiter) wakeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// bound is how many tasks there may be.
func (l *limiter) bound() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most
}
