package embedder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Stats is a snapshot of a [Manager], taken under one lock, so that it adds up: Calls is the sum of the
// outcomes, those inside and those waiting. It is plain data: its JSON form is that of /statusz and of the
// fleet's registry, and reads back as it was.
type Stats struct {
	State     State        `json:"state"`
	Since     time.Time    `json:"since"`                // when the state was entered
	LoadError string       `json:"load_error,omitempty"` // why the state is Failed
	Device    string       `json:"device"`               // that serves, "" before the model is ready
	Refused   []Refusal    `json:"refused,omitempty"`    // devices that were to serve and don't, in the order of trying
	Space     vector.Space `json:"space"`                // "" before the model is ready
	Dim       int          `json:"dim"`                  // 0 before the model is ready
	Inside    int          `json:"inside"`               // callers let in
	Peak      int          `json:"peak"`                 // most callers inside at once
	Waiting   int          `json:"waiting"`              // callers in the line
	Limits    Limits       `json:"limits"`
	Memory    Memory       `json:"memory"` // as it was at most 10 s ago, zero before the model is ready
	Counts
	Engine EngineStats `json:"engine"` // zero before the model is ready
}

// A Refusal is a device that does not serve, and why.
type Refusal struct {
	Device string `json:"device"`
	Error  string `json:"error"`
}

// Memory is what a model takes of the host's.
type Memory struct {
	Weights MemoryUse `json:"weights"`           // of the mapped weights; zero where they are not mapped
	Process MemoryUse `json:"process"`           // of the whole process, weights included
	Unknown string    `json:"unknown,omitempty"` // why the figures are missing, as on systems that don't tell
}

// MemoryUse is resident memory in bytes.
type MemoryUse struct {
	Private      int64 `json:"private_bytes"`      // of pages that no other process maps
	Dirty        int64 `json:"dirty_bytes"`        // of Private, what was written to and so can't be shared
	Shared       int64 `json:"shared_bytes"`       // of pages that other processes map too
	Proportional int64 `json:"proportional_bytes"` // Private and a share of Shared; sums over processes (PSS)
}

// Counts are what a manager has seen since it was made.
type Counts struct {
	Calls    int64     `json:"calls"`
	LastCall time.Time `json:"last_call,omitzero"` // zero before the first
	Loads    int64     `json:"loads"`              // loads begun
	LoadTime Seconds   `json:"load_seconds"`       // of the last load that ended

	// Outcomes of calls.
	Done       int64 `json:"done"`
	Permanent  int64 `json:"permanent"`  // the text was refused
	Overloaded int64 `json:"overloaded"` // a bound or a timeout was met
	Cancelled  int64 `json:"cancelled"`  // the caller left
	Closed     int64 `json:"closed"`     // the manager was closed
	Failed     int64 `json:"failed"`     // the model or its load failed
}

// Seconds is a time that is a number of seconds in JSON, as metrics have it.
type Seconds time.Duration

func (s Seconds) String() string { return time.Duration(s).String() }

// MarshalJSON implements [json.Marshaler].
func (s Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(s).Seconds(), 'f', -1, 64), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("reading seconds: %w", err)
	}
	*s = Seconds(f * float64(time.Second))
	return nil
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

// memoryAge is how old the figures of [Memory] may be: long enough for their cost to vanish, short enough
// for a page that people look at.
const memoryAge = 30 * time.Second

// measure renews the figures of memory if they are old. It reads them without the lock, which it takes to
// keep them; who comes meanwhile gets the old ones.
func (m *Manager) measure() {
	m.mu.Lock()
	engine := m.engine
	due := engine != nil && time.Since(m.measured) >= memoryAge
	if due {
		m.measured = time.Now()
	}
	m.mu.Unlock()
	if !due {
		return
	}
	memory := engine.Memory()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.engine == engine {
		m.memory = memory
	}
}

// Memory tells what the engine's model takes, as far as it knows.
func (e *Engine) Memory() Memory {
	if measurer, ok := e.model.(Measurer); ok {
		return measurer.Memory()
	}
	return Memory{Unknown: "the model does not tell"}
}

// Stats returns the figures of the moment.
func (m *Manager) Stats() Stats {
	m.measure()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{
		State: m.state, Since: m.since, Refused: slices.Clone(m.refused), Memory: m.memory,
		Inside: m.door.inside, Peak: m.door.peak, Waiting: len(m.door.line), Limits: m.door.limits,
		Counts: m.counts,
	}
	if m.loadErr != nil {
		s.LoadError = m.loadErr.Error()
	}
	if m.engine != nil {
		s.Device, s.Space, s.Dim, s.Engine = m.devices[m.at], m.engine.Settings().Space, m.engine.Dim(), m.engine.Stats()
	}
	return s
}
