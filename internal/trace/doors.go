package trace

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
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
	Handle(ctx context.Context, t tasks.Task) error
}

// Handler makes a span of each try of a task, within the trace of whoever enqueued it.
func (t *Tracer) Handler(next Handler) Handler { return handler{t, next} }

type handler struct {
	*Tracer
	next Handler
}

func (h handler) Handle(ctx context.Context, t tasks.Task) error {
	ctx, end := h.begin(From(ctx, t.Trace), "task "+string(t.Kind), trace.SpanKindConsumer,
		[]any{"model", t.Model, "lane", string(t.Lane), "task", t.ID})
	err := h.next.Handle(ctx, t)
	end(err)
	return err
}

// Embedder makes a span of each embedding.
func (t *Tracer) Embedder(next tasks.Embedder) tasks.Embedder {
	if t.off {
		return next
	}
	return embedder{t, next}
}

type embedder struct {
	*Tracer
	next tasks.Embedder
}

func (e embedder) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	ctx, end := e.Span(ctx, "embed")
	chunks, err := e.next.EmbedDocument(ctx, text)
	end(err, "chunks", len(chunks))
	return chunks, err
}

func (e embedder) EmbedQuery(ctx context.Context, text string) (vector.Embedding, error) {
	ctx, end := e.Span(ctx, "embed")
	v, err := e.next.EmbedQuery(ctx, text)
	end(err, "tokens", v.Tokens)
	return v, err
}

func (e embedder) EmbedAs(ctx context.Context, prompt, text string) (vector.Embedding, error) {
	ctx, end := e.Span(ctx, "embed")
	v, err := e.next.EmbedAs(ctx, prompt, text)
	end(err, "tokens", v.Tokens)
	return v, err
}

// Store makes a span of each look and each write.
func (t *Tracer) Store(next tasks.Store) tasks.Store {
	if t.off {
		return next
	}
	return store{t, next}
}

type store struct {
	*Tracer
	next tasks.Store
}

func (s store) Refresh(ctx context.Context, rec vector.Record) (bool, error) {
	ctx, end := s.Span(ctx, "lookup")
	ok, err := s.next.Refresh(ctx, rec)
	end(err, "current", ok)
	return ok, err
}

func (s store) Put(ctx context.Context, rec vector.Record) (bool, error) {
	ctx, end := s.Span(ctx, "put")
	ok, err := s.next.Put(ctx, rec)
	end(err, "written", ok)
	return ok, err
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
