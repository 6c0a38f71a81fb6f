package monitoring_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/monitoring"
)

// TestPulse is a table of a worker's days; each ends in the question whether it is stuck.
func TestPulse(t *testing.T) {
	t.Parallel()
	const quick = 50 * time.Millisecond
	for name, tt := range map[string]struct {
		live  func(p *monitoring.Pulse)
		stuck bool
	}{
		"idle for a week":                    {func(*monitoring.Pulse) { time.Sleep(7 * 24 * time.Hour) }, false},
		"loading for an hour, warm-up only":  {func(p *monitoring.Pulse) { p.Beat(time.Second); time.Sleep(time.Hour) }, false},
		"a task for less than the floor":     {func(p *monitoring.Pulse) { p.Enter(); time.Sleep(30 * time.Second) }, false},
		"a task for more than the floor":     {func(p *monitoring.Pulse) { p.Enter(); time.Sleep(31 * time.Second) }, true},
		"a task after a week without one":    {func(p *monitoring.Pulse) { time.Sleep(7 * 24 * time.Hour); p.Enter(); time.Sleep(20 * time.Second) }, false},
		"native calls return, tasks go on":   {func(p *monitoring.Pulse) { p.Enter(); beats(p, 20, quick, 25*time.Second) }, false},
		"the last native call never returns": {func(p *monitoring.Pulse) { p.Enter(); beats(p, 20, quick, time.Second); time.Sleep(31 * time.Second) }, true},
		"a slow model within ten of its own": {func(p *monitoring.Pulse) {
			p.Enter()
			beats(p, 20, 8*time.Second, 8*time.Second)
			time.Sleep(79 * time.Second)
		}, false},
		"a slow model beyond ten of its own": {func(p *monitoring.Pulse) {
			p.Enter()
			beats(p, 20, 8*time.Second, 8*time.Second)
			time.Sleep(81 * time.Second)
		}, true},
		"one long text, as long as at warm-up": {func(p *monitoring.Pulse) {
			p.Beat(time.Minute)
			beats(p, 500, quick, quick)
			p.Enter()
			time.Sleep(2 * time.Minute)
		}, false},
		"tasks answered from the store":       {func(p *monitoring.Pulse) { p.Enter(); rounds(p, 20, (*monitoring.Pulse).Done) }, false},
		"tasks that only fail":                {func(p *monitoring.Pulse) { p.Enter(); rounds(p, 20, (*monitoring.Pulse).Leave) }, true},
		"failed, then held back with nothing": {func(p *monitoring.Pulse) { p.Enter(); time.Sleep(20 * time.Second); p.Leave(); time.Sleep(time.Hour) }, false},
		"tried again after it was held back": {func(p *monitoring.Pulse) {
			p.Enter()
			time.Sleep(20 * time.Second)
			p.Leave()
			p.Enter()
			time.Sleep(20 * time.Second)
		}, false},
		"stuck, then it went on": {func(p *monitoring.Pulse) { p.Enter(); time.Sleep(time.Hour); p.Beat(quick) }, false},
		"stuck, then all left":   {func(p *monitoring.Pulse) { p.Enter(); time.Sleep(time.Hour); p.Leave() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var p monitoring.Pulse
				tt.live(&p)
				err := p.Stuck()
				if (err != nil) != tt.stuck {
					t.Errorf("Stuck() = %v, want %v", err, tt.stuck)
				}
				if err != nil && (!strings.Contains(err.Error(), "with 1 in hand") || !strings.Contains(err.Error(), "the limit is")) {
					t.Errorf("it does not say what and how long: %v", err)
				}
			})
		})
	}
}

// beats lets n native calls of took return, one every so often.
func beats(p *monitoring.Pulse, n int, took, every time.Duration) {
	for range n {
		time.Sleep(every)
		p.Beat(took)
	}
}

// rounds has a further task come before the one before it ends, so that there is always one.
func rounds(p *monitoring.Pulse, n int, end func(*monitoring.Pulse)) {
	for range n {
		time.Sleep(10 * time.Second)
		p.Enter()
		end(p)
	}
}
