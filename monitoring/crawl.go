package monitoring

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Names of the crawlers' series, as docs/crawlers.md describes them.
const (
	nameRuns      = "crawl_runs_total"
	nameSkipped   = "crawl_slots_skipped_total"
	nameRequests  = "crawl_requests_total"
	nameReceived  = "crawl_received_bytes_total"
	nameDocuments = "crawl_documents_total"
	nameFreshness = "crawl_freshness_seconds"
	nameAwaited   = "crawl_awaited_documents"
	nameOldest    = "crawl_oldest_awaited_seconds"
	nameSuccess   = "crawl_last_success_timestamp_seconds"
	namePaused    = "crawl_paused"
)

// Crawler holds the series of one scheduler process.
type Crawler struct {
	registry  *prometheus.Registry
	runs      *prometheus.CounterVec
	skipped   *prometheus.CounterVec
	requests  *prometheus.CounterVec
	received  *prometheus.CounterVec
	documents *prometheus.CounterVec
	freshness *prometheus.HistogramVec
	awaited   *prometheus.GaugeVec
	oldest    *prometheus.GaugeVec
	success   *prometheus.GaugeVec
	paused    *prometheus.GaugeVec
}

// NewCrawler returns the series of a scheduler of the given build, on a registry of their own.
func NewCrawler(version string) *Crawler {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	c := &Crawler{
		registry:  prometheus.NewPedanticRegistry(),
		runs:      counter(nameRuns, "Runs of this process, by job and outcome.", "job", "outcome"),
		skipped:   counter(nameSkipped, "Slots that were not run, by reason.", "job", "reason"),
		requests:  counter(nameRequests, "Requests made to sources.", "job"),
		received:  counter(nameReceived, "Bytes received from sources.", "job"),
		documents: counter(nameDocuments, "Items of sources, by what became of them.", "job", "outcome"),
		freshness: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: nameFreshness, Help: "Time from a document's event, or its first sight, to readable vectors.",
			Buckets: []float64{5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 3600, 4 * 3600, 24 * 3600},
		}, []string{"source"}),
		awaited: gauge(nameAwaited, "Documents enqueued and not yet stored.", "source"),
		oldest:  gauge(nameOldest, "Age of the oldest of them, 0 if there is none.", "source"),
		success: gauge(nameSuccess, "Beginning of the last slot that was done.", "job"),
		paused:  gauge(namePaused, "1 while the source is paused.", "source"),
	}
	build := gauge(nameBuild, "Always 1; its label is the version of this binary.", "version")
	build.WithLabelValues(version).Set(1)
	c.registry.MustRegister(c.runs, c.skipped, c.requests, c.received, c.documents, c.freshness, c.awaited, c.oldest,
		c.success, c.paused, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return c
}

// Registry returns the registry that holds the series.
func (c *Crawler) Registry() *prometheus.Registry { return c.registry }

// Handler serves the series.
func (c *Crawler) Handler() http.Handler {
	return promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{Registry: c.registry, EnableOpenMetrics: true})
}

// Run counts one run of a job.
func (c *Crawler) Run(job, outcome string) { c.runs.WithLabelValues(job, outcome).Inc() }

// Skipped counts one slot that was not run.
func (c *Crawler) Skipped(job, reason string) { c.skipped.WithLabelValues(job, reason).Inc() }

// Traffic counts what a run asked and got.
func (c *Crawler) Traffic(job string, requests, received int) {
	c.requests.WithLabelValues(job).Add(float64(requests))
	c.received.WithLabelValues(job).Add(float64(received))
}

// Documents counts items of a run by what became of them.
func (c *Crawler) Documents(job, outcome string, n int) {
	c.documents.WithLabelValues(job, outcome).Add(float64(n))
}

// Fresh counts one document's way.
func (c *Crawler) Fresh(source string, took time.Duration) {
	c.freshness.WithLabelValues(source).Observe(took.Seconds())
}

// Awaiting says how many documents of a source are on their way, and since when the oldest is.
func (c *Crawler) Awaiting(source string, n int64, age time.Duration) {
	c.awaited.WithLabelValues(source).Set(float64(n))
	c.oldest.WithLabelValues(source).Set(age.Seconds())
}

// Succeeded says when a job's last slot that was done began.
func (c *Crawler) Succeeded(job string, at time.Time) {
	c.success.WithLabelValues(job).Set(float64(at.Unix()))
}

// Paused says whether a source is paused: 1 or 0.
func (c *Crawler) Paused(source string, is float64) { c.paused.WithLabelValues(source).Set(is) }
