package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// writesPerTrip is how many records share a round trip at most, and how many a script takes.
const writesPerTrip = 256

// bytesPerScript is how much text and vectors one script takes: Redis serves nobody else while it runs.
const bytesPerScript = 1 << 20

// lingerWrites is how long a round trip waits for more records while there are many. The handlers of one of the
// engine's batches are woken together, but while the cores are busy they come over several milliseconds.
const lingerWrites = 30 * time.Millisecond

// A write is one record's part in a run of put.lua or refresh.lua.
type write struct {
	script *goredis.Script
	rec    vector.Record
	args   []any // the record's, of the script's ARGV

	yes bool // the script's answer
	err error
}

// errNotRun is a write's error until its script has answered, lest a run that panics looks like one that had nothing to do.
var errNotRun = errors.New("the script was not run")

// share runs the writes' scripts for them and for others that come at the same time: when the engine has finished a
// batch, all of its texts are stored at once, and a round trip or a script each would cost the cores that the model needs.
func (s *Store) share(ctx context.Context, writes ...*write) {
	if ctx.Err() == nil {
		s.writes.DoAll(ctx, writes)
		return
	}
	for _, w := range writes {
		w.err = context.Cause(ctx)
	}
}

// onePiece is how much of a command go-redis sends at once; of a pipeline it sends 128 KB.
const onePiece = 32 << 10

// run runs the writes in one round trip, those that may share a script in one script. Scripts that Redis does not know
// yet are run again, by source; a pipeline can't fall back by itself. A large script travels as a pipeline too, for Redis
// wakes for every piece. A small one does not: where Redis is away, a pipeline takes twice as long to find out.
func (s *Store) run(ctx context.Context, writes []*write) {
	groups := grouped(writes)
	if len(groups) == 1 && groups[0].size() < onePiece {
		g := groups[0]
		g.read(g.script().Run(ctx, s.client, g.keys(), g.args()...))
		return
	}
	pipe, cmds := s.client.Pipeline(), make([]*goredis.Cmd, len(groups))
	for i, g := range groups {
		cmds[i] = g.script().EvalSha(ctx, pipe, g.keys(), g.args()...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, g := range groups {
		if goredis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
			cmds[i] = g.script().Eval(ctx, s.client, g.keys(), g.args()...)
		}
		g.read(cmds[i])
	}
}

// A group is writes of one script, alias and space: never empty.
type group []*write

// grouped returns the writes in groups, each in the order of writes.
func grouped(writes []*write) []group {
	type kind struct {
		script *goredis.Script
		alias  string
		space  vector.Space
	}
	type place struct{ index, bytes int }
	var groups []group
	open := map[kind]place{}
	for _, w := range writes {
		k, size := kind{w.script, w.rec.Model, w.rec.Space}, w.size()
		at, ok := open[k]
		if !ok || at.bytes+size > bytesPerScript || len(groups[at.index]) == writesPerTrip {
			at = place{index: len(groups)}
			groups = append(groups, nil)
		}
		at.bytes += size
		open[k] = at
		groups[at.index] = append(groups[at.index], w)
	}
	return groups
}

// size is about how many bytes of arguments w has.
func (w *write) size() int {
	n := 0
	for _, a := range w.args {
		switch a := a.(type) {
		case string:
			n += len(a)
		case []byte:
			n += len(a)
		}
	}
	return n
}

func (g group) script() *goredis.Script { return g[0].script }

// size is about how many bytes of arguments all of g have.
func (g group) size() int {
	n := 0
	for _, w := range g {
		n += w.size()
	}
	return n
}

func (g group) keys() []string {
	ids := make([]string, len(g))
	for i, w := range g {
		ids[i] = w.rec.Document.ID
	}
	return documentKeys(g[0].rec.Model, ids...)
}

func (g group) args() []any {
	args := append(make([]any, 0, 1+len(g)*len(g[0].args)), string(g[0].rec.Space))
	for _, w := range g {
		args = append(args, w.args...)
	}
	return args
}

// read gives each write its part of the script's answer.
func (g group) read(cmd *goredis.Cmd) {
	answers, err := cmd.Slice()
	if err == nil {
		err = g.refusal(answers)
	}
	for i, w := range g {
		if w.err = err; err == nil {
			w.yes, w.err = readAnswer(answers[1+i])
		}
	}
}

// refusal returns the error that concerns all of the group, if there is one.
func (g group) refusal(answers []any) error {
	if len(answers) > 0 {
		if current, ok := answers[0].(string); ok && current != "" {
			return &store.SpaceError{Model: g[0].rec.Model, Current: vector.Space(current), Wanted: g[0].rec.Space}
		}
	}
	if len(answers) != 1+len(g) {
		return fmt.Errorf("script returned %d values for %d records", len(answers), len(g))
	}
	return nil
}

func readAnswer(answer any) (bool, error) {
	switch answer := answer.(type) {
	case int64:
		return answer == 1, nil
	case string:
		return false, errors.New(answer)
	default:
		return false, fmt.Errorf("script returned %T, want an integer or a string", answer)
	}
}
