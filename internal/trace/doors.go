package trace

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/embedfleet/embedfleet/tasks"
)

// HTTP makes a span of each request, within the caller's trace if it names one. It is called what the mux inside
// matched, so that nobody can make up names.
func (t *Tracer) HTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := t.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		inner, s := r.WithContext(ctx), &answered{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(s, inner)
		r.Pattern = inner.Pattern // for whoever measures outside
		route := inner.Pattern
		if _, path, ok := strings.Cut(route, " "); ok {
			route = path
		}
		span.SetName(r.Method + " " + route)
		span.SetAttributes(pairs([]any{"http.route", route, "http.response.status_code", s.status})...)
	})
}

// answered remembers the status.
type answered struct {
	http.ResponseWriter
	status int
}

// WriteHeader writes the status through.
func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.MaxBytesReader and others reach the server's own writer.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// A Handler does tasks; tasks.Handler is one.
type Handler interface {
	HandleBatch(ctx context.Context, items []tasks.Item, report func([]tasks.Result))
}

// Handler makes a span of each try of a task, within the trace of whoever enqueued it.
func (t *Tracer) Handler(next Handler) Handler {
	if t.off {
		return next
	}
	return handler{t, next}
}

type handler struct {
	*Tracer
	next Handler
}

func (h handler) HandleBatch(ctx context.Context, items []tasks.Item, report func([]tasks.Result)) {
	inner, ends := make([]tasks.Item, len(items)), make([]func(error, ...any), len(items))
	for i, item := range items {
		t := item.Task
		item.Ctx, ends[i] = h.begin(From(item.Ctx, t.Trace), "task "+string(t.Kind), trace.SpanKindConsumer,
			[]any{"model", t.Model, "lane", string(t.Lane), "task", t.ID})
		inner[i] = item
	}
	h.next.HandleBatch(ctx, inner, func(results []tasks.Result) {
		for _, r := range results {
			ends[r.Index](r.Err)
		}
		report(results)
	})
}

// Observer makes a span of each stage of a task, within the task's.
func (t *Tracer) Observer(next tasks.Observer) tasks.Observer {
	if t.off {
		return next
	}
	return observer{next, t}
}

type observer struct {
	tasks.Observer
	tracer *Tracer
}

func (o observer) Stage(ctx context.Context, s tasks.Stage, took time.Duration) {
	now := time.Now()
	_, span := o.tracer.tracer.Start(ctx, string(s), trace.WithTimestamp(now.Add(-took)))
	span.End(trace.WithTimestamp(now))
	o.Observer.Stage(ctx, s, took)
}

// Log adds the trace's id to each line that is written within one.
func Log(next slog.Handler) slog.Handler { return logs{next} }

type logs struct{ slog.Handler }

func (l logs) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r.AddAttrs(slog.String("trace", sc.TraceID().String()))
	}
	return l.Handler.Handle(ctx, r)
}

func (l logs) WithAttrs(attrs []slog.Attr) slog.Handler { return logs{l.Handler.WithAttrs(attrs)} }

func (l logs) WithGroup(name string) slog.Handler { return logs{l.Handler.WithGroup(name)} }
