package wire

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Script is a Lua script and the SHA-1 by which servers that have seen it know it.
type Script struct{ *redis.Script }

// NewScript returns the script of a source.
func NewScript(source string) Script { return Script{redis.NewScript(source)} }

// A Call is one run of a script; its result is filled in by [Script.RunAll].
type Call struct {
	Keys []string
	Args []any
	Cmd  *redis.Cmd
}

// RunAll runs the script once per call, all in one round trip. Servers that do not know the script yet get
// its source for the calls they refused. The error is that of the connection; a call's own error is in its
// cmd.
func (s Script) RunAll(ctx context.Context, rdb redis.UniversalClient, calls []*Call) error {
	if len(calls) == 0 {
		return nil
	}
	pipe := rdb.Pipeline()
	for i := range calls {
		calls[i].Cmd = pipe.EvalSha(ctx, s.Hash(), calls[i].Keys, calls[i].Args...)
	}
	_, err := pipe.Exec(ctx)
	if err == nil {
		return nil
	}
	pipe = rdb.Pipeline()
	for i := range calls {
		if redis.HasErrorPrefix(calls[i].Cmd.Err(), "NOSCRIPT") {
			calls[i].Cmd = s.Eval(ctx, pipe, calls[i].Keys, calls[i].Args...)
		}
	}
	if pipe.Len() > 0 {
		_, err = pipe.Exec(ctx)
	}
	var answered redis.Error
	if err != nil && errors.As(err, &answered) {
		return nil // the server refused some of the calls, not the connection all of them
	}
	return err
}

// Pause waits for d or the end of ctx.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
