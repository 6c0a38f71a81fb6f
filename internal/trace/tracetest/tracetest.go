// Package tracetest keeps spans in memory, for tests of how a trace goes from room to room.
package tracetest

import (
	"slices"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/embedfleet/embedfleet/internal/trace"
)

// A Span is what tests look at.
type Span struct {
	Name, Trace, ID, Parent string // Parent is "" of a trace's first span here
	Error                   string
	Attributes              map[string]string
}

// A Recorder holds the spans that have ended.
type Recorder struct{ memory *tracetest.InMemoryExporter }

// New returns a tracer and where its spans are.
func New() (*trace.Tracer, *Recorder) {
	memory := tracetest.NewInMemoryExporter()
	return trace.New("test", sdk.WithSyncer(memory)), &Recorder{memory}
}

// Spans returns what has ended, in the order of the beginnings.
func (r *Recorder) Spans() (list []Span) {
	stubs := r.memory.GetSpans()
	slices.SortStableFunc(stubs, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	for _, s := range stubs {
		span := Span{
			Name: s.Name, Trace: s.SpanContext.TraceID().String(), ID: s.SpanContext.SpanID().String(), Error: s.Status.Description,
			Attributes: map[string]string{},
		}
		if s.Parent.SpanID().IsValid() {
			span.Parent = s.Parent.SpanID().String()
		}
		for _, a := range s.Attributes {
			span.Attributes[string(a.Key)] = a.Value.String()
		}
		list = append(list, span)
	}
	return list
}

// Find returns the first span of a name that has ended.
func (r *Recorder) Find(name string) (Span, bool) {
	for _, s := range r.Spans() {
		if s.Name == name {
			return s, true
		}
	}
	return Span{}, false
}
