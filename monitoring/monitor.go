package monitoring

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Names of the page's own series, as docs/metrics.md describes them.
const (
	nameSnapshotAge = "embed_monitor_snapshot_age_seconds"
	nameLogins      = "embed_monitor_logins_total"
	nameOrders      = "embed_monitor_orders_total"
)

// Monitor holds the series of one process that serves the fleet's page.
type Monitor struct {
	registry *prometheus.Registry
	logins   *prometheus.CounterVec
	orders   *prometheus.CounterVec
}

// NewMonitor returns the series of a monitor of the given build, with those of lanes, on a registry of their own.
// age tells how old what the page shows is, by part.
func NewMonitor(version string, lanes *Lanes, parts []string, age func(part string) time.Duration) *Monitor {
	m := &Monitor{
		registry: prometheus.NewPedanticRegistry(),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: nameLogins, Help: "Attempts to sign in, by outcome.",
		}, []string{"outcome"}),
		orders: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: nameOrders, Help: "What operators asked for, by order and outcome.",
		}, []string{"order", "outcome"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: nameBuild, Help: "Always 1; its label is the version of this binary.",
	}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.logins, m.orders, build, lanes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, part := range parts {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: nameSnapshotAge, Help: "Age of what the page shows, by part.", ConstLabels: prometheus.Labels{"part": part},
		}, func() float64 { return age(part).Seconds() }))
	}
	return m
}

// Registry returns the registry that holds the series.
func (m *Monitor) Registry() *prometheus.Registry { return m.registry }

// Handler serves the series.
func (m *Monitor) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, EnableOpenMetrics: true})
}

// Login counts one attempt to sign in: "in", "wrong" or "refused" for too many.
func (m *Monitor) Login(outcome string) { m.logins.WithLabelValues(outcome).Inc() }

// Order counts one order of an operator: "done" or "failed".
func (m *Monitor) Order(order, outcome string) { m.orders.WithLabelValues(order, outcome).Inc() }
