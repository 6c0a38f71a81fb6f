package monitoring

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Names of the gateway's series, as docs/metrics.md describes them.
const (
	nameHTTPRequests = "embed_gateway_requests_total"
	nameHTTPDuration = "embed_gateway_request_duration_seconds"
	nameHTTPInside   = "embed_gateway_requests_in_flight"
)

// Gateway holds the series of one process that serves the HTTP interface.
type Gateway struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inside   prometheus.Gauge
}

// NewGateway returns the series of a gateway of the given build, with those of its lanes, on a registry of their own.
func NewGateway(version string, lanes prometheus.Collector) *Gateway {
	g := &Gateway{
		registry: prometheus.NewPedanticRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: nameHTTPRequests, Help: "Requests answered, by route and status.",
		}, []string{"route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: nameHTTPDuration, Help: "Time until a request was answered, by route.",
			Buckets: []float64{.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
		inside: prometheus.NewGauge(prometheus.GaugeOpts{Name: nameHTTPInside, Help: "Requests under way."}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: nameBuild, Help: "Always 1; its label is the version of this binary.",
	}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	g.registry.MustRegister(g.requests, g.duration, g.inside, build, lanes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return g
}

// Registry returns the registry that holds the series.
func (g *Gateway) Registry() *prometheus.Registry { return g.registry }

// Handler serves the series.
func (g *Gateway) Handler() http.Handler {
	return promhttp.HandlerFor(g.registry, promhttp.HandlerOpts{Registry: g.registry, EnableOpenMetrics: true})
}

// Measure counts what next answers. The route is the pattern that matched, not the address that was asked, so
// that nobody can make up labels.
func (g *Gateway) Measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.inside.Inc()
		defer g.inside.Dec()
		begun, s := time.Now(), &status{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(s, r)
		route := r.Pattern
		if _, path, ok := strings.Cut(route, " "); ok {
			route = path
		}
		g.requests.WithLabelValues(route, strconv.Itoa(s.code)).Inc()
		g.duration.WithLabelValues(route).Observe(time.Since(begun).Seconds())
	})
}

// A status remembers what was answered.
type status struct {
	http.ResponseWriter
	code int
}

// WriteHeader writes the status through.
func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.MaxBytesReader and others reach the server's own writer.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }
