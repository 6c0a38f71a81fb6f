package queue

import (
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
)

const (
	// soonest is how long after a look the next one tells a rate; less is noise.
	soonest = 200 * time.Millisecond
	// settling is the time in which a rate follows a change, more or less.
	settling = 5 * time.Second
	// standstill is the rate, a second, below which a lane stands still.
	standstill = 0.01
)

// A Pace is how fast a lane is drained. It takes two looks at least 200 ms apart; until then all is zero.
type Pace struct {
	// DrainRate is how many tasks a second leave the lane, in success or failure, over the last seconds.
	DrainRate float64
	// ETA is when what waits now is through at this rate; 0 while nothing leaves.
	ETA time.Duration
	// Work is how long the workers of the model that were there when it last had enough to do need for what
	// waits here: its estimated tokens by the tokens that they did in a second. Unlike ETA it does not depend on
	// what the lane gets of them, and stays known when the last worker has gone. 0 while they were never busy.
	Work time.Duration
}

// A drainRate follows a counter that only grows.
type drainRate struct {
	looks int
	at    time.Time
	total int64
	rate  float64 // a second, smoothed; 0 while unknown
}

// see takes a look at the counter into account, and returns by how much it grew in how many seconds; 0 if this
// look is the first, too early, or of a counter that began anew.
func (d *drainRate) see(now time.Time, total int64) (grown int64, seconds float64) {
	passed := now.Sub(d.at)
	if d.looks > 0 && passed < soonest {
		return 0, 0
	}
	if grown = total - d.total; d.looks == 0 || grown < 0 {
		grown, passed = 0, 0
	}
	d.looks++
	d.at, d.total = now, total
	if seconds = passed.Seconds(); seconds > 0 {
		d.rate = smoothed(d.rate, float64(grown)/seconds, passed)
	}
	return grown, seconds
}

// smoothed follows a value that was seen over some time.
func smoothed(old, value float64, over time.Duration) float64 {
	if old == 0 {
		return value
	}
	if now := old + (value-old)*min(1, over.Seconds()/settling.Seconds()); now >= standstill {
		return now
	}
	return 0
}

// paces remembers of each lane, and of each model, what earlier looks saw.
type paces struct {
	mu     sync.Mutex
	lanes  map[string]*lanePace // by queue name
	speeds map[string]float64   // by model: tokens a second while there was enough to do; smoothed
}

type lanePace struct {
	drained drainRate
	tokens  float64 // of a task that waits; from the last time that one did
	waited  bool    // when last looked at
}

// see fills in the paces of a look at lanes.
func (p *paces) see(now time.Time, list []LaneStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lanes == nil {
		p.lanes, p.speeds = map[string]*lanePace{}, map[string]float64{}
	}
	type sum struct {
		tokens, seconds float64
		busy            bool
	}
	models := map[string]*sum{}
	for i := range list {
		s := &list[i]
		l := p.lane(s)
		grown, seconds := l.drained.see(now, s.Processed)
		m := models[s.Model]
		if m == nil {
			m = &sum{}
			models[s.Model] = m
		}
		m.tokens += float64(grown) * l.tokens
		m.seconds = max(m.seconds, seconds)
		m.busy = m.busy || l.waited && s.Pending > 0 && seconds > 0
		if s.Pending > 0 && s.Tokens > 0 {
			l.tokens = float64(s.Tokens) / float64(s.Pending)
		}
		l.waited = s.Pending > 0 && !s.Paused
		s.DrainRate = l.drained.rate
		s.ETA = inTime(float64(s.Pending), s.DrainRate)
	}
	for model, m := range models {
		// Only what is done while more waits says what could be done.
		if m.busy && m.tokens > 0 {
			p.speeds[model] = smoothed(p.speeds[model], m.tokens/m.seconds, time.Duration(m.seconds*float64(time.Second)))
		}
	}
	for i := range list {
		list[i].Work = inTime(float64(list[i].Tokens), p.speeds[list[i].Model])
	}
}

func (p *paces) lane(s *LaneStatus) *lanePace {
	name := wire.QueueName(s.Model, s.Lane)
	l := p.lanes[name]
	if l == nil {
		l = &lanePace{}
		p.lanes[name] = l
	}
	if l.tokens == 0 && s.Pending > 0 {
		l.tokens = float64(s.Tokens) / float64(s.Pending)
	}
	return l
}

// longest is the bound of an estimate, lest a rate near zero overflow it.
const longest = 365 * 24 * time.Hour

// inTime is how long n take at a rate a second, 0 if the rate is not known.
func inTime(n, rate float64) time.Duration {
	if n <= 0 || rate <= 0 {
		return 0
	}
	return time.Duration(min(n/rate, longest.Seconds()) * float64(time.Second))
}
