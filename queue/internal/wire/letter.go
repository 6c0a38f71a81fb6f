package wire

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

// LettersLua goes in front of every script that writes or removes dead letters.
//
//go:embed letters.lua
var LettersLua string

//go:embed forget.lua
var forgetLua string

// The codes of causes that are the queue's own; all others are what [tasks.Code] says of a handler's error.
const (
	CodePoison  = "poison"        // it crashed every worker that touched it, the last time alone
	CodeTimeout = "timeout"       // its own work took longer than its deadline
	CodeLease   = "lease_expired" // its worker was away for longer than its lease; asynq's servers write it
	CodeUnknown = "unknown"       // archived by somebody who left no code: an asynq tool, another release
)

const (
	// maxCode bounds a code in Redis; it is a word of a bounded set, unless a handler breaks the rule.
	maxCode = 64
	// maxCause bounds a cause in Redis, in bytes.
	maxCause = 1000
	// CallTasks bounds one run of a script, during which Redis does nothing else: less than 1 ms.
	CallTasks = 100
)

// A Letter is a dead task: it will not run again unless it is replayed or enqueued once more. Its text is not
// here, but beside it in Redis.
type Letter struct {
	ID       string     `json:"id"` // the task's
	Model    string     `json:"model"`
	Lane     tasks.Lane `json:"lane"` // where it died
	Kind     tasks.Kind `json:"kind"`
	Code     string     `json:"cause"`   // one word of a bounded set
	Message  string     `json:"message"` // of the last failure, at most 1,000 bytes
	First    time.Time  `json:"first_failure"`
	Last     time.Time  `json:"last_failure"`
	Attempts int        `json:"attempts"`         // runs that ended in a failure
	Crashes  int        `json:"crashes"`          // runs that ended the worker
	Worker   string     `json:"worker,omitempty"` // of the last failure
	Document string     `json:"document,omitempty"`
	Source   string     `json:"source,omitempty"`
}

// letterFields is the order in which a letter's fields are asked for.
var letterFields = [...]string{
	"code", "message", "first", "last", "attempts", "crashes", "worker", "kind", "document", "source",
}

// letterOf reads the values of letterFields. It reports false for a letter that is not there. A value it
// can't read stays zero, so that one damaged letter does not hide the rest.
func letterOf(id string, values []any) (Letter, bool) {
	text := func(i int) string { s, _ := values[i].(string); return s }
	number := func(i int) int { n, _ := strconv.Atoi(text(i)); return n }
	moment := func(i int) time.Time {
		ms, err := strconv.ParseInt(text(i), 10, 64)
		if err != nil {
			return time.Time{}
		}
		return time.UnixMilli(ms)
	}
	return Letter{
		ID: id, Code: text(0), Message: text(1), First: moment(2), Last: moment(3),
		Attempts: number(4), Crashes: number(5), Worker: text(6), Kind: tasks.Kind(text(7)),
		Document: text(8), Source: text(9),
	}, values[0] != nil
}

// Describe fills in whom the task is about. It is the one place of the queue where what is in a payload is asked
// for, and only of the dead: tasks is asked, nothing is read here.
func (l *Letter) Describe(payload []byte) {
	if l.Kind != tasks.EmbedDocument {
		return
	}
	if p, err := tasks.DecodeDocument(payload); err == nil {
		l.Document, l.Source = p.Document.ID, p.Document.Source
	}
}

// Code returns a code as it may be kept: a word, at most 64 bytes.
func Code(code string) string {
	if code == "" || len(code) > maxCode || !utf8.ValidString(code) {
		return CodeUnknown
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' {
			return '_'
		}
		return r
	}, code)
}

// Cause returns an error's text as it may be kept: at most about 1,000 bytes, and UTF-8, since asynq's tools could
// not decode a message with anything else in it.
func Cause(err error) string {
	cause := err.Error()
	if len(cause) > maxCause {
		cause = cause[:maxCause] + " ..."
	}
	return strings.ToValidUTF8(cause, "\uFFFD")
}

// Letters reads and removes dead letters by their ids.
type Letters struct {
	rdb  redis.UniversalClient
	drop Script
}

// NewLetters returns it. The Redis client is the caller's.
func NewLetters(rdb redis.UniversalClient) Letters {
	return Letters{rdb, NewScript(LettersLua + forgetLua)}
}

// Read returns the letters of ids that are there.
func (ls Letters) Read(ctx context.Context, model string, lane tasks.Lane, ids []string) ([]Letter, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	k := KeysOf(model, lane)
	cmds := make([]*redis.SliceCmd, len(ids))
	_, err := ls.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = pipe.HMGet(ctx, k.Letter(id), letterFields[:]...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %d dead letters: %w", len(ids), err)
	}
	var list []Letter
	for i, id := range ids {
		if l, ok := letterOf(id, cmds[i].Val()); ok {
			l.Model, l.Lane = model, lane
			list = append(list, l)
		}
	}
	return list, nil
}

// Lanes returns the lanes of a model that have letters.
func (ls Letters) Lanes(ctx context.Context, model string) ([]tasks.Lane, error) {
	cmds := make([]*redis.IntCmd, len(tasks.Lanes))
	_, err := ls.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, lane := range tasks.Lanes {
			cmds[i] = pipe.Exists(ctx, KeysOf(model, lane).Dead())
		}
		return nil
	})
	var list []tasks.Lane
	for i, cmd := range cmds {
		if cmd.Val() > 0 {
			list = append(list, tasks.Lanes[i])
		}
	}
	return list, err
}

// Forget drops the letters of one lane, and returns how many there were.
func (ls Letters) Forget(ctx context.Context, k Keys, ids []string) (int, error) {
	dropped := 0
	for part := range slices.Chunk(ids, CallTasks) {
		keys := []string{k.Dead(), k.Causes()}
		var args []any
		for _, id := range part {
			keys, args = append(keys, k.Letter(id)), append(args, id)
		}
		n, err := ls.drop.Run(ctx, ls.rdb, keys, args...).Int()
		if err != nil {
			return dropped, err
		}
		dropped += n
	}
	return dropped, nil
}
