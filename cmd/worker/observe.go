package main

import (
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/tasks"
)

// engineObserver carries the engine's measurements to the metrics.
type engineObserver struct{ metrics *monitoring.Worker }

func (o engineObserver) Tokenized(took time.Duration, _, _ int) { o.metrics.Stage("tokenize", took) }

func (o engineObserver) Ran(r embedder.RunInfo) {
	o.metrics.Stage("wait", r.Waited)
	o.metrics.Stage("infer", r.Took)
	o.metrics.Batch(r.Texts, r.Tokens, r.Padded)
}

// taskObserver carries the handler's.
type taskObserver struct{ metrics *monitoring.Worker }

func (o taskObserver) Stage(s tasks.Stage, took time.Duration) { o.metrics.Stage(string(s), took) }

func (o taskObserver) Outcome(k tasks.Kind, out tasks.Outcome, code string) {
	o.metrics.Task(string(k), string(out), code)
}
