package monitoring_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/embedfleet/embedfleet/monitoring"
)

// The real figures are read in cmd/internal/lanes, from a real Redis; here is what becomes of them.
func TestLaneSeries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		var fault error
		lanes := monitoring.NewLanes(func(context.Context) ([]monitoring.Lane, error) {
			looks++
			if fault != nil {
				return nil, fault
			}
			return []monitoring.Lane{
				{Model: "m", Lane: "live", Pending: 3, Active: 2, Scheduled: 1, Retries: 4, RetryDue: 1, Dead: 5, Processed: 9, Crashes: 6,
					Duplicates: 7, WaitingBytes: 400, WaitingTokens: 100, Oldest: 90 * time.Second, DrainRate: 0.5, ETA: 6 * time.Second, Paused: true},
				{Model: "m", Lane: "query"},
			}, nil
		})
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(lanes)
		want := `
# HELP embed_queue_tasks Tasks by state: pending, active, scheduled, retry, dead.
# TYPE embed_queue_tasks gauge
embed_queue_tasks{lane="live",model="m",state="active"} 2
embed_queue_tasks{lane="live",model="m",state="dead"} 5
embed_queue_tasks{lane="live",model="m",state="pending"} 3
embed_queue_tasks{lane="live",model="m",state="retry"} 4
embed_queue_tasks{lane="live",model="m",state="scheduled"} 1
embed_queue_tasks{lane="query",model="m",state="active"} 0
embed_queue_tasks{lane="query",model="m",state="dead"} 0
embed_queue_tasks{lane="query",model="m",state="pending"} 0
embed_queue_tasks{lane="query",model="m",state="retry"} 0
embed_queue_tasks{lane="query",model="m",state="scheduled"} 0
# HELP embed_queue_eta_seconds Time until what waits is through at the present rate; missing while that is not known.
# TYPE embed_queue_eta_seconds gauge
embed_queue_eta_seconds{lane="live",model="m"} 6
embed_queue_eta_seconds{lane="query",model="m"} 0
# HELP embed_queue_work_seconds Time that the model's workers need for what waits; missing while their speed is not known.
# TYPE embed_queue_work_seconds gauge
embed_queue_work_seconds{lane="query",model="m"} 0
# HELP embed_queue_duplicates_avoided_total Tasks that were not enqueued because the same one was there.
# TYPE embed_queue_duplicates_avoided_total counter
embed_queue_duplicates_avoided_total{lane="live",model="m"} 7
embed_queue_duplicates_avoided_total{lane="query",model="m"} 0
# HELP embed_queue_up 1 if the lanes could be read.
# TYPE embed_queue_up gauge
embed_queue_up 1
`
		names := []string{"embed_queue_tasks", "embed_queue_eta_seconds", "embed_queue_work_seconds", "embed_queue_duplicates_avoided_total", "embed_queue_up"}
		for range 2 { // the second is answered from the first look
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), names...); err != nil {
				t.Error(err)
			}
		}
		if looks != 1 {
			t.Errorf("%d looks for two scrapes within a second", looks)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
		// Redis is away: that is said, and nothing else is lost.
		fault = errors.New("redis is away")
		time.Sleep(time.Second)
		down := `
# HELP embed_queue_up 1 if the lanes could be read.
# TYPE embed_queue_up gauge
embed_queue_up 0
`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(down), names...); err != nil {
			t.Error(err)
		}
	})
}
