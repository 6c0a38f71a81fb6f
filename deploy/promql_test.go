package deploy_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// step is the time between two samples, as between two scrapes.
const step = time.Minute

// A history is series as Prometheus would have stored them, from the time 0 on.
type history []*storage.SeriesEntry

// write makes a history of lines as promtool's tests have them: `up{job="worker"} 1x5 0x10`.
func write(t testing.TB, lines ...string) history {
	t.Helper()
	var h history
	for _, line := range lines {
		lset, values, err := parser.ParseSeriesDesc(line)
		if err != nil {
			t.Fatalf("series %q: %v", line, err)
		}
		var samples []chunks.Sample
		for i, v := range values {
			if !v.Omitted {
				samples = append(samples, sample{int64(i) * step.Milliseconds(), v.Value})
			}
		}
		h = append(h, storage.NewListSeries(lset, samples))
	}
	return h
}

// ask evaluates an expression at a time after the history's beginning.
func (h history) ask(t testing.TB, expr string, at time.Duration) promql.Vector {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	q, err := engine.NewInstantQuery(t.Context(), h, nil, expr, time.Unix(0, 0).Add(at))
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	res := q.Exec(t.Context())
	v, err := res.Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return v
}

// Querier implements [storage.Queryable].
func (h history) Querier(_, _ int64) (storage.Querier, error) { return querier{history: h}, nil }

// A querier finds series by their labels; the engine asks for nothing else.
type querier struct {
	storage.LabelQuerier // of nobody: instant queries don't ask for names
	history              history
}

func (querier) Close() error { return nil }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &seriesSet{at: -1}
	for _, s := range q.history {
		ok := true
		for _, m := range matchers {
			ok = ok && m.Matches(s.Labels().Get(m.Name))
		}
		if ok {
			set.list = append(set.list, s)
		}
	}
	return set
}

type seriesSet struct {
	list history
	at   int
}

func (s *seriesSet) Next() bool                      { s.at++; return s.at < len(s.list) }
func (s *seriesSet) At() storage.Series              { return s.list[s.at] }
func (*seriesSet) Err() error                        { return nil }
func (*seriesSet) Warnings() annotations.Annotations { return nil }

// A sample is a number at a time in milliseconds.
type sample struct {
	t int64
	f float64
}

func (s sample) T() int64                    { return s.t }
func (s sample) F() float64                  { return s.f }
func (sample) H() *histogram.Histogram       { return nil }
func (sample) FH() *histogram.FloatHistogram { return nil }
func (sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample         { return s }

// The engine of the tests gives what Prometheus's documentation promises.
func TestHistory(t *testing.T) {
	t.Parallel()
	h := write(t, `up{job="a"} 1x5 _ 0x5`, `up{job="b"} 1x20`, `n_total 0+60x20`)
	if v := h.ask(t, `up == 0`, 10*step); len(v) != 1 || v[0].Metric.Get("job") != "a" {
		t.Errorf("who is down: %v", v)
	}
	if v := h.ask(t, `rate(n_total[5m])`, 10*step); len(v) != 1 || math.Abs(v[0].F-1) > 1e-9 {
		t.Errorf("60 a minute: %v", v)
	}
}
