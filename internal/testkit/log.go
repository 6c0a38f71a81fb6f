package testkit

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
)

// Logger returns a logger of every level that writes to t.Log. Lines that arrive after the test has ended
// are dropped, since t.Log would panic for them.
func Logger(t testing.TB) *slog.Logger {
	w := &logWriter{t: t}
	t.Cleanup(w.close)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// A logWriter passes lines to a test until it is closed.
type logWriter struct {
	mu sync.Mutex
	t  testing.TB // nil once closed
}

func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Logf("%s", bytes.TrimSuffix(line, []byte("\n")))
	}
	return len(line), nil
}

func (w *logWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = nil
}
