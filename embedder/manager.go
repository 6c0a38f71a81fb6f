package embedder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// A State is what a [Manager] is doing.
type State string

// The states. Idle becomes Loading by Load; Loading becomes Ready, Failed, or Idle again when the load is
// cancelled; Failed becomes Loading by another Load. Closed is the end of each.
const (
	Idle    State = "idle"
	Loading State = "loading"
	Ready   State = "ready"
	Failed  State = "failed"
	Closed  State = "closed"
)

// ErrLoadCancelled is what those who wait for a load get when [Manager.CancelLoad] ends it.
var ErrLoadCancelled = errors.New("loading the model was cancelled")

// A Loader loads the model on a device and returns its engine. It should give up when ctx ends; where it
// can't, it may return late, and what it returns then is closed unseen. On an error nothing of the attempt
// may be left: the next device's attempt begins when this one has returned, and two models at once are
// what a Manager is there to prevent.
type Loader func(ctx context.Context, device string) (*Engine, error)

// A Slot is a place for one manager. A process has one, which managers take unless told otherwise; tests
// that run several workers in one process give each a Slot of its own.
type Slot struct{ taken atomic.Bool }

// process is the process's slot. A second model in a process is a second copy of gigabytes of weights,
// whoever asks for it and from where, so the guard can't be a value that somebody passes around.
var process Slot

// ManagerOptions are a manager's choices. The zero value and nil mean the defaults named at each field.
type ManagerOptions struct {
	Limits      Limits       // of callers and time; see there
	Devices     []string     // tried in order until one serves; nil means "cpu" alone
	Environment io.Closer    // closed after the engine, as the runtime that the model needs; nil means none
	Slot        *Slot        // nil means the process's own
	Logger      *slog.Logger // nil discards
}

// A Manager guards one model: it is loaded once, eagerly, by whoever owns the process, and never because a
// text arrived; callers who come before it is ready wait in order; at most so many are inside at once.
// It is safe for concurrent use.
type Manager struct {
	load    Loader
	devices []string
	env     io.Closer
	slot    *Slot
	log     *slog.Logger

	mu       sync.Mutex
	state    State
	since    time.Time
	loading  *loading // while a load is under way, cancelled or not
	loadErr  error    // why the state is Failed
	engine   *Engine  // while Ready, and while Closed until it is freed
	at       int      // the device that serves or is tried first, an index of devices
	refused  []Refusal
	space    vector.Space // of the first engine; no other is ever served
	door     door
	counts   Counts
	lost     chan struct{} // closed when a fallback has failed
	memory   Memory
	measured time.Time     // when memory was read
	closed   chan struct{} // made by the first Close, closed at its end
	err      error         // of the first Close
}

// loading is a load under way.
type loading struct {
	leaves    *Engine // on a device that is out of memory; freed before anything is loaded
	cancel    context.CancelCauseFunc
	cancelled bool          // its result will be discarded
	done      chan struct{} // closed when the loader has returned and its result is dealt with
	err       error         // readable after done
}

// NewManager returns an idle manager. It is an error if the slot is taken by one that is not closed.
func NewManager(load Loader, options *ManagerOptions) (*Manager, error) {
	var o ManagerOptions
	if options != nil {
		o = *options
	}
	limits := o.Limits.withDefaults()
	if err := limits.validate(); err != nil {
		return nil, fmt.Errorf("manager options: %w", err)
	}
	if len(o.Devices) == 0 {
		o.Devices = []string{"cpu"}
	}
	if o.Slot == nil {
		o.Slot = &process
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if !o.Slot.taken.CompareAndSwap(false, true) {
		return nil, errors.New("this process has a model manager already: one model per process")
	}
	return &Manager{
		load: load, devices: o.Devices, env: o.Environment, slot: o.Slot, log: o.Logger,
		state: Idle, since: time.Now(), door: door{limits: limits, ready: make(chan struct{})}, lost: make(chan struct{}),
	}, nil
}

// Load loads the model and returns when it is ready, or with the reason why it is not: the loader's error,
// a [TimeoutError] of the load, [ErrLoadCancelled], [ErrClosed]. There is one load at a time: a call during
// a load joins it, a call when the model is ready returns nil. If ctx ends, Load returns its cause and the
// load goes on; [Manager.CancelLoad] ends it.
func (m *Manager) Load(ctx context.Context) error {
	for {
		l, joined, err := m.beginLoad()
		if l == nil {
			return err
		}
		select {
		case <-l.done:
			if joined && errors.Is(l.err, ErrLoadCancelled) {
				continue // cancelled before this call came: a new load may start now
			}
			return l.err
		case <-ctx.Done():
			return fmt.Errorf("waiting for the model to load: %w", context.Cause(ctx))
		}
	}
}

// beginLoad returns the load to wait for, nil if there is none: the model is ready, or err says why not.
// Stale says that the load was cancelled before.
func (m *Manager) beginLoad() (l *loading, stale bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.state == Closed:
		return nil, false, ErrClosed
	case m.state == Ready:
		return nil, false, nil
	case m.loading != nil:
		return m.loading, m.loading.cancelled, nil
	}
	m.at, m.refused = 0, nil
	return m.startLoadLocked(nil), false, nil
}

// startLoadLocked starts a load with the device at which the manager is, once leaves, which may be nil, is
// freed.
func (m *Manager) startLoadLocked(leaves *Engine) *loading {
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &loading{leaves: leaves, cancel: cancel, done: make(chan struct{})}
	m.loading, m.loadErr = l, nil
	m.enterLocked(Loading)
	m.counts.Loads++
	go m.runLoad(ctx, l, m.at, m.door.limits.LoadTimeout)
	return l
}

// runLoad is the goroutine of a load.
func (m *Manager) runLoad(ctx context.Context, l *loading, from int, timeout time.Duration) {
	defer l.cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, timeout, &TimeoutError{What: "load", After: timeout, Err: context.DeadlineExceeded})
	defer stop()
	start := time.Now()
	var got attempt
	if l.leaves != nil {
		got.err = free(l.leaves)
	}
	if got.err == nil {
		m.log.Info("loading the model at start-up", "devices", m.devices[from:])
		got = m.tryDevices(ctx, from)
	}
	if got.err == nil {
		// Only loads write the space, and there is one load at a time.
		got.err = checkSpace(m.space, got.engine, m.devices[got.at])
	}
	got.took = time.Since(start)
	m.endLoad(l, got)
}

// An attempt is the outcome of a load.
type attempt struct {
	engine  *Engine // may be there with err: then it must be freed
	at      int     // its device
	refused []Refusal
	err     error
	took    time.Duration
}

// tryDevices loads on the first device that serves, from the given one on.
func (m *Manager) tryDevices(ctx context.Context, from int) attempt {
	var got attempt
	var errs []error
	for at := from; at < len(m.devices); at++ {
		device := m.devices[at]
		if at > 0 {
			debug.FreeOSMemory() // what the attempt before has left, lest the two add up
		}
		engine, err := m.load(ctx, device)
		if ctx.Err() != nil {
			if err == nil {
				err = free(engine) // it came too late
			}
			got.err = errors.Join(context.Cause(ctx), err)
			return got
		}
		if err == nil {
			got.engine, got.at = engine, at
			return got
		}
		got.refused = append(got.refused, Refusal{device, err.Error()})
		if len(m.devices) > 1 { // else the caller tells it; there is nothing else to try
			m.log.Warn("device does not serve", "device", device, "err", err)
			err = fmt.Errorf("loading on %s: %w", device, err)
		}
		errs = append(errs, err)
	}
	got.err = errors.Join(errs...)
	return got
}

// free closes an engine without waiting for the callers inside; it returns after their native calls have.
func free(e *Engine) error {
	now, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("the device is left"))
	return e.Close(now)
}

// endLoad makes the outcome of a load the manager's state. What does not serve is freed first, while the load
// still counts as under way: neither the next one nor the environment's end may pass it.
func (m *Manager) endLoad(l *loading, got attempt) {
	defer close(l.done)
	if m.settleLoad(l, got) {
		return
	}
	var freed error
	if got.engine != nil {
		freed = free(got.engine)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loading = nil
	switch {
	case m.state == Closed:
		l.err = errors.Join(ErrClosed, freed)
	case l.cancelled:
		l.err = errors.Join(ErrLoadCancelled, freed)
		m.enterLocked(Idle)
	default:
		l.err = errors.Join(got.err, freed)
		m.failLocked(l.err)
		m.log.Debug("model not loaded", "dur", got.took, "err", l.err) // Load's caller reports it
	}
}

// settleLoad opens the door to what was loaded. It reports false if that doesn't serve: there is nothing, or
// it came too late.
func (m *Manager) settleLoad(l *loading, got attempt) (serves bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts.LoadTime = Seconds(got.took)
	m.refused = append(m.refused, got.refused...)
	if got.err != nil || l.cancelled || m.state == Closed {
		return false
	}
	m.loading = nil
	m.serveLocked(got)
	return true
}

// serveLocked opens the door to an engine.
func (m *Manager) serveLocked(got attempt) {
	m.engine, m.at, m.space = got.engine, got.at, got.engine.Settings().Space
	m.memory, m.measured = Memory{}, time.Time{}
	m.enterLocked(Ready)
	m.door.open()
	m.log.Info("model ready, serving", "device", m.devices[m.at], "space", m.space.Short(), "dur", got.took)
}

// failLocked enters Failed and sends everybody away.
func (m *Manager) failLocked(err error) {
	m.loadErr = err
	m.enterLocked(Failed)
	m.refuseLocked(err)
	if m.space == "" {
		return
	}
	select {
	case <-m.lost:
	default:
		close(m.lost)
		m.log.Error("the model is lost, the process should end", "err", err)
	}
}

func (m *Manager) enterLocked(s State) { m.state, m.since = s, time.Now() }

// CancelLoad ends a load under way: those who wait for it get [ErrLoadCancelled] at once, and the manager is
// idle when the loader has returned. It reports false if there was nothing to cancel.
func (m *Manager) CancelLoad() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loading == nil || m.loading.cancelled {
		return false
	}
	m.loading.cancelled = true
	m.loading.cancel(ErrLoadCancelled)
	m.refuseLocked(ErrLoadCancelled)
	return true
}

// EmbedDocument is [Engine.EmbedDocument] behind the door. Further errors, of it and of the two below: a
// [TimeoutError] of the wait for the load or for access, an [OverloadError] at once if too many wait
// already, the load's error if it failed.
func (m *Manager) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	return within(ctx, m, func(e *Engine) ([]vector.Chunk, error) { return e.EmbedDocument(ctx, text) })
}

// EmbedQuery is [Engine.EmbedQuery] behind the door.
func (m *Manager) EmbedQuery(ctx context.Context, text string) (vector.Embedding, error) {
	return within(ctx, m, func(e *Engine) (vector.Embedding, error) { return e.EmbedQuery(ctx, text) })
}

// EmbedText is [Engine.EmbedText] behind the door.
func (m *Manager) EmbedText(ctx context.Context, text string) (vector.Embedding, error) {
	return within(ctx, m, func(e *Engine) (vector.Embedding, error) { return e.EmbedText(ctx, text) })
}

// EmbedDocuments is [Engine.EmbedDocuments] behind the door. It lets in as many texts at a time as there is room for; the
// others wait, the first of them in the line and the rest behind it. A text whose device is left meanwhile is embedded
// on the next one.
func (m *Manager) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return m.withinAll(ctxs, texts, (*Engine).EmbedDocuments)
}

// EmbedQueries is [Engine.EmbedQueries] behind the door, likewise.
func (m *Manager) EmbedQueries(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return m.withinAll(ctxs, texts, (*Engine).EmbedQueries)
}

// bulkCall is a method of an engine that embeds many texts.
type bulkCall func(e *Engine, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded]

// withinAll lets texts in, runs f and counts their outcomes, until there is one of each.
func (m *Manager) withinAll(ctxs []context.Context, texts []string, f bulkCall) iter.Seq[[]vector.Embedded] {
	return func(yield func([]vector.Embedded) bool) {
		rest := make([]int, len(texts))
		for i := range rest {
			rest[i] = i
		}
		for len(rest) > 0 {
			engine, n, err := m.arriveAll(ctxs, rest)
			if err != nil {
				var refused []vector.Embedded
				refused, rest = refusals(ctxs, rest, err)
				if !yield(refused) {
					return
				}
				continue
			}
			again, ok := m.runAll(engine, f, ctxs, texts, rest[:n], yield)
			if !ok {
				return
			}
			rest = append(again, rest[n:]...)
		}
	}
}

// refusals gives the error with which the first text was sent away to it, and to the others unless it is its own.
func refusals(ctxs []context.Context, rest []int, err error) (refused []vector.Embedded, left []int) {
	n := len(rest)
	if ctxs[rest[0]].Err() != nil {
		n = 1
	}
	for _, i := range rest[:n] {
		refused = append(refused, vector.Embedded{Index: i, Err: err})
	}
	return refused, rest[n:]
}

// runAll runs f for texts that were let in. It returns those whose device was left, and false if the loop was.
func (m *Manager) runAll(
	e *Engine, f bulkCall, ctxs []context.Context, texts []string, in []int, yield func([]vector.Embedded) bool,
) (again []int, ok bool) {
	left := len(in)
	defer func() { m.abandon(left) }()
	someCtxs, someTexts := make([]context.Context, len(in)), make([]string, len(in))
	for n, i := range in {
		someCtxs[n], someTexts[n] = ctxs[i], texts[i]
	}
	for list := range f(e, someCtxs, someTexts) {
		left -= len(list)
		for k := range list {
			list[k].Index = in[list[k].Index]
		}
		back := m.exitAll(e, ctxs, list)
		out := list[:0]
		for k, em := range list {
			if back[k] {
				again = append(again, em.Index)
			} else {
				out = append(out, em)
			}
		}
		if len(out) > 0 && !yield(out) {
			return nil, false
		}
	}
	return again, true
}

// within lets a caller in, runs f and counts its outcome. If the device is left meanwhile, f is run again on
// the next one.
func within[T any](ctx context.Context, m *Manager, f func(*Engine) (T, error)) (T, error) {
	w, err := m.arrive(ctx)
	for err == nil {
		var engine *Engine
		if engine, err = m.enter(ctx, w); err != nil {
			break
		}
		v, failure := f(engine)
		if w = m.exit(ctx, engine, failure); w == nil {
			return v, failure
		}
	}
	var none T
	return none, err
}

// Close refuses new callers and those who wait, cancels a load under way, and lets the callers inside
// finish until ctx ends; then running batches are terminated. When the last native call and the loader have
// returned, it frees the engine with its model, then the environment, then the slot. Calling it again waits
// for the first and returns the same.
func (m *Manager) Close(ctx context.Context) error {
	l, first := m.shut()
	if !first {
		<-m.closed
		return m.err
	}
	if l != nil {
		<-l.done // what it loads would outlive the environment
	}
	var errs []error
	if m.engine != nil {
		errs = append(errs, m.engine.Close(ctx))
	}
	if m.env != nil {
		errs = append(errs, m.env.Close())
	}
	m.err = errors.Join(errs...)
	m.slot.taken.Store(false)
	m.log.Info("model closed", "err", m.err)
	close(m.closed)
	return m.err
}

// shut enters the state Closed. It returns the load to wait for, and false if it was closed before.
func (m *Manager) shut() (l *loading, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == Closed {
		return nil, false
	}
	m.closed = make(chan struct{})
	m.enterLocked(Closed)
	m.refuseLocked(ErrClosed)
	if m.loading != nil {
		m.loading.cancel(ErrClosed)
	}
	return m.loading, true
}

// EmbedAs is [Engine.EmbedAs] behind the door.
func (m *Manager) EmbedAs(prompt string, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return m.withinAll(ctxs, texts, func(e *Engine, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
		return e.EmbedAs(prompt, ctxs, texts)
	})
}
