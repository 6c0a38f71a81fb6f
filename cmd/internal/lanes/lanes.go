// Package lanes reads the queue's lanes for the metrics. It is apart from cmd/internal/fleet, so that the
// producer's command does not link Prometheus.
package lanes

import (
	"context"

	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
)

// Reader reads the lanes for [monitoring.NewLanes]: those of the models that the registry names, and of
// those named here. lanes should be kept as long as the process, since it learns rates from look to look.
func Reader(lanes *queue.Lanes, models ...string) monitoring.LaneReader {
	return func(ctx context.Context) ([]monitoring.Lane, error) {
		list, err := lanes.Status(ctx, models...)
		if err != nil {
			return nil, err
		}
		return Of(list), nil
	}
}

// Of is a look at the lanes in the form that the metrics take.
func Of(list []queue.LaneStatus) []monitoring.Lane {
	out := make([]monitoring.Lane, len(list))
	for i, l := range list {
		out[i] = monitoring.Lane{
			Model: l.Model, Lane: string(l.Lane), Pending: l.Pending, Active: l.Active, Scheduled: l.Scheduled, Retries: l.Retry,
			Dead: l.Dead, RetryDue: l.RetryDue, Processed: l.Processed, Crashes: l.Crashes, Duplicates: l.Duplicates,
			WaitingBytes: l.Bytes, WaitingTokens: l.Tokens, Oldest: l.OldestPending,
			DrainRate: l.DrainRate, ETA: l.ETA, Work: l.Work, Paused: l.Paused,
		}
	}
	return out
}
