package queue

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hibiken/asynq"

	"github.com/embedfleet/embedfleet/tasks"
)

// The codes of causes that are the queue's own; all others are what [tasks.Code] says of a handler's error.
const (
	CodePoison  = "poison"        // it crashed every worker that touched it, the last time alone
	CodeTimeout = "timeout"       // its handler did not return in time
	CodeLease   = "lease_expired" // its worker was away for longer than its lease
	CodeUnknown = "unknown"       // archived by somebody who left no code: an asynq tool, another release
)

// maxCode bounds a code in Redis; it is a word of a bounded set, unless a handler breaks the rule.
const maxCode = 64

// A Letter is a dead task: it will not run again unless it is replayed or enqueued once more. Its text is not
// here; see [Dead.Payload].
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

// args are those of bury.lua for one letter; what the task's hash knows is left to the script.
func (l Letter) args() []any {
	return []any{l.ID, l.Code, l.Message, l.Last.UnixMilli(), l.Attempts, l.Worker, string(l.Kind), l.Document, l.Source}
}

// failure is the letter in the form in which [Client.Wait] reports it.
func (l Letter) failure() Failure {
	return Failure{ID: l.ID, Model: l.Model, Lane: l.Lane, Kind: l.Kind, Cause: l.Message,
		Retried: max(0, l.Attempts-1), FailedAt: l.Last}
}

// describe fills in whom the task is about. It is the one place where this room asks what is in a payload,
// and only of the dead: tasks is asked, nothing is read here.
func (l *Letter) describe(payload []byte) {
	if l.Kind != tasks.EmbedDocument {
		return
	}
	if p, err := tasks.DecodeDocument(payload); err == nil {
		l.Document, l.Source = p.Document.ID, p.Document.Source
	}
}

// codeOf returns the bounded word for an error that ended a run.
func codeOf(err error) string {
	var v *verdict
	switch {
	case errors.As(err, &v):
		return bounded(tasks.Code(v.err))
	case errors.Is(err, asynq.ErrLeaseExpired):
		return CodeLease
	case errors.Is(err, context.DeadlineExceeded):
		return CodeTimeout
	default:
		return bounded(tasks.Code(err))
	}
}

func bounded(code string) string {
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
