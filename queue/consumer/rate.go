package consumer

import (
	"math"
	"sync"
	"time"
)

const (
	// rateWindow is the busy time in which a rate follows a change, more or less.
	rateWindow = 10 * time.Second
	// rateStep is the shortest busy time that tells a rate.
	rateStep = 500 * time.Millisecond
	// unknownRate, in tokens a second, counts until something was measured: a slow model on one core.
	unknownRate = 500
)

// Cost says what texts cost: a model reads a text in windows, and within one attention grows with the square of its
// length. It is learned when the model is warmed up.
type Cost struct {
	Rate   float64 // tokens a second of short texts, all cores together; 0 is not known
	Window int     // tokens that the model reads at once; 0 is not known
	Half   float64 // tokens at which attention costs as much as all the rest; 0 is not known
}

// window and half are what the lease script divides by; where nothing is known a token costs what it costs.
func (c Cost) window() int {
	if c.Window <= 0 {
		return math.MaxInt32
	}
	return c.Window
}

func (c Cost) half() float64 {
	if c.Half <= 0 {
		return math.MaxInt32
	}
	return c.Half
}

// A rate measures how much work is done a second while there is some in hand, by the estimates of the very tasks: an
// estimate that is wrong for all texts of a fleet is made good here.
type rate struct {
	mu    sync.Mutex
	value float64 // 0 while nothing is known
	hand  float64 // work in hand
	since time.Time
	busy  time.Duration // not accounted for yet
	done  float64       // likewise
}

func newRate(first float64) *rate { return &rate{value: first} }

// add takes work in hand.
func (r *rate) add(work float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passLocked()
	r.hand += work
}

// remove takes work out of hand. Only what was done tells something of the rate.
func (r *rate) remove(work float64, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passLocked()
	if r.hand -= work; r.hand < 1e-6 {
		r.hand = 0
	}
	if !done && r.hand == 0 { // failures tell nothing of the rate, nor does the time that they took
		r.done, r.busy = 0, 0
	}
	if !done {
		return
	}
	r.done += work
	if r.busy < rateStep {
		return
	}
	now := r.done / r.busy.Seconds()
	if r.value == 0 {
		r.value = now
	}
	r.value += (now - r.value) * min(1, r.busy.Seconds()/rateWindow.Seconds())
	r.done, r.busy = 0, 0
}

// passLocked accounts for the time since the last change.
func (r *rate) passLocked() {
	now := time.Now()
	if r.hand > 0 {
		r.busy += now.Sub(r.since)
	}
	r.since = now
}

// perSecond returns the rate, and what is in hand.
func (r *rate) perSecond() (rate, hand float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.value == 0 {
		return unknownRate, r.hand
	}
	return r.value, r.hand
}
