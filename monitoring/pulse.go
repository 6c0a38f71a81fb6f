package monitoring

import (
	"fmt"
	"sync"
	"time"
)

const (
	// pulseFloor is how long nothing may come back before anybody is alarmed, however fast it was before.
	pulseFloor = 30 * time.Second
	// pulseTypical and pulseSlowest are how many times the usual and the slowest native call that may be. The
	// warm-up has run the longest text, so that the slowest is known before the first task.
	pulseTypical, pulseSlowest = 10, 3
)

// A Pulse tells a worker that computes from one that only holds on to its tasks. It is fed at the doors, by
// whoever hands tasks in and by every native call that returns; asking it never waits for inference.
//
// A worker is stuck if it had work all the time and nothing came out of it for longer than ten times the
// usual native call, three times the slowest one, and 30 s. One that is idle, or still loads, never is: work
// is what is between Enter and Leave. Failures are no progress, but one that fails so much that its
// queue holds it back has nothing in hand, so the clock begins anew; that is what readiness is for.
// The zero value is ready to use.
type Pulse struct {
	mu      sync.Mutex
	inside  int
	since   time.Time     // when something was last heard: progress, or the first work after none
	typical time.Duration // smoothed
	slowest time.Duration
}

// Enter counts a task in.
func (p *Pulse) Enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inside++; p.inside == 1 {
		p.since = time.Now()
	}
}

// Leave counts a task out that did not get on: it failed, or its caller left.
func (p *Pulse) Leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inside--
}

// Done counts a task out that has its verdict.
func (p *Pulse) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inside--
	p.since = time.Now()
}

// Beat notes a native call that came back after took.
func (p *Pulse) Beat(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Now()
	if p.typical == 0 {
		p.typical = took
	}
	p.typical += (took - p.typical) / 10
	p.slowest = max(p.slowest, took)
}

// Inside returns how many tasks are in hand.
func (p *Pulse) Inside() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inside
}

// Stuck returns why the worker is taken for stuck, nil if it is not.
func (p *Pulse) Stuck() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := max(pulseFloor, pulseTypical*p.typical, pulseSlowest*p.slowest)
	silence := time.Since(p.since)
	if p.inside == 0 || silence <= limit {
		return nil
	}
	return fmt.Errorf("nothing came back for %v with %d in hand; the limit is %v",
		silence.Round(time.Second), p.inside, limit.Round(time.Second))
}
