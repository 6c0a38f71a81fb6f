package main

import (
	"context"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/lanes"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/monitoring/fleet"
)

// newMetrics returns the process's series. They are drawn from what the page shows, so that scrapes cost Redis
// nothing.
func newMetrics(c *fleet.Collector) *monitoring.Monitor {
	started := time.Now()
	parts := []string{fleet.PartLanes, fleet.PartWorkers, fleet.PartEvents, fleet.PartCauses, fleet.PartSources}
	return monitoring.NewMonitor(version(), monitoring.NewLanes(laneReader(c)), parts, func(part string) time.Duration {
		s, _ := c.Snapshot()
		if at := s.Parts[part].At; !at.IsZero() {
			return time.Since(at)
		}
		return time.Since(started)
	})
}

// laneReader reads the lanes off the latest snapshot. One that is too old is as good as none.
func laneReader(c *fleet.Collector) monitoring.LaneReader {
	return func(context.Context) ([]monitoring.Lane, error) {
		s, _ := c.Snapshot()
		part := s.Parts[fleet.PartLanes]
		if age := time.Since(part.At); part.At.IsZero() || age > unreached {
			return nil, fmt.Errorf("the lanes were not read for a minute: %s", part.Err)
		}
		return lanes.Of(s.Lanes), nil
	}
}
