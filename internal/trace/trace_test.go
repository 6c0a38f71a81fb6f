package trace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/internal/trace/tracetest"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// TestTheCollectorGetsSpans by OTLP over HTTP, at the latest when the process ends.
func TestTheCollectorGetsSpans(t *testing.T) {
	t.Parallel()
	var got atomic.Pointer[string]
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // checked below
		text := r.URL.Path + " " + string(body)
		got.Store(&text)
	}))
	defer collector.Close()
	tracer, err := trace.Open(t.Context(), "gateway", trace.Options{Collector: collector.URL, Percent: 100, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, end := tracer.Span(t.Context(), "a span", "model", "m")
	end(nil)
	if err := tracer.Close(); err != nil {
		t.Fatal(err)
	}
	text := got.Load()
	if text == nil || !strings.HasPrefix(*text, "/v1/traces ") || !strings.Contains(*text, "a span") || !strings.Contains(*text, "gateway") {
		t.Errorf("the collector got %q", deref(text))
	}
}

func deref(s *string) string {
	if s == nil {
		return "nothing"
	}
	return *s
}

func TestAnAddressThatIsNone(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:4318", "collector", "ftp://c:1", "http://"} {
		if _, err := trace.Open(t.Context(), "x", trace.Options{Collector: address}); err == nil {
			t.Errorf("%q is taken", address)
		}
	}
}

// TestACollectorThatIsAway costs the process's end a moment, and nothing else.
func TestACollectorThatIsAway(t *testing.T) {
	t.Parallel()
	tracer, err := trace.Open(t.Context(), "gateway", trace.Options{Collector: "http://127.0.0.1:1", Percent: 100, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, end := tracer.Span(t.Context(), "a span")
	end(nil)
	begun := time.Now()
	_ = tracer.Close() // says that spans were lost, or gives up
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("closing took %v", took)
	}
}

// TestOffHandsOn: without a collector a caller's trace still goes with the task, and none is made up.
func TestOffHandsOn(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ctx, end := trace.Off().Span(trace.From(t.Context(), parent), "x")
	defer end(nil)
	list := []tasks.Task{{ID: "a"}}
	if got := trace.Stamp(ctx, list); got[0].Trace != parent || list[0].Trace != "" {
		t.Errorf("%+v, the caller's own %+v", got, list)
	}
	for _, none := range []string{"", "nonsense", "00-0-0-00"} {
		if got := trace.Parent(trace.From(t.Context(), none)); got != "" {
			t.Errorf("%q became %q", none, got)
		}
	}
}

// staged is a handler that takes each task through a stage, and says of those of one model what a producer wrote.
type staged struct{ observer tasks.Observer }

func (s staged) HandleBatch(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
	for i := range slices.Backward(items) { // one report each, the last first
		s.observer.Stage(items[i].Ctx, tasks.StageEmbed, time.Second)
		r := tasks.Result{Index: i}
		if items[i].Task.Model == "bad" {
			r.Err = errors.New("the secret text is bad")
		}
		report([]tasks.Result{r})
	}
}

// heard counts what an observer is told.
type heard struct{ stages, outcomes int }

func (h *heard) Stage(context.Context, tasks.Stage, time.Duration) { h.stages++ }
func (h *heard) Outcome(tasks.Kind, tasks.Outcome, string)         { h.outcomes++ }

// run hands tasks to a traced handler, and returns what was reported of each.
func run(t *testing.T, tracer *trace.Tracer, told *heard, list ...tasks.Task) []error {
	t.Helper()
	observer := tracer.Observer(told)
	items := make([]tasks.Item, len(list))
	for i, task := range list {
		items[i] = tasks.Item{Ctx: t.Context(), Task: task}
	}
	errs, reported := make([]error, len(list)), 0
	tracer.Handler(staged{observer}).HandleBatch(t.Context(), items, func(results []tasks.Result) {
		for _, r := range results {
			reported++
			errs[r.Index] = r.Err
		}
	})
	observer.Outcome(tasks.EmbedDocument, tasks.Done, "")
	if reported != len(list) || told.stages != len(list) || told.outcomes != 1 {
		t.Errorf("%d reports, %d stages and %d outcomes for %d tasks and one outcome", reported, told.stages, told.outcomes, len(list))
	}
	return errs
}

// TestSpansOfABatch checks that each task of a batch has a span of its own, in its own trace, which ends as the task did,
// with its stages within.
func TestSpansOfABatch(t *testing.T) {
	t.Parallel()
	const first, second = "0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319d"
	tracer, spans := tracetest.New()
	errs := run(t, tracer, &heard{},
		tasks.Task{ID: "1", Kind: tasks.EmbedDocument, Model: "m", Lane: tasks.Live, Trace: "00-" + first + "-b7ad6b7169203331-01"},
		tasks.Task{ID: "2", Kind: tasks.EmbedDocument, Model: "bad", Lane: tasks.Live, Trace: "00-" + second + "-c7ad6b7169203332-01"},
		tasks.Task{ID: "3", Kind: tasks.EmbedQuery, Model: "m", Lane: tasks.Query},
	)
	if errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("reported: %v", errs)
	}
	byTask, stages := map[string]tracetest.Span{}, map[string]tracetest.Span{}
	for _, s := range spans.Spans() {
		if id := s.Attributes["task"]; id != "" {
			byTask[id] = s
		} else {
			stages[s.Parent] = s
		}
	}
	for id, want := range map[string]tracetest.Span{
		"1": {Name: "task embed:document", Trace: first, Parent: "b7ad6b7169203331"},
		"2": {Name: "task embed:document", Trace: second, Parent: "c7ad6b7169203332", Error: "retry"},
		"3": {Name: "task embed:query", Trace: byTask["3"].Trace},
	} {
		got := byTask[id]
		if got.Name != want.Name || got.Trace != want.Trace || got.Parent != want.Parent || got.Error != want.Error {
			t.Errorf("task %s: %+v, want %+v", id, got, want)
		}
		if s := stages[got.ID]; s.Name != "embed" || s.Trace != want.Trace || s.Trace == "" {
			t.Errorf("task %s: the span of its stage is %+v", id, s)
		}
	}
	if a := byTask["3"].Attributes; byTask["3"].Trace == first || a["lane"] != "query" || a["model"] != "m" {
		t.Errorf("a task without a trace: %+v", byTask["3"])
	}
}

// TestOffIsNotInTheWay checks that without a collector handler and observer are those that were handed in.
func TestOffIsNotInTheWay(t *testing.T) {
	t.Parallel()
	told := &heard{}
	if errs := run(t, trace.Off(), told, tasks.Task{Model: "bad"}, tasks.Task{Model: "m"}); errs[0] == nil || errs[1] != nil {
		t.Errorf("reported: %v", errs)
	}
	if trace.Off().Observer(told) != tasks.Observer(told) || trace.Off().Handler(staged{told}) != trace.Handler(staged{told}) {
		t.Error("something is wrapped in vain")
	}
}

func TestASpanTellsNoText(t *testing.T) {
	t.Parallel()
	tracer, spans := tracetest.New()
	run(t, tracer, &heard{}, tasks.Task{Kind: tasks.EmbedDocument, Model: "bad", Payload: []byte("the secret text")})
	span, ok := spans.Find("task embed:document")
	if !ok || span.Error == "" || strings.Contains(fmt.Sprint(spans.Spans()), "secret") {
		t.Errorf("%+v", span)
	}
}

func TestLogLinesNameTheTrace(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := slog.New(trace.Log(slog.NewTextHandler(&b, nil))).With("k", "v")
	log.InfoContext(trace.From(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), "inside")
	log.Info("outside")
	inside, outside, _ := strings.Cut(b.String(), "\n")
	if !strings.Contains(inside, "trace=0af7651916cd43dd8448eb211c80319c") || strings.Contains(outside, "trace=") {
		t.Errorf("%s", b.String())
	}
}
