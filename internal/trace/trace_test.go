package trace_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
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

// failing is a handler that says what a producer wrote.
type failing struct{}

func (failing) Handle(context.Context, tasks.Task) error { return errors.New("the secret text is bad") }

func TestASpanTellsNoText(t *testing.T) {
	t.Parallel()
	tracer, spans := tracetest.New()
	_ = tracer.Handler(failing{}).Handle(t.Context(), tasks.Task{Kind: tasks.EmbedDocument, Payload: []byte("the secret text")})
	span, ok := spans.Find("task embed:document")
	if !ok || span.Error == "" || strings.Contains(span.Error, "secret") {
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
