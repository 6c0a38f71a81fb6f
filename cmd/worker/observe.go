package main

import (
	"context"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue/consumer"
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

func (o taskObserver) Stage(_ context.Context, s tasks.Stage, took time.Duration) {
	o.metrics.Stage(string(s), took)
}

func (o taskObserver) Outcome(k tasks.Kind, out tasks.Outcome, code string) {
	o.metrics.Task(string(k), string(out), code)
}

// withPulse is a handler whose tasks are counted by a pulse.
type withPulse struct {
	consumer.Handler
	pulse *monitoring.Pulse
}

func (h withPulse) HandleBatch(ctx context.Context, items []tasks.Item, report func([]tasks.Result)) {
	inside := len(items)
	for range items {
		h.pulse.Enter()
	}
	defer func() { // a panic is the consumer's to deal with
		for range inside {
			h.pulse.Leave()
		}
	}()
	h.Handler.HandleBatch(ctx, items, func(results []tasks.Result) {
		inside -= len(results)
		for _, r := range results {
			if r.Err == nil || tasks.Classify(r.Err) == tasks.Permanent {
				h.pulse.Done()
			} else {
				h.pulse.Leave()
			}
		}
		report(results)
	})
}
