package queue

import (
	"context"
	_ "embed"
	"errors"

	"github.com/redis/go-redis/v9"
)

//go:embed enqueue.lua
var enqueueLua string

// A script is a Lua script and the SHA-1 by which servers that have seen it know it.
type script struct{ *redis.Script }

func newScript(source string) script { return script{redis.NewScript(source)} }

// A call is one run of a script; its result is filled in by [script.runAll].
type call struct {
	keys []string
	args []any
	cmd  *redis.Cmd
}

// runAll runs the script once per call, all in one round trip. Servers that do not know the script yet get
// its source for the calls they refused. The error is that of the connection; a call's own error is in its
// cmd.
func (s script) runAll(ctx context.Context, rdb redis.UniversalClient, calls []*call) error {
	if len(calls) == 0 {
		return nil
	}
	pipe := rdb.Pipeline()
	for i := range calls {
		calls[i].cmd = pipe.EvalSha(ctx, s.Hash(), calls[i].keys, calls[i].args...)
	}
	_, err := pipe.Exec(ctx)
	if err == nil {
		return nil
	}
	pipe = rdb.Pipeline()
	for i := range calls {
		if redis.HasErrorPrefix(calls[i].cmd.Err(), "NOSCRIPT") {
			calls[i].cmd = s.Eval(ctx, pipe, calls[i].keys, calls[i].args...)
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
