package monitoring_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/embedfleet/embedfleet/monitoring"
)

// TestGatewaySeries: routes are patterns, so that a caller can't make up series.
func TestGatewaySeries(t *testing.T) {
	t.Parallel()
	g := monitoring.NewGateway("v1", prometheus.NewGauge(prometheus.GaugeOpts{Name: "lanes", Help: "In the place of lanes."}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/documents/{id...}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "none" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	h := g.Measure(mux)
	for _, path := range []string{"/v1/documents/a", "/v1/documents/b", "/v1/documents/none", "/made/up"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	}
	want := `
# HELP embed_gateway_requests_in_flight Requests under way.
# TYPE embed_gateway_requests_in_flight gauge
embed_gateway_requests_in_flight 0
# HELP embed_gateway_requests_total Requests answered, by route and status.
# TYPE embed_gateway_requests_total counter
embed_gateway_requests_total{route="",status="404"} 1
embed_gateway_requests_total{route="/v1/documents/{id...}",status="200"} 2
embed_gateway_requests_total{route="/v1/documents/{id...}",status="404"} 1
`
	if err := testutil.GatherAndCompare(g.Registry(), strings.NewReader(want), "embed_gateway_requests_total", "embed_gateway_requests_in_flight"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(g.Registry())
	problems = slices.DeleteFunc(problems, func(p promlint.Problem) bool { return !strings.HasPrefix(p.Metric, "embed_gateway") })
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if code, body := get(t, g.Handler(), "/metrics"); code != 200 || !strings.Contains(body, `embed_gateway_request_duration_seconds_count{route="/v1/documents/{id...}"} 3`) {
		t.Errorf("%d %.100s", code, body)
	}
}
