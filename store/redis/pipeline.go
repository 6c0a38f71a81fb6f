package redis

import (
	"context"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// pipelineCalls is how many scripts travel in one round trip at most: a batch of the engine's size, about
// 100 kB of vectors.
const pipelineCalls = 256

// lingerCalls is how long a round trip waits for more scripts while there are many. The handlers of one of the
// engine's batches are woken together, but while the cores are busy they come over several milliseconds.
const lingerCalls = 30 * time.Millisecond

// A scriptCall is one script's run, alone or among others.
type scriptCall struct {
	script *goredis.Script
	keys   []string
	args   []any
	cmd    *goredis.Cmd // the outcome
}

// call runs a script and returns the {code, detail} that all of this package's scripts answer with. Calls
// at the same time share a round trip: when the engine has finished a batch, all of its texts are stored at
// once, and a round trip each would cost the cores that the model needs.
func (s *Store) call(ctx context.Context, script *goredis.Script, keys []string, args ...any) (int64, string, error) {
	if ctx.Err() != nil {
		return 0, "", context.Cause(ctx)
	}
	c := &scriptCall{script: script, keys: keys, args: args}
	s.calls.Do(ctx, c)
	return reply(c.cmd)
}

// runCalls runs the scripts in one round trip. Those that Redis does not know yet are run again, by source;
// a pipeline can't fall back by itself.
func (s *Store) runCalls(ctx context.Context, calls []*scriptCall) {
	if len(calls) == 1 {
		c := calls[0]
		c.cmd = c.script.Run(ctx, s.client, c.keys, c.args...)
		return
	}
	pipe := s.client.Pipeline()
	for _, c := range calls {
		c.cmd = c.script.EvalSha(ctx, pipe, c.keys, c.args...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, c := range calls {
		if goredis.HasErrorPrefix(c.cmd.Err(), "NOSCRIPT") {
			c.cmd = c.script.Run(ctx, s.client, c.keys, c.args...)
		}
	}
}
