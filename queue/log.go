package queue

import (
	"context"
	"fmt"
	"log/slog"
)

// An asynqLog passes asynq's log lines to slog. Its infos are about its inner parts and become debug;
// a fatal one is an error, for only main may end the process.
type asynqLog struct{ log *slog.Logger }

func (l asynqLog) Debug(args ...any) { l.line(slog.LevelDebug, args) }
func (l asynqLog) Info(args ...any)  { l.line(slog.LevelDebug, args) }
func (l asynqLog) Warn(args ...any)  { l.line(slog.LevelWarn, args) }
func (l asynqLog) Error(args ...any) { l.line(slog.LevelError, args) }
func (l asynqLog) Fatal(args ...any) { l.line(slog.LevelError, args) }

func (l asynqLog) line(level slog.Level, args []any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, "asynq", "line", fmt.Sprint(args...))
	}
}
