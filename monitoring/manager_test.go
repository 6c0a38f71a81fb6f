package monitoring_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/embedfleet/embedfleet/monitoring"
)

func TestManagerSeries(t *testing.T) {
	t.Parallel()
	w := monitoring.NewWorker("v1")
	var pulse monitoring.Pulse
	pulse.Enter()
	w.Alive(&pulse, func() int { return 3 })
	reads := 0
	w.Manager(func() monitoring.Manager {
		reads++
		return monitoring.Manager{
			State: "ready", Inside: 2, Peak: 9, Waiting: 1,
			Limits:   map[string]int{"max_access": 16},
			Timeouts: map[string]time.Duration{"access": 20 * time.Second},
			Calls:    map[string]int64{"done": 40, "overloaded": 2},
			Loads:    1, LoadTime: 1500 * time.Millisecond,
			Memory: []monitoring.Memory{{Of: "weights", Kind: "shared", Bytes: 1 << 20}},
		}
	})
	want := `
# HELP embed_manager_calls_total Calls that have ended, by outcome.
# TYPE embed_manager_calls_total counter
embed_manager_calls_total{outcome="done"} 40
embed_manager_calls_total{outcome="overloaded"} 2
# HELP embed_manager_inside Callers inside the model.
# TYPE embed_manager_inside gauge
embed_manager_inside 2
# HELP embed_manager_inside_peak Most callers inside the model at once, since the start.
# TYPE embed_manager_inside_peak gauge
embed_manager_inside_peak 9
# HELP embed_manager_limit Limits on callers, as they are now.
# TYPE embed_manager_limit gauge
embed_manager_limit{limit="max_access"} 16
# HELP embed_manager_load_seconds Time of the last load that ended.
# TYPE embed_manager_load_seconds gauge
embed_manager_load_seconds 1.5
# HELP embed_manager_loads_total Loads begun.
# TYPE embed_manager_loads_total counter
embed_manager_loads_total 1
# HELP embed_manager_state 1 for the state of the model manager.
# TYPE embed_manager_state gauge
embed_manager_state{state="closed"} 0
embed_manager_state{state="failed"} 0
embed_manager_state{state="idle"} 0
embed_manager_state{state="loading"} 0
embed_manager_state{state="ready"} 1
# HELP embed_manager_timeout_seconds Timeouts, as they are now.
# TYPE embed_manager_timeout_seconds gauge
embed_manager_timeout_seconds{timeout="access"} 20
# HELP embed_manager_waiting Callers that wait for access or for the model to load.
# TYPE embed_manager_waiting gauge
embed_manager_waiting 1
# HELP embed_memory_bytes Resident memory, at most ten seconds old.
# TYPE embed_memory_bytes gauge
embed_memory_bytes{kind="shared",of="weights"} 1.048576e+06
# HELP embed_worker_crashes_total Times the supervisor had to start the worker again.
# TYPE embed_worker_crashes_total counter
embed_worker_crashes_total 3
# HELP embed_worker_stuck 1 while tasks are in hand and nothing comes back, so that /livez says no.
# TYPE embed_worker_stuck gauge
embed_worker_stuck 0
# HELP embed_worker_tasks Tasks inside the handler.
# TYPE embed_worker_tasks gauge
embed_worker_tasks 1
`
	var names []string
	for line := range strings.Lines(want) {
		if name, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, _, _ = strings.Cut(name, " ")
			names = append(names, name)
		}
	}
	if err := testutil.GatherAndCompare(w.Registry(), strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	if reads != 1 {
		t.Errorf("the manager was read %d times for one scrape: its series need not add up", reads)
	}
	problems, err := testutil.GatherAndLint(w.Registry())
	problems = slices.DeleteFunc(problems, func(p promlint.Problem) bool { return !strings.HasPrefix(p.Metric, "embed_") })
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
