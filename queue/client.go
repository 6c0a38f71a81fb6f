package queue

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// chunkTasks and chunkBytes bound one round trip of a bulk enqueue: enough to hide the latency, and few
	// to be in doubt when it fails.
	chunkTasks = 500
	chunkBytes = 1 << 20

	defaultMaxRetry = 25

	// A document's text that runs while it is sent again, in a newer version, follows itself under an id with
	// this mark; so may that one, maxFollowers times.
	followMark   = "+"
	maxFollowers = 4
	// running is the script's word for it. No caller sees it.
	running State = "running"
)

//go:embed enqueue.lua
var enqueueLua string

// ErrInvalid is wrapped by the error of a task that no queue can carry. Trying again is no use.
var ErrInvalid = errors.New("task cannot be enqueued")

// A State is what became of a task that was handed to [Client.Enqueue].
type State string

// The states of a receipt. All but Full, Refused and Unknown are success for the producer.
const (
	Enqueued State = "enqueued" // new
	Attached State = "attached" // the same task waits or runs already, in this version if it is the newest
	Done     State = "done"     // the same task was done a short while ago
	Rerun    State = "rerun"    // the same task had failed for good and is tried again; its dead letter is gone
	Repaired State = "repaired" // a left-over of the same task was in the way and was replaced
	Full     State = "full"     // there is no room for it now; Err is a [*FullError]
	Refused  State = "refused"  // not a task the queue can carry; see Err
	Unknown  State = "unknown"  // Redis did not answer; enqueuing it again is safe
)

// Accepted reports whether the task is, or was, in the queue's care.
func (s State) Accepted() bool { return s != Full && s != Refused && s != Unknown }

// A Receipt tells what became of one task. It is enough to wait for the task.
type Receipt struct {
	ID    string
	Model string
	Lane  tasks.Lane
	State State
	Err   error // of Full, Refused and Unknown, else nil
	// Unconfirmed says that fewer replicas than [ClientOptions.Replicas] asks for had the task within a second. It
	// is in its lane, and may be lost with the master. Enqueuing it again asks again, and doubles nothing.
	Unconfirmed bool
}

// ClientOptions may be nil.
type ClientOptions struct {
	// MaxRetry is how often a task may fail before it is dead; 0 means 25. It can't be none: a task whose
	// ack or whose dequeue got lost would die without having failed (T1, T33).
	MaxRetry int
	// Retention is how long a task that is done is remembered, in whole seconds; 0 means not at all. A
	// remembered task answers [Done] to its next producer and costs Redis its payload for that time (T17).
	Retention time.Duration
	// Replicas is how many replicas of Redis must have a task before its receipt says nothing of it, see
	// [Receipt]. By default none is asked, as by any client of Redis.
	Replicas int
	// Limits bound what may wait; by default only Redis's memory does.
	Limits Limits
}

// A Client enqueues tasks and waits for them. It is safe for concurrent use. The Redis client is the
// caller's.
type Client struct {
	rdb       redis.UniversalClient
	enqueue   wire.Script
	maxRetry  int
	retention time.Duration
	replicas  int
	behind    atomic.Bool // the replicas fell short when last asked
	gauge     *gauge      // nil: no limits
}

// NewClient returns a client. It does no I/O.
func NewClient(rdb redis.UniversalClient, opts *ClientOptions) *Client {
	c := &Client{rdb: rdb, enqueue: wire.NewScript(wire.LettersLua + enqueueLua), maxRetry: defaultMaxRetry}
	c.gauge = newGauge(rdb, Limits{})
	if opts != nil {
		c.gauge.limits = opts.Limits
		c.retention = max(0, opts.Retention)
		c.replicas = max(0, opts.Replicas)
		if opts.MaxRetry > 0 {
			c.maxRetry = opts.MaxRetry
		}
	}
	return c
}

// NewInsider returns a client for tasks that are in the queue's care already, which no limit may turn away.
func NewInsider(rdb redis.UniversalClient) *Client {
	c := NewClient(rdb, nil)
	c.gauge = nil
	return c
}

// Enqueue hands tasks to their lanes and returns one receipt per task, in the tasks' order. Tasks travel
// in chunks of one round trip each; the order within a lane is the tasks' order.
//
// The same text of a document may be sent again in a newer version, since another text may have been sent in
// between: if it waits, it waits in that version; if it runs, it is enqueued once more, under an id that only
// its receipt tells. A worker that finds the text's vectors stored has little to do.
//
// A task that can't be enqueued, or finds no room, is refused on its own receipt and stops nobody else. The error is non-nil
// only if Redis failed: then it says how many were accepted, the receipts of the rest say Unknown, and
// enqueuing everything again is safe, since ids decide.
func (c *Client) Enqueue(ctx context.Context, list []tasks.Task) ([]Receipt, error) {
	receipts := make([]Receipt, len(list))
	for i, t := range list {
		receipts[i] = Receipt{ID: t.ID, Model: t.Model, Lane: t.Lane, State: Unknown}
	}
	b := &bulk{client: c, tasks: list, receipts: receipts, want: wire.CallTasks}
	err := errors.Join(b.run(ctx), b.receive(ctx))
	if err == nil {
		return receipts, nil
	}
	accepted := 0
	for i := range receipts {
		if receipts[i].State == Unknown || receipts[i].State == running {
			receipts[i].State, receipts[i].Err = Unknown, err
		} else if receipts[i].State.Accepted() {
			accepted++
		}
	}
	return receipts, fmt.Errorf("enqueuing tasks: %d of %d accepted: %w", accepted, len(list), err)
}

// message returns the wire form of t as asynq's own client would write it, never a unique lock (T15).
func (c *Client) message(t tasks.Task, to *destination) ([]byte, error) {
	if err := cmp.Or(checkTask(t), to.err); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	m := wire.Message{
		Type:      string(t.Kind),
		Payload:   t.Payload,
		ID:        t.ID,
		Queue:     to.name,
		Retry:     c.maxRetry,
		Timeout:   t.Timeout,
		Retention: c.retention,
		Expires:   t.Expires,
		Trace:     t.Trace,
	}
	return m.Append(make([]byte, 0, len(t.Payload)+256)), nil
}

// checkTask reports what of a task's envelope asynq would take silently and wrongly, the lane apart.
func checkTask(t tasks.Task) error {
	switch {
	// asynq can't decode a message with broken UTF-8: the task would stay active for ever.
	case t.ID == "" || !utf8.ValidString(t.ID):
		return fmt.Errorf("its id is %q, want a name in UTF-8", t.ID)
	case t.Kind == "" || !utf8.ValidString(string(t.Kind)):
		return fmt.Errorf("its kind is %q, want a name in UTF-8", t.Kind)
	case !utf8.ValidString(t.Trace):
		return fmt.Errorf("its trace is %q, want a traceparent", t.Trace)
	case t.Timeout < time.Second || t.Timeout%time.Second != 0:
		// asynq cuts fractions off, and reads 0 as half an hour (T13).
		return fmt.Errorf("its timeout is %v, want whole seconds, at least 1 s", t.Timeout)
	}
	return nil
}
