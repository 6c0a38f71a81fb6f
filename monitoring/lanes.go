package monitoring

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Names of the lanes' series, as docs/metrics.md describes them.
const (
	nameLaneTasks      = "embed_queue_tasks"
	nameLaneRetryDue   = "embed_queue_retry_due_tasks"
	nameLaneOldest     = "embed_queue_oldest_pending_seconds"
	nameLaneTokens     = "embed_queue_waiting_tokens"
	nameLaneBytes      = "embed_queue_waiting_bytes"
	nameLaneDrain      = "embed_queue_drain_tasks_per_second"
	nameLaneETA        = "embed_queue_eta_seconds"
	nameLaneWork       = "embed_queue_work_seconds"
	nameLanePaused     = "embed_queue_paused"
	nameLaneProcessed  = "embed_queue_processed_tasks_total"
	nameLaneCrashes    = "embed_queue_crashes_total"
	nameLaneDuplicates = "embed_queue_duplicates_avoided_total"
	nameLanesUp        = "embed_queue_up"
	nameLanesTook      = "embed_queue_snapshot_seconds"
)

const (
	// lanesFresh is how old a look may be that answers a scrape: several scrapers cost what one does.
	lanesFresh = time.Second
	// lanesPatience bounds the wait for Redis, below Prometheus's own 10 s.
	lanesPatience = 5 * time.Second
)

// A Lane is how one lane of one model stands. The figures are the queue's; see there what each means.
type Lane struct {
	Model, Lane                               string
	Pending, Active, Scheduled, Retries, Dead int64
	RetryDue                                  int64 // of Retries
	Processed, Crashes, Duplicates            int64 // only grow
	WaitingBytes, WaitingTokens               int64 // estimates
	Oldest                                    time.Duration
	DrainRate                                 float64       // tasks a second
	ETA, Work                                 time.Duration // 0 is unknown, unless nothing waits
	Paused                                    bool
}

// A LaneReader looks at all lanes.
type LaneReader func(ctx context.Context) ([]Lane, error)

// Lanes is a collector of the series of all lanes of a Redis, read when they are scraped. Any number of
// processes may have one; each tells the same, but for the estimates of rate, which each learns by itself.
//
// While Redis can't be read there are no lanes and embed_queue_up is 0; the process's other series are
// scraped all the same.
type Lanes struct {
	read   LaneReader
	series []laneSeries
	up     *prometheus.Desc
	took   *prometheus.Desc

	mu     sync.Mutex
	at     time.Time
	latest []Lane
	err    error
	dur    time.Duration
}

// A laneSeries is one figure of each lane. value reports false where it is not known.
type laneSeries struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(Lane) (float64, bool)
	state string // the label of nameLaneTasks, else ""
}

// NewLanes returns the collector, to be registered with whatever the process shows.
func NewLanes(read LaneReader) *Lanes {
	l := &Lanes{
		read: read,
		up:   prometheus.NewDesc(nameLanesUp, "1 if the lanes could be read.", nil, nil),
		took: prometheus.NewDesc(nameLanesTook, "How long the look at all lanes took.", nil, nil),
	}
	tasks := prometheus.NewDesc(nameLaneTasks, "Tasks by state: pending, active, scheduled, retry, dead.", []string{"model", "lane", "state"}, nil)
	for _, s := range []struct {
		state string
		value func(Lane) int64
	}{
		{"pending", func(l Lane) int64 { return l.Pending }}, {"active", func(l Lane) int64 { return l.Active }},
		{"scheduled", func(l Lane) int64 { return l.Scheduled }}, {"retry", func(l Lane) int64 { return l.Retries }},
		{"dead", func(l Lane) int64 { return l.Dead }},
	} {
		l.series = append(l.series, laneSeries{tasks, prometheus.GaugeValue, count(s.value), s.state})
	}
	add := func(kind prometheus.ValueType, name, help string, value func(Lane) (float64, bool)) {
		desc := prometheus.NewDesc(name, help, []string{"model", "lane"}, nil)
		l.series = append(l.series, laneSeries{desc, kind, value, ""})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	add(gauge, nameLaneRetryDue, "Tasks in state retry whose time has come.", count(func(l Lane) int64 { return l.RetryDue }))
	add(gauge, nameLaneOldest, "Age of the task that waits longest, 0 if none does.", func(l Lane) (float64, bool) { return l.Oldest.Seconds(), true })
	add(gauge, nameLaneTokens, "Tokens that wait, estimated from the bytes of some tasks.", count(func(l Lane) int64 { return l.WaitingTokens }))
	add(gauge, nameLaneBytes, "Bytes that wait, estimated from some tasks.", count(func(l Lane) int64 { return l.WaitingBytes }))
	add(gauge, nameLaneDrain, "Tasks that leave the lane in a second.", func(l Lane) (float64, bool) { return l.DrainRate, true })
	add(gauge, nameLaneETA, "Time until what waits is through at the present rate; missing while that is not known.", known(func(l Lane) time.Duration { return l.ETA }))
	add(gauge, nameLaneWork, "Time that the model's workers need for what waits; missing while their speed is not known.", known(func(l Lane) time.Duration { return l.Work }))
	add(gauge, nameLanePaused, "1 while the lane is paused.", func(l Lane) (float64, bool) {
		if l.Paused {
			return 1, true
		}
		return 0, true
	})
	add(counter, nameLaneProcessed, "Runs of tasks that ended, in success or failure.", count(func(l Lane) int64 { return l.Processed }))
	add(counter, nameLaneCrashes, "Tasks that were inside a native call when their worker died.", count(func(l Lane) int64 { return l.Crashes }))
	add(counter, nameLaneDuplicates, "Tasks that were not enqueued because the same one was there.", count(func(l Lane) int64 { return l.Duplicates }))
	return l
}

func count(value func(Lane) int64) func(Lane) (float64, bool) {
	return func(l Lane) (float64, bool) { return float64(value(l)), true }
}

// known leaves an estimate out that nobody has; an empty lane needs none.
func known(value func(Lane) time.Duration) func(Lane) (float64, bool) {
	return func(l Lane) (float64, bool) { return value(l).Seconds(), value(l) > 0 || l.Pending == 0 }
}

// Describe implements [prometheus.Collector].
func (l *Lanes) Describe(descs chan<- *prometheus.Desc) {
	for _, s := range l.series {
		descs <- s.desc
	}
	descs <- l.up
	descs <- l.took
}

// Collect implements [prometheus.Collector].
func (l *Lanes) Collect(metrics chan<- prometheus.Metric) {
	lanes, took, err := l.look()
	up := 1.0
	if err != nil {
		up = 0
	}
	metrics <- prometheus.MustNewConstMetric(l.up, prometheus.GaugeValue, up)
	metrics <- prometheus.MustNewConstMetric(l.took, prometheus.GaugeValue, took.Seconds())
	for _, lane := range lanes {
		labels := []string{lane.Model, lane.Lane}
		for _, s := range l.series {
			v, ok := s.value(lane)
			if !ok {
				continue
			}
			if s.state != "" {
				metrics <- prometheus.MustNewConstMetric(s.desc, s.kind, v, lane.Model, lane.Lane, s.state)
				continue
			}
			metrics <- prometheus.MustNewConstMetric(s.desc, s.kind, v, labels...)
		}
	}
}

// look returns how the lanes stand, or stood a moment ago.
func (l *Lanes) look() ([]Lane, time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.at) >= lanesFresh {
		// A scrape has no context; its deadline is here.
		ctx, cancel := context.WithTimeout(context.Background(), lanesPatience)
		defer cancel()
		l.latest, l.err = l.read(ctx)
		l.at = time.Now()
		l.dur = l.at.Sub(now)
	}
	return l.latest, l.dur, l.err
}
