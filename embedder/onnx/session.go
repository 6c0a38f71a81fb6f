package onnx

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/vector"
	ort "github.com/yalue/onnxruntime_go"
)

// A Session is a loaded graph. It implements [embedder.Model] and [embedder.Measurer].
type Session struct {
	rt       *Runtime
	opts     Options
	names    ports
	prepared bool

	// mu is held for reading by every Run inside, so that Close waits for them and later ones see closed.
	mu     sync.RWMutex
	native *ort.DynamicAdvancedSession // nil after Close
}

// Open loads the graph at graphPath, an absolute path, or its prepared form if opts names one that matches
// this runtime, processor and source; one that doesn't is passed over with a warning. Without a graphPath there is
// nothing but the prepared form, and one that doesn't match is an error. Inputs, output,
// element types and shapes are checked before anything is loaded. Open returns when the session is ready,
// or, if ctx ends during the load, after the native load has come back and was freed.
func (rt *Runtime) Open(ctx context.Context, graphPath string, opts Options) (*Session, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("opening %s: %w", graphPath, err)
	}
	from := graphPath
	if from == "" && opts.Prepared.Dir != "" {
		from = opts.Prepared.graph()
	}
	names, err := readPorts(from, opts.Output)
	if err != nil {
		return nil, err
	}
	if opts.Dim, err = settleDim(opts.Dim, names.dim); err != nil {
		return nil, fmt.Errorf("graph %s: %w", from, err)
	}
	if err := rt.retain(); err != nil {
		return nil, err
	}
	s := &Session{rt: rt, opts: opts, names: names}
	if err := s.load(ctx, graphPath); err != nil {
		rt.release()
		return nil, err
	}
	return s, nil
}

// settleDim reconciles the dimension the caller expects with the declared one; 0 means not stated.
func settleDim(want, declared int) (int, error) {
	switch {
	case want == 0 && declared == 0:
		return 0, errors.New("the output's dimension is left open, Options.Dim must state it")
	case want != 0 && declared != 0 && want != declared:
		return 0, fmt.Errorf("the output has %d dimensions, the model says %d", declared, want)
	}
	return max(want, declared), nil
}

// load creates the native session, from the prepared folder where it can.
func (s *Session) load(ctx context.Context, graphPath string) error {
	so, err := s.rt.sessionOptions(s.opts.Threads)
	if err != nil {
		return err
	}
	defer so.Destroy()
	if err := s.opts.Device.attach(so); err != nil {
		return err
	}
	start := time.Now()
	path, err := s.choose(graphPath)
	if err != nil {
		return err
	}
	if s.prepared {
		// The file is already optimised, and doing it again costs most of the load.
		if err := so.SetGraphOptimizationLevel(ort.GraphOptimizationLevelDisableAll); err != nil {
			return fmt.Errorf("setting session options: %w", err)
		}
	}
	s.native, err = s.rt.create(ctx, path, s.names, so)
	if err != nil {
		return err
	}
	s.rt.log.Info("session opened", "graph", path, "prepared", s.prepared, "dim", s.opts.Dim, "threads", s.opts.Threads, "device", s.opts.Device.String(), "dur", time.Since(start))
	return nil
}

// choose returns the graph to load, the prepared one where that is named and matches.
func (s *Session) choose(graphPath string) (string, error) {
	if s.opts.Prepared.Dir == "" {
		return graphPath, nil
	}
	err := s.rt.Verify(s.opts.Prepared)
	switch {
	case err == nil:
		s.prepared = true
		return s.opts.Prepared.graph(), nil
	case graphPath == "":
		return "", err
	}
	s.rt.log.Warn("prepared graph not used", "err", err)
	return graphPath, nil
}

// Dim is the vectors' dimension.
func (s *Session) Dim() int { return s.opts.Dim }

// Prepared reports whether the session maps a prepared graph.
func (s *Session) Prepared() bool { return s.prepared }

// Run embeds the rows of b; see [embedder.Model]. The vectors of one call share one block of memory.
// Errors: a row outside the model's tables, [embedder.ErrClosed], ctx's cause, [embedder.ErrDeviceMemory], or
// the runtime's own.
func (s *Session) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	if err := s.opts.check(b); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.native == nil {
		return nil, fmt.Errorf("running a closed session: %w", embedder.ErrClosed)
	}
	t, err := newTensors(pad(b.Rows, s.opts.PadID), b.Prompts, s.names.inputs, s.opts.Dim)
	if err != nil {
		return nil, err
	}
	defer t.free()
	if err := s.call(ctx, t); err != nil {
		return nil, err
	}
	return t.vectors(len(b.Rows), s.opts.Dim), nil
}

// call runs the graph and returns when the native code has, whatever becomes of ctx.
func (s *Session) call(ctx context.Context, t *tensors) error {
	ro, err := ort.NewRunOptions()
	if err != nil {
		return fmt.Errorf("making run options: %w", err)
	}
	unwatch := terminateOnDone(ctx, ro)
	runErr := s.native.RunWithOptions(t.inputs, t.outputs, ro)
	// Terminate on freed options would be a write to freed memory: first the watcher ends, then they go.
	unwatch()
	destroyErr := ro.Destroy()
	if runErr != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case runErr == nil:
		return destroyErr
	case outOfMemory(runErr):
		return fmt.Errorf("running the graph: %w: %w", embedder.ErrDeviceMemory, runErr)
	default:
		return fmt.Errorf("running the graph: %w", runErr)
	}
}

// terminateOnDone raises the terminate flag of ro when ctx ends. After the returned function has returned,
// ro is not touched again.
func terminateOnDone(ctx context.Context, ro *ort.RunOptions) (unwatch func()) {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		// A failure leaves the run going to its end, which is slow but right.
		_ = ro.Terminate()
	})
	return func() {
		if !stop() {
			<-fired
		}
	}
}

// Close waits for the runs inside, then frees the session; later runs get [embedder.ErrClosed]. Whoever
// can't wait cancels the contexts of those runs first. Closing twice is harmless.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.native == nil {
		return nil
	}
	err := s.native.Destroy()
	s.native = nil
	s.rt.release()
	trim()
	if err != nil {
		return fmt.Errorf("freeing the session: %w", err)
	}
	return nil
}
