package monitoring_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/embedfleet/embedfleet/monitoring"
)

func used() *monitoring.Worker {
	w := monitoring.NewWorker("v1")
	w.Loaded(monitoring.Model{Alias: "old", Space: "s0", Dim: "1", Device: "cpu"})
	w.Loaded(monitoring.Model{Alias: "minilm", Space: "s1", Dim: "384", Device: "cpu"})
	w.Waiting(func() int { return 7 })
	w.Task("embed:document", "done", "stored")
	w.Task("embed:document", "retry", "retry")
	w.Stage("infer", 20*time.Millisecond)
	w.Batch(2, 30, 40)
	w.Batch(0, 0, 0)
	return w
}

func TestSeries(t *testing.T) {
	t.Parallel()
	want := `
# HELP embed_tasks_total Tasks handled, by kind, outcome and what became of them.
# TYPE embed_tasks_total counter
embed_tasks_total{code="stored",kind="embed:document",outcome="done"} 1
embed_tasks_total{code="retry",kind="embed:document",outcome="retry"} 1
# HELP embed_tokens_total Tokens embedded, padding left out.
# TYPE embed_tokens_total counter
embed_tokens_total 30
# HELP embed_waiting_texts Texts tokenised and waiting for a native call.
# TYPE embed_waiting_texts gauge
embed_waiting_texts 7
# HELP embed_model_info Always 1; its labels describe the loaded model.
# TYPE embed_model_info gauge
embed_model_info{device="cpu",dim="384",model="minilm",space="s1"} 1
# HELP embed_build_info Always 1; its label is the version of this binary.
# TYPE embed_build_info gauge
embed_build_info{version="v1"} 1
`
	names := []string{"embed_tasks_total", "embed_tokens_total", "embed_waiting_texts", "embed_model_info", "embed_build_info"}
	if err := testutil.GatherAndCompare(used().Registry(), strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

func TestNamesAreLinted(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(used().Registry())
	if err != nil {
		t.Fatal(err)
	}
	problems = slices.DeleteFunc(problems, func(p promlint.Problem) bool { return !strings.HasPrefix(p.Metric, "embed_") })
	if len(problems) > 0 {
		t.Error(problems)
	}
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(body)
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	h := monitoring.Routes(slog.New(slog.DiscardHandler), monitoring.Health{
		Live:   func() error { return nil },
		Ready:  func() error { return errors.New("loading the model since 2 s") },
		Status: func() any { return map[string]int{"waiting": 3} },
	}, used().Handler())
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/livez":   {200, "ok"},
		"/readyz":  {503, "loading the model since 2 s"},
		"/metrics": {200, "embed_batch_padding_ratio_bucket"},
		"/other":   {404, "not found"},
	} {
		if code, body := get(t, h, path); code != want.code || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %.200s, want %d with %q", path, code, body, want.code, want.body)
		}
	}
	var status struct{ Waiting int }
	if _, body := get(t, h, "/statusz"); json.Unmarshal([]byte(body), &status) != nil || status.Waiting != 3 {
		t.Errorf("/statusz: %s", body)
	}
}
