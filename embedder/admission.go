package embedder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Limits say how many callers a [Manager] lets in and how long things may take. They can be changed while
// it runs. A caller's own deadline wins over a longer timeout.
type Limits struct {
	// MaxAccess is how many callers may be inside at once. Callers are texts, and batches are made of the
	// texts inside, so it is the ceiling of how well lengths can be sorted. 0 means 512.
	MaxAccess int
	// MaxWaiting bounds the callers who wait to get in. 0 means 1,024.
	MaxWaiting int
	// AccessTimeout bounds the wait for access once the model is ready. 0 means 30 s.
	AccessTimeout time.Duration
	// WaitTimeout bounds the wait for the model to become ready. 0 means 300 s.
	WaitTimeout time.Duration
	// LoadTimeout bounds a load. 0 means 300 s.
	LoadTimeout time.Duration
}

// limitsJSON is the JSON form of [Limits], with the names of [LimitChange].
type limitsJSON struct {
	MaxAccess     int     `json:"max_access"`
	MaxWaiting    int     `json:"max_waiting"`
	AccessTimeout Seconds `json:"access_timeout_seconds"`
	WaitTimeout   Seconds `json:"wait_timeout_seconds"`
	LoadTimeout   Seconds `json:"load_timeout_seconds"`
}

// MarshalJSON implements [json.Marshaler]; timeouts are in seconds.
func (l Limits) MarshalJSON() ([]byte, error) {
	return json.Marshal(limitsJSON{
		l.MaxAccess, l.MaxWaiting, Seconds(l.AccessTimeout), Seconds(l.WaitTimeout), Seconds(l.LoadTimeout),
	})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (l *Limits) UnmarshalJSON(b []byte) error {
	var j limitsJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("reading limits: %w", err)
	}
	*l = Limits{
		j.MaxAccess, j.MaxWaiting, time.Duration(j.AccessTimeout), time.Duration(j.WaitTimeout), time.Duration(j.LoadTimeout),
	}
	return nil
}

// Bounds of the limits. They are wide: they stop slips of the keyboard, not opinions.
const (
	maxCallers = 1 << 20
	minTimeout = time.Millisecond
	maxTimeout = 24 * time.Hour
)

func (l Limits) withDefaults() Limits {
	setInt := func(v *int, value int) {
		if *v == 0 {
			*v = value
		}
	}
	setTime := func(v *time.Duration, value time.Duration) {
		if *v == 0 {
			*v = value
		}
	}
	setInt(&l.MaxAccess, 512)
	setInt(&l.MaxWaiting, 1024)
	setTime(&l.AccessTimeout, 30*time.Second)
	setTime(&l.WaitTimeout, 300*time.Second)
	setTime(&l.LoadTimeout, 300*time.Second)
	return l
}

// validate lists every limit that is out of bounds.
func (l Limits) validate() error {
	var errs []error
	count := func(what string, v int) {
		if v < 1 || v > maxCallers {
			errs = append(errs, fmt.Errorf("%s %d, want 1 to %d", what, v, maxCallers))
		}
	}
	duration := func(what string, d time.Duration) {
		if d < minTimeout || d > maxTimeout {
			errs = append(errs, fmt.Errorf("%s %v, want %v to %v", what, d, minTimeout, maxTimeout))
		}
	}
	count("max access", l.MaxAccess)
	count("max waiting", l.MaxWaiting)
	duration("access timeout", l.AccessTimeout)
	duration("wait timeout", l.WaitTimeout)
	duration("load timeout", l.LoadTimeout)
	return errors.Join(errs...)
}

// A TimeoutError says which timeout of [Limits] ended a wait. Those of access and wait unwrap to
// [ErrOverloaded], the one of access by way of an [OverloadError]; the one of load to
// context.DeadlineExceeded.
type TimeoutError struct {
	What  string        // "access", "wait" or "load"
	After time.Duration // the timeout
	Err   error
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("%s timeout ended after %v: %v", e.What, e.After, e.Err)
}

func (e *TimeoutError) Unwrap() error { return e.Err }

// A door is the admission of callers: those inside are counted, the others wait in a line. Its methods need
// the manager's lock.
type door struct {
	limits Limits
	ready  chan struct{} // closed while the model is ready
	inside int
	peak   int
	line   []*waiter // in order of arrival
}

// A waiter is a caller in the line.
type waiter struct {
	let  chan error // gets nil when it is let in, or why it never will be; holds one
	back bool       // it was inside before, on a device that was left
}

// open lets callers in from now on.
func (d *door) open() {
	close(d.ready)
	d.admit()
}

// admit lets in those at the head of the line for whom there is room.
func (d *door) admit() {
	for len(d.line) > 0 && d.inside < d.limits.MaxAccess && d.isOpen() {
		d.line[0].let <- nil
		d.line = d.line[1:]
		d.count()
	}
}

func (d *door) isOpen() bool {
	select {
	case <-d.ready:
		return true
	default:
		return false
	}
}

// hasRoom reports whether a caller that comes now need not wait.
func (d *door) hasRoom() bool {
	return len(d.line) == 0 && d.inside < d.limits.MaxAccess && d.isOpen()
}

// place lets a caller in, or gives it a place at the end of the line, which it returns.
func (d *door) place() *waiter {
	if d.hasRoom() {
		d.count()
		return nil
	}
	w := &waiter{let: make(chan error, 1)}
	d.line = append(d.line, w)
	return w
}

// putBack gives a caller who was inside a place before all who were not.
func (d *door) putBack() *waiter {
	w := &waiter{let: make(chan error, 1), back: true}
	i := slices.IndexFunc(d.line, func(w *waiter) bool { return !w.back })
	if i < 0 {
		i = len(d.line)
	}
	d.line = slices.Insert(d.line, i, w)
	return w
}

// count counts one more caller inside.
func (d *door) count() {
	d.inside++
	d.peak = max(d.peak, d.inside)
}

// remove takes a waiter out of the line. It reports false if it is not there: its answer is on the way.
func (d *door) remove(w *waiter) bool {
	for i := range d.line {
		if d.line[i] == w {
			d.line = append(d.line[:i:i], d.line[i+1:]...)
			return true
		}
	}
	return false
}

// enter waits for a caller's turn, unless w is nil and it has come, and returns the engine to use until exit.
func (m *Manager) enter(ctx context.Context, w *waiter) (*Engine, error) {
	for {
		if w != nil {
			if err := m.wait(ctx, w); err != nil {
				return nil, err
			}
		}
		engine, again, err := m.pick(ctx)
		if again == nil {
			return engine, err
		}
		w = again
	}
}

// pick returns the engine for a caller who was let in. If its device was left in that moment, the caller gets
// a place in the line again, or the reason why nothing is loaded in its stead.
func (m *Manager) pick(ctx context.Context) (e *Engine, again *waiter, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.engine != nil {
		return m.engine, nil, nil
	}
	m.door.inside--
	if err := m.goneLocked(); err != nil {
		m.counts.count(ctx, err)
		return nil, nil, err
	}
	return nil, m.door.putBack(), nil
}

// arrive lets a caller in if nobody is before it and there is room, and returns nil; or gives it a place in
// the line; or sends it away.
//
// Whoever takes a caller's place away, here and below, counts its outcome under the same lock: a caller is
// at every moment inside, in the line or among the outcomes.
func (m *Manager) arrive(ctx context.Context) (*waiter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts.Calls++
	m.counts.LastCall = time.Now()
	if err := m.refusalLocked(ctx); err != nil {
		m.counts.count(ctx, err)
		return nil, err
	}
	return m.door.place(), nil
}

// refusalLocked returns why a caller is sent away, nil if it may come in or wait.
func (m *Manager) refusalLocked(ctx context.Context) error {
	d := &m.door
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case m.goneLocked() != nil:
		return m.goneLocked()
	case !d.hasRoom() && len(d.line) >= d.limits.MaxWaiting:
		return &OverloadError{What: "callers waiting", Count: len(d.line), Limit: d.limits.MaxWaiting, RetryAfter: m.backlogLocked()}
	}
	return nil
}

// goneLocked returns why waiting is in vain, nil if it isn't.
func (m *Manager) goneLocked() error {
	switch m.state {
	case Closed:
		return ErrClosed
	case Failed:
		return fmt.Errorf("the model is not loaded: %w", m.loadErr)
	default:
		return nil
	}
}

// wait waits in the line, first for the model to be ready, then for access, each as long as its timeout.
func (m *Manager) wait(ctx context.Context, w *waiter) error {
	m.mu.Lock()
	ready, limits := m.door.ready, m.door.limits
	m.mu.Unlock()
	what, timeout := "wait", limits.WaitTimeout
	for {
		timer := time.NewTimer(timeout)
		select {
		case err := <-w.let:
			timer.Stop()
			return err
		case <-ready:
			timer.Stop()
			ready, what, timeout = nil, "access", limits.AccessTimeout
		case <-timer.C:
			return m.giveUp(ctx, w, func() error { return m.timedOutLocked(what, timeout) })
		case <-ctx.Done():
			timer.Stop()
			return m.giveUp(ctx, w, func() error { return fmt.Errorf("waiting for the model: %w", context.Cause(ctx)) })
		}
	}
}

// refuseLocked sends everybody in the line away.
func (m *Manager) refuseLocked(err error) {
	for _, w := range m.door.line {
		w.let <- err
		m.counts.count(context.Background(), err)
	}
	m.door.line = nil
}

// giveUp leaves the line with the error that reason makes under the lock, unless the answer has come
// meanwhile: a place that was given must not be lost.
func (m *Manager) giveUp(ctx context.Context, w *waiter, reasonLocked func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.door.remove(w) {
		return <-w.let
	}
	err := reasonLocked()
	m.counts.count(ctx, err)
	return err
}

func (m *Manager) timedOutLocked(what string, timeout time.Duration) error {
	e := &TimeoutError{What: what, After: timeout, Err: ErrOverloaded}
	if what == "access" {
		e.Err = &OverloadError{
			What: fmt.Sprintf("callers inside and %d more waiting", len(m.door.line)), Count: m.door.inside,
			Limit: m.door.limits.MaxAccess, RetryAfter: m.backlogLocked(),
		}
	}
	return e
}

// backlogLocked estimates when there is likely to be room.
func (m *Manager) backlogLocked() time.Duration {
	if m.engine == nil {
		return 0
	}
	return time.Duration(m.engine.Stats().Backlog)
}

// exit counts a caller out and its outcome, lets the next one in, and returns nil; or it gives the caller a
// place in the line again, because its device was left.
func (m *Manager) exit(ctx context.Context, e *Engine, err error) (again *waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.door.inside--
	if m.comesAgainLocked(ctx, e, err) {
		again = m.door.putBack()
	} else {
		m.counts.count(ctx, err)
	}
	m.door.admit()
	return again
}

// arriveAll lets the first of some texts in as [Manager.EmbedDocument] would, and behind it as many as there is room for;
// it returns the engine and how many are in. An error is why the first was sent away.
func (m *Manager) arriveAll(ctxs []context.Context, rest []int) (*Engine, int, error) {
	first := ctxs[rest[0]]
	w, err := m.arrive(first)
	if err != nil {
		return nil, 0, err
	}
	engine, err := m.enter(first, w)
	if err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 1
	for n < len(rest) && m.engine == engine && m.door.hasRoom() {
		m.door.count()
		m.counts.Calls++
		n++
	}
	return engine, n, nil
}

// exitAll counts texts out that arriveAll let in, and their outcomes; but not of those that come again, because their
// device was left.
func (m *Manager) exitAll(e *Engine, ctxs []context.Context, list []vector.Embedded) (again []bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.door.inside -= len(list)
	again = make([]bool, len(list))
	for k, em := range list {
		if again[k] = m.comesAgainLocked(ctxs[em.Index], e, em.Err); again[k] {
			m.counts.Calls-- // it is counted when it comes
			continue
		}
		m.counts.count(ctxs[em.Index], em.Err)
	}
	m.door.admit()
	return again
}

// abandon counts out n callers who left before their outcome.
func (m *Manager) abandon(n int) {
	if n == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.door.inside -= n
	m.counts.Cancelled += int64(n)
	m.door.admit()
}

// A LimitChange names the limits to change: a field that is nil leaves its limit as it is, any other value
// is taken at its word, zero too, which is out of bounds. Its JSON form leaves the nil ones out.
type LimitChange struct {
	MaxAccess     *int     `json:"max_access,omitempty"`
	MaxWaiting    *int     `json:"max_waiting,omitempty"`
	AccessTimeout *Seconds `json:"access_timeout_seconds,omitempty"`
	WaitTimeout   *Seconds `json:"wait_timeout_seconds,omitempty"`
	LoadTimeout   *Seconds `json:"load_timeout_seconds,omitempty"`
}

// on returns l with the changes made to it.
func (c LimitChange) on(l Limits) Limits {
	replace(&l.MaxAccess, c.MaxAccess)
	replace(&l.MaxWaiting, c.MaxWaiting)
	replace(&l.AccessTimeout, (*time.Duration)(c.AccessTimeout))
	replace(&l.WaitTimeout, (*time.Duration)(c.WaitTimeout))
	replace(&l.LoadTimeout, (*time.Duration)(c.LoadTimeout))
	return l
}

func replace[T any](v, by *T) {
	if by != nil {
		*v = *by
	}
}

// SetLimits changes limits at once. If one of the values is out of bounds, nothing changes, and the error
// names every such value with its bounds. Callers inside stay when MaxAccess shrinks below their number;
// those who wait keep the timeouts under which they began, as does a load under way.
func (m *Manager) SetLimits(change LimitChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := change.on(m.door.limits)
	if err := changed.validate(); err != nil {
		return fmt.Errorf("setting limits: %w", err)
	}
	m.door.limits = changed
	m.door.admit()
	return nil
}
