package main

import (
	"context"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/trace"
)

// traced runs w, whose spans go to a collector if the flags name one. Spans that got lost are told of and are no
// reason to fail.
func traced(ctx context.Context, w *worker, flags boot.Trace) error {
	tracer, err := trace.Open(ctx, "worker", trace.Options{Collector: flags.Collector, Percent: flags.Percent, Logger: w.log})
	if err != nil {
		return boot.Usagef("--otlp: %w", err)
	}
	defer func() {
		if err := tracer.Close(); err != nil {
			w.log.Warn("spans were not sent", "err", err)
		}
	}()
	w.tracer = tracer
	return w.run(ctx)
}
