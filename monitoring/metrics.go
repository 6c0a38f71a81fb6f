// Package monitoring shows a process to Prometheus, to probes and to people. It measures other rooms at
// their doors: it hands out callbacks and reads snapshots, and is the only room that knows Prometheus.
package monitoring

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Names of the series, as docs/metrics.md describes them.
const (
	nameTasks     = "embed_tasks_total"
	nameStage     = "embed_stage_duration_seconds"
	nameTexts     = "embed_batch_texts"
	nameTokens    = "embed_batch_tokens"
	namePadding   = "embed_batch_padding_ratio"
	nameProcessed = "embed_tokens_total"
	nameComputed  = "embed_padded_tokens_total"
	nameWaiting   = "embed_waiting_texts"
	nameModel     = "embed_model_info"
	nameBuild     = "embed_build_info"
)

// A Model describes the loaded model for embed_model_info.
type Model struct {
	Alias, Space, Device string
	Dim                  string
}

// Worker holds the series of one worker process.
type Worker struct {
	registry *prometheus.Registry
	tasks    *prometheus.CounterVec
	stage    *prometheus.HistogramVec
	texts    prometheus.Histogram
	tokens   prometheus.Histogram
	padding  prometheus.Histogram
	done     prometheus.Counter
	computed prometheus.Counter
	model    *prometheus.GaugeVec
}

// NewWorker returns the series of a worker of the given build, on a registry of their own.
func NewWorker(version string) *Worker {
	// From a millisecond (tokenising) to a minute (a deadline), each bound about 2.5 x the one before.
	seconds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	w := &Worker{
		registry: prometheus.NewPedanticRegistry(),
		tasks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: nameTasks, Help: "Tasks handled, by kind, outcome and what became of them.",
		}, []string{"kind", "outcome", "code"}),
		stage: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: nameStage, Help: "Time spent in one stage of a text's path.", Buckets: seconds,
		}, []string{"stage"}),
		texts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: nameTexts, Help: "Texts in one native call.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		tokens: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: nameTokens, Help: "Tokens in one native call, padding left out.", Buckets: prometheus.ExponentialBuckets(8, 2, 11),
		}),
		padding: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: namePadding, Help: "Tokens computed over tokens given, of one native call; 1 is no padding.",
			Buckets: []float64{1, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 4, 8},
		}),
		done: prometheus.NewCounter(prometheus.CounterOpts{
			Name: nameProcessed, Help: "Tokens embedded, padding left out.",
		}),
		computed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: nameComputed, Help: "Tokens computed, padding included.",
		}),
		model: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: nameModel, Help: "Always 1; its labels describe the loaded model.",
		}, []string{"model", "space", "dim", "device"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: nameBuild, Help: "Always 1; its label is the version of this binary.",
	}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	w.registry.MustRegister(w.tasks, w.stage, w.texts, w.tokens, w.padding, w.done, w.computed, w.model, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return w
}

// Registry returns the registry that holds the series.
func (w *Worker) Registry() *prometheus.Registry { return w.registry }

// Handler serves the series in the text or OpenMetrics form that the scraper asks for.
func (w *Worker) Handler() http.Handler {
	return promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{Registry: w.registry, EnableOpenMetrics: true})
}

// Waiting registers a gauge of texts that wait inside the engine, read at each scrape.
func (w *Worker) Waiting(texts func() int) {
	w.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: nameWaiting, Help: "Texts tokenised and waiting for a native call.",
	}, func() float64 { return float64(texts()) }))
}

// Loaded says which model serves.
func (w *Worker) Loaded(m Model) {
	w.model.Reset()
	w.model.WithLabelValues(m.Alias, m.Space, m.Dim, m.Device).Set(1)
}

// Task counts one handled task. The code is from a bounded set, see tasks.Code.
func (w *Worker) Task(kind, outcome, code string) { w.tasks.WithLabelValues(kind, outcome, code).Inc() }

// Stage counts the time of one stage: the handler's (tasks.Stage), or tokenize, wait and infer inside the
// engine.
func (w *Worker) Stage(stage string, took time.Duration) {
	w.stage.WithLabelValues(stage).Observe(took.Seconds())
}

// Batch counts one native call of texts rows that hold tokens tokens and computed padded.
func (w *Worker) Batch(texts, tokens, padded int) {
	w.texts.Observe(float64(texts))
	w.tokens.Observe(float64(tokens))
	w.done.Add(float64(tokens))
	w.computed.Add(float64(padded))
	if tokens > 0 {
		w.padding.Observe(float64(padded) / float64(tokens))
	}
}
