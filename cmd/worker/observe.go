package main

import (
	"context"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// engineObserver carries the engine's measurements to the metrics, the registry and the pulse.
type engineObserver struct {
	metrics *monitoring.Worker
	meter   *meter
	pulse   *monitoring.Pulse
}

func (o engineObserver) Tokenized(took time.Duration, _, _ int) { o.metrics.Stage("tokenize", took) }

func (o engineObserver) Ran(r embedder.RunInfo) {
	o.pulse.Beat(r.Took)
	o.metrics.Stage("wait", r.Waited)
	o.metrics.Stage("infer", r.Took)
	o.metrics.Batch(r.Texts, r.Tokens, r.Padded)
	if r.Err == nil {
		o.meter.add(r.Texts, r.Tokens, r.Took)
	}
}

// taskObserver carries the handler's.
type taskObserver struct{ metrics *monitoring.Worker }

func (o taskObserver) Stage(s tasks.Stage, took time.Duration) { o.metrics.Stage(string(s), took) }

func (o taskObserver) Outcome(k tasks.Kind, out tasks.Outcome, code string) {
	o.metrics.Task(string(k), string(out), code)
}

// felt is a handler whose tasks are counted by a pulse.
type felt struct {
	queue.Handler
	pulse *monitoring.Pulse
}

func (h felt) Handle(ctx context.Context, t tasks.Task) error {
	h.pulse.Enter()
	got := false
	defer func() { // a panic is the queue's to deal with
		if got {
			h.pulse.Done()
		} else {
			h.pulse.Leave()
		}
	}()
	err := h.Handler.Handle(ctx, t)
	got = err == nil || tasks.Classify(err) == tasks.Permanent
	return err
}
