package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// A Health answers the probes of one process. The functions are called off the inference path and must
// return at once; each says in one line why the answer is no.
type Health struct {
	Live   func() error // nil while a restart would not help
	Ready  func() error // nil while the process takes work
	Status func() any   // everything worth knowing, as JSON
}

// Routes returns the handler of /livez, /readyz, /statusz and /metrics.
func Routes(log *slog.Logger, h Health, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", probe(h.Live))
	mux.Handle("GET /readyz", probe(h.Ready))
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /statusz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(h.Status()); err != nil {
			log.Debug("status was not sent", "err", err)
		}
	})
	return mux
}

// Serve answers on l until ctx ends, then cuts off what is under way: a probe in flight is worth no wait.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving probes: %w", err)
	}
	return nil
}

func probe(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // the prober went away; nobody is left to tell
	})
}
