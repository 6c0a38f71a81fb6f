package boot_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/livez" {
			_, _ = io.WriteString(w, "ok\n")
			return
		}
		http.Error(w, "loading since 3s", http.StatusServiceUnavailable)
	}))
	t.Cleanup(srv.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	at := srv.Listener.Addr().String()
	_, port, _ := strings.Cut(at, ":")
	for _, tt := range []struct {
		name   string
		env    string // EMBEDFLEET_HTTP
		args   []string
		status int
		says   string
	}{
		{"alive", at, nil, 0, "ok\n"},
		{"every address is the loopback", "0.0.0.0:" + port, nil, 0, "ok\n"},
		{"no host is the loopback", ":" + port, nil, 0, "ok\n"},
		{"flag", "127.0.0.1:1", []string{"--http", at}, 0, "ok\n"},
		{"not ready", at, []string{"--ready"}, 1, "503 Service Unavailable: loading since 3s"},
		{"nobody there", gone.Listener.Addr().String(), nil, 1, "refused"},
		{"no address", "here", nil, boot.StatusUsage, "--http"},
		{"argument", at, []string{"now"}, boot.StatusUsage, "takes no argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			getenv := func(k string) (string, bool) { return tt.env, k == "EMBEDFLEET_HTTP" }
			cmd := boot.NewHealth("http", "127.0.0.1:2", &out, getenv)
			boot.Root(cmd, &out, &out)
			if status := boot.Run(t.Context(), cmd, tt.args); status != tt.status || !strings.Contains(out.String(), tt.says) {
				t.Errorf("status %d, says %q; want %d and %q", status, out.String(), tt.status, tt.says)
			}
		})
	}
}
