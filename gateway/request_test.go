package gateway

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRequestID(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, given string
		taken       bool
	}{
		{"a proxy's", "req-7.f:3_A", true},
		{"none", "", false},
		{"a line that forges another", "a\nlevel=ERROR", false},
		{"a space", "a b", false},
		{"too long", strings.Repeat("a", 65), false},
		{"as long as may be", strings.Repeat("a", 64), true},
		{"not ASCII", "요청", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &http.Request{Header: http.Header{}}
			r.Header.Set(requestHeader, tt.given)
			got := requestID(r)
			if (got == tt.given) != tt.taken || !askedID.MatchString(got) {
				t.Errorf("got %q", got)
			}
			if !tt.taken && got == requestID(r) {
				t.Error("two requests got the same id")
			}
		})
	}
}

// Each answer has its request's id, an error too.
func TestAnswersHaveTheRequestsID(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/nothing", http.NoBody)
	r.Host = "localhost"
	r.Header.Set(requestHeader, "from-the-proxy")
	mustNew(t).ServeHTTP(w, r)
	if got := w.Header().Get(requestHeader); w.Code != http.StatusNotFound || got != "from-the-proxy" {
		t.Errorf("status %d, id %q", w.Code, got)
	}
}

// mustNew returns a gateway without parts.
func mustNew(t *testing.T) http.Handler {
	t.Helper()
	h, err := New(slog.New(slog.DiscardHandler), Parts{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
