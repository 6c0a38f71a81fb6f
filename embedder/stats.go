package embedder

import (
	"context"
	"errors"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Stats is a snapshot of a [Manager], taken under one lock, so that it adds up: Calls is the sum of the
// outcomes, those inside and those waiting.
type Stats struct {
	State   State
	Since   time.Time    // when the state was entered
	LoadErr error        // why the state is Failed, else nil
	Device  string       // that serves, "" before the model is ready
	Space   vector.Space // "" before the model is ready
	Dim     int          // 0 before the model is ready
	Inside  int          // callers let in
	Peak    int          // most callers inside at once
	Waiting int          // callers in the line
	Limits  Limits
	Counts
	Engine EngineStats // zero before the model is ready
}

// Counts are what a manager has seen since it was made.
type Counts struct {
	Calls    int64
	LastCall time.Time     // zero before the first
	Loads    int64         // loads begun
	LoadTime time.Duration // of the last load that ended

	// Outcomes of calls.
	Done       int64
	Permanent  int64 // the text was refused
	Overloaded int64 // a bound or a timeout was met
	Cancelled  int64 // the caller left
	Closed     int64 // the manager was closed
	Failed     int64 // the model or its load failed
}

// count adds the outcome of a call under ctx.
func (c *Counts) count(ctx context.Context, err error) {
	var p interface{ Permanent() bool }
	var o interface{ Overloaded() bool }
	switch {
	case err == nil:
		c.Done++
	case errors.Is(err, ErrClosed):
		c.Closed++
	case errors.As(err, &p) && p.Permanent():
		c.Permanent++
	case errors.As(err, &o) && o.Overloaded():
		c.Overloaded++
	case ctx.Err() != nil:
		c.Cancelled++
	default:
		c.Failed++
	}
}

// Outcomes is the number of calls that have ended.
func (c Counts) Outcomes() int64 {
	return c.Done + c.Permanent + c.Overloaded + c.Cancelled + c.Closed + c.Failed
}

// Stats returns the figures of the moment.
func (m *Manager) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{
		State: m.state, Since: m.since, LoadErr: m.loadErr, Device: m.device,
		Inside: m.door.inside, Peak: m.door.peak, Waiting: len(m.door.line), Limits: m.door.limits,
		Counts: m.counts,
	}
	if m.engine != nil {
		s.Space, s.Dim, s.Engine = m.engine.Settings().Space, m.engine.Dim(), m.engine.Stats()
	}
	return s
}
