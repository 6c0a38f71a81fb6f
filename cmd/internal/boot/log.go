package boot

import (
	"io"
	"log/slog"
)

// Log holds the settings of a binary's log.
type Log struct {
	Level  string
	Format string
}

// Register adds the log's settings to c.
func (l *Log) Register(c *Config) {
	c.Choice(&l.Level, "log-level", "info", []string{"debug", "info", "warn", "error"}, "least severe lines to log")
	c.Choice(&l.Format, "log-format", "text", []string{"text", "json"}, "form of log lines")
}

// Logger returns a logger that writes to w.
func (l Log) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // checked by Resolve
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
