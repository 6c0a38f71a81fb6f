package monitoring

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Names of the series of the model manager and of its process.
const (
	nameState   = "embed_manager_state"
	nameInside  = "embed_manager_inside"
	namePeak    = "embed_manager_inside_peak"
	nameLine    = "embed_manager_waiting"
	nameLimit   = "embed_manager_limit"
	nameTimeout = "embed_manager_timeout_seconds"
	nameCalls   = "embed_manager_calls_total"
	nameLoads   = "embed_manager_loads_total"
	nameLoad    = "embed_manager_load_seconds"
	nameMemory  = "embed_memory_bytes"
	nameStuck   = "embed_worker_stuck"
	nameInHand  = "embed_worker_tasks"
	nameCrashes = "embed_worker_crashes_total"
)

// managerStates are the values of the state's label; the one that holds has the value 1.
var managerStates = [...]string{"idle", "loading", "ready", "failed", "closed"}

// A Manager is one reading of a model manager: all of it of one moment, so that the series add up.
type Manager struct {
	State    string // idle, loading, ready, failed or closed
	Inside   int    // callers
	Peak     int    // most of them at once
	Waiting  int
	Limits   map[string]int           // by name: "max_access", "max_waiting"
	Timeouts map[string]time.Duration // by name: "access", "wait", "load"
	Calls    map[string]int64         // that have ended, by outcome
	Loads    int64                    // begun
	LoadTime time.Duration            // of the last one that ended
	Memory   []Memory
}

// Memory is one figure of memory.
type Memory struct {
	Of    string // "weights" or "process"
	Kind  string // "private", "shared" or "proportional"
	Bytes int64
}

// Manager registers the series of a model manager, which is read once at each scrape.
func (w *Worker) Manager(read func() Manager) { w.registry.MustRegister(newManagerSeries(read)) }

// Alive registers whether the worker is stuck, with how many tasks in hand, and how often it crashed before.
func (w *Worker) Alive(pulse *Pulse, crashes func() int) {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	w.registry.MustRegister(
		gauge(nameStuck, "1 while tasks are in hand and nothing comes back, so that /livez says no.", func() float64 {
			if pulse.Stuck() != nil {
				return 1
			}
			return 0
		}),
		gauge(nameInHand, "Tasks inside the handler.", func() float64 { return float64(pulse.Inside()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: nameCrashes, Help: "Times the supervisor had to start the worker again.",
		}, func() float64 { return float64(crashes()) }),
	)
}

// managerSeries is the collector of [Worker.Manager].
type managerSeries struct {
	read  func() Manager
	descs map[string]*prometheus.Desc
}

func newManagerSeries(read func() Manager) managerSeries {
	m := managerSeries{read: read, descs: map[string]*prometheus.Desc{}}
	for _, d := range []struct {
		name, help string
		labels     []string
	}{
		{nameState, "1 for the state of the model manager.", []string{"state"}},
		{nameInside, "Callers inside the model.", nil},
		{namePeak, "Most callers inside the model at once, since the start.", nil},
		{nameLine, "Callers that wait for access or for the model to load.", nil},
		{nameLimit, "Limits on callers, as they are now.", []string{"limit"}},
		{nameTimeout, "Timeouts, as they are now.", []string{"timeout"}},
		{nameCalls, "Calls that have ended, by outcome.", []string{"outcome"}},
		{nameLoads, "Loads begun.", nil},
		{nameLoad, "Time of the last load that ended.", nil},
		{nameMemory, "Resident memory, at most ten seconds old.", []string{"of", "kind"}},
	} {
		m.descs[d.name] = prometheus.NewDesc(d.name, d.help, d.labels, nil)
	}
	return m
}

// Describe implements [prometheus.Collector].
func (m managerSeries) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.descs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (m managerSeries) Collect(ch chan<- prometheus.Metric) {
	s := m.read()
	gauge := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.descs[name], prometheus.GaugeValue, v, labels...)
	}
	counter := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.descs[name], prometheus.CounterValue, v, labels...)
	}
	for _, state := range managerStates {
		is := 0.0
		if state == s.State {
			is = 1
		}
		gauge(nameState, is, state)
	}
	gauge(nameInside, float64(s.Inside))
	gauge(namePeak, float64(s.Peak))
	gauge(nameLine, float64(s.Waiting))
	gauge(nameLoad, s.LoadTime.Seconds())
	counter(nameLoads, float64(s.Loads))
	for name, n := range s.Limits {
		gauge(nameLimit, float64(n), name)
	}
	for name, d := range s.Timeouts {
		gauge(nameTimeout, d.Seconds(), name)
	}
	for outcome, n := range s.Calls {
		counter(nameCalls, float64(n), outcome)
	}
	for _, f := range s.Memory {
		gauge(nameMemory, float64(f.Bytes), f.Of, f.Kind)
	}
}
