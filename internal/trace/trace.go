// Package trace follows a text through the processes of the fleet as OpenTelemetry has it: from the HTTP call or the
// crawl that brought it, over the queue, to its vectors in the store. It owns spans, their names and how a trace
// crosses the queue ([tasks.Task]'s Trace, a W3C traceparent), and knows nothing of what is measured: it wraps
// other rooms at their doors. No text and no key is ever in a span.
//
// Nothing is sent unless a collector is named. A caller's traceparent is handed on even then.
//
//	span             where                       attributes
//	POST /v1/…       gateway, per request        http.route, http.response.status_code
//	crawl JOB        scheduler, per run          slot, items, new
//	task KIND        worker, per try of a task   model, lane, task
//	decode, lookup, embed, store, answer         in it, one a stage that it went through
package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/embedfleet/embedfleet/tasks"
)

const (
	name = "github.com/embedfleet/embedfleet"
	// flushWait bounds how long a process that ends waits for its collector.
	flushWait = 3 * time.Second
)

// Options say where spans go.
type Options struct {
	// Collector is an address that takes OTLP over HTTP, as http://127.0.0.1:4318; "" sends nothing.
	Collector string
	// Percent of the traces that begin here are recorded; those of a caller are if the caller does.
	Percent int
	Logger  *slog.Logger
}

// A Tracer makes spans. It is safe for concurrent use.
type Tracer struct {
	tracer trace.Tracer
	close  func(context.Context) error
	off    bool // nothing is recorded, so that nothing has to be put together
}

// Records reports whether spans are recorded at all.
func (t *Tracer) Records() bool { return !t.off }

// Off returns a tracer that records nothing.
func Off() *Tracer {
	return &Tracer{noop.NewTracerProvider().Tracer(name), func(context.Context) error { return nil }, true}
}

// Open returns a tracer of a process called service. It does not wait for the collector: one that is away costs
// spans and a line in the log. The caller closes the tracer.
func Open(ctx context.Context, service string, o Options) (*Tracer, error) {
	if o.Collector == "" {
		return Off(), nil
	}
	address, err := url.Parse(o.Collector)
	if err == nil && (address.Host == "" || address.Scheme != "http" && address.Scheme != "https") {
		err = errors.New("want http://host:port or https://host:port")
	}
	if err != nil {
		return nil, fmt.Errorf("tracing to %q: %w", o.Collector, err)
	}
	if strings.Trim(address.Path, "/") == "" {
		address.Path = "/v1/traces" // where OTLP has them
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(address.String()))
	if err != nil {
		return nil, fmt.Errorf("tracing to %q: %w", o.Collector, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Logger.Warn("spans were not sent", "err", err) }))
	return New(service, sdk.WithBatcher(exporter), sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(float64(o.Percent)/100)))), nil
}

// New returns a tracer over any exporter.
func New(service string, opts ...sdk.TracerProviderOption) *Tracer {
	opts = append(opts, sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", service))))
	provider := sdk.NewTracerProvider(opts...)
	return &Tracer{provider.Tracer(name), provider.Shutdown, false}
}

// Close sends what is left, for some seconds at most.
func (t *Tracer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushWait)
	defer cancel()
	if err := t.close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("sending the last spans: %w", err)
	}
	return nil
}

// Span begins a span within ctx's. The caller ends it by calling end with the error that ended it, if any; of an
// error only the kind is kept, since its text may hold what a producer wrote.
func (t *Tracer) Span(ctx context.Context, what string, attrs ...any) (_ context.Context, end func(err error, attrs ...any)) {
	return t.begin(ctx, what, trace.SpanKindInternal, attrs)
}

func (t *Tracer) begin(ctx context.Context, what string, kind trace.SpanKind, attrs []any) (context.Context, func(error, ...any)) {
	if t.off {
		return ctx, func(error, ...any) {}
	}
	ctx, span := t.tracer.Start(ctx, what, trace.WithSpanKind(kind), trace.WithAttributes(pairs(attrs)...)) //nolint:spancheck // end ends it
	return ctx, func(err error, more ...any) {                                                              //nolint:spancheck // the same
		span.SetAttributes(pairs(more)...)
		if err != nil {
			span.SetStatus(codes.Error, tasks.Code(err))
		}
		span.End()
	}
}

// pairs reads attributes as slog's: a name, its value, and so on.
func pairs(args []any) []attribute.KeyValue {
	list := make([]attribute.KeyValue, 0, len(args)/2)
	for i := 0; i+1 < len(args); i += 2 {
		key := fmt.Sprint(args[i])
		switch v := args[i+1].(type) {
		case int:
			list = append(list, attribute.Int(key, v))
		case bool:
			list = append(list, attribute.Bool(key, v))
		default:
			list = append(list, attribute.String(key, fmt.Sprint(v)))
		}
	}
	return list
}

// header is where a trace is written in HTTP.
const header = "traceparent"

// Parent returns the traceparent of ctx's span, "" outside of one.
func Parent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[header]
}

// From returns ctx within the span that a traceparent names; one that makes no sense names none.
func From(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{header: parent})
}

// Stamp writes ctx's trace into tasks that are about to be enqueued.
func Stamp(ctx context.Context, list []tasks.Task) []tasks.Task {
	parent := Parent(ctx)
	if parent == "" {
		return list
	}
	out := make([]tasks.Task, len(list))
	for i, t := range list {
		t.Trace = parent
		out[i] = t
	}
	return out
}
