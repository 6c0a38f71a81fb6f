package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// chunkTasks and chunkBytes bound one round trip of a bulk enqueue: enough to hide the latency, and few
	// to be in doubt when it fails.
	chunkTasks = 500
	chunkBytes = 1 << 20
	// callTasks bounds one run of the script, during which Redis does nothing else: less than 1 ms.
	callTasks = 100

	defaultMaxRetry = 25
)

// ErrInvalid is wrapped by the error of a task that no queue can carry. Trying again is no use.
var ErrInvalid = errors.New("task cannot be enqueued")

// A State is what became of a task that was handed to [Client.Enqueue].
type State string

// The states of a receipt. All but Full, Refused and Unknown are success for the producer.
const (
	Enqueued State = "enqueued" // new
	Attached State = "attached" // the same task waits or runs already
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
}

// ClientOptions may be nil.
type ClientOptions struct {
	// MaxRetry is how often a task may fail before it is dead; 0 means 25. It can't be none: a task whose
	// ack or whose dequeue got lost would die without having failed (T1, T33).
	MaxRetry int
	// Retention is how long a task that is done is remembered, in whole seconds; 0 means not at all. A
	// remembered task answers [Done] to its next producer and costs Redis its payload for that time (T17).
	Retention time.Duration
	// Limits bound what may wait; by default only Redis's memory does.
	Limits Limits
}

// A Client enqueues tasks and waits for them. It is safe for concurrent use. The Redis client is the
// caller's.
type Client struct {
	rdb       redis.UniversalClient
	enqueue   script
	maxRetry  int
	retention time.Duration
	gauge     *gauge // nil: no limits
}

// NewClient returns a client. It does no I/O.
func NewClient(rdb redis.UniversalClient, opts *ClientOptions) *Client {
	c := &Client{rdb: rdb, enqueue: newScript(lettersLua + enqueueLua), maxRetry: defaultMaxRetry}
	c.gauge = newGauge(rdb, Limits{})
	if opts != nil {
		c.gauge.limits = opts.Limits
		c.retention = max(0, opts.Retention)
		if opts.MaxRetry > 0 {
			c.maxRetry = opts.MaxRetry
		}
	}
	return c
}

// insider returns a client for tasks that are in the queue's care already, which no limit may turn away.
func insider(rdb redis.UniversalClient) *Client {
	c := NewClient(rdb, nil)
	c.gauge = nil
	return c
}

// Enqueue hands tasks to their lanes and returns one receipt per task, in the tasks' order. Tasks travel
// in chunks of one round trip each; the order within a lane is the tasks' order.
//
// A task that can't be enqueued, or finds no room, is refused on its own receipt and stops nobody else. The error is non-nil
// only if Redis failed: then it says how many were accepted, the receipts of the rest say Unknown, and
// enqueuing everything again is safe, since ids decide.
func (c *Client) Enqueue(ctx context.Context, list []tasks.Task) ([]Receipt, error) {
	receipts := make([]Receipt, len(list))
	for i, t := range list {
		receipts[i] = Receipt{ID: t.ID, Model: t.Model, Lane: t.Lane, State: Unknown}
	}
	b := &bulk{client: c, tasks: list, receipts: receipts}
	err := b.run(ctx)
	if err == nil {
		return receipts, nil
	}
	accepted := 0
	for i := range receipts {
		if receipts[i].State == Unknown {
			receipts[i].Err = err
		} else if receipts[i].State.Accepted() {
			accepted++
		}
	}
	return receipts, fmt.Errorf("enqueuing tasks: %d of %d accepted: %w", accepted, len(list), err)
}

// A bulk is one call of Enqueue under way.
type bulk struct {
	client   *Client
	tasks    []tasks.Task
	receipts []Receipt // beside tasks

	room  map[string]int64      // how many may wait, 0 for any number, by queue name
	full  map[string]*FullError // of the lanes that take nobody now, by queue name
	chunk []*group
	open  map[string]*group // of chunk, those with room, by queue name
	count int               // tasks in chunk
	bytes int               // of their messages
}

// A group is a few tasks of one lane, for one run of the script.
type group struct {
	call
	indexes []int // of its tasks
}

func (b *bulk) run(ctx context.Context) error {
	if err := b.register(ctx); err != nil {
		return err
	}
	b.open = map[string]*group{}
	for i, t := range b.tasks {
		msg, err := b.client.message(t)
		if err != nil {
			b.receipts[i].State, b.receipts[i].Err = Refused, err
			continue
		}
		if full := b.full[queueName(t.Model, t.Lane)]; full != nil {
			b.receipts[i].State, b.receipts[i].Err = Full, full
			continue
		}
		b.add(i, msg)
		if b.count == chunkTasks || b.bytes >= chunkBytes {
			if err := b.flush(ctx); err != nil {
				return err
			}
		}
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	if err := b.revive(ctx); err != nil {
		return fmt.Errorf("dropping the dead letters of tasks that were enqueued: %w", err)
	}
	return nil
}

// register names the queues in asynq's registry: every time, for the set may be lost while the tasks are
// not (T8), and once per call costs nothing. It also learns what room they have.
func (b *bulk) register(ctx context.Context) error {
	b.room, b.full = map[string]int64{}, map[string]*FullError{}
	var names []any
	for _, t := range b.tasks {
		name := queueName(t.Model, t.Lane)
		if _, seen := b.room[name]; seen || checkLane(t.Model, t.Lane) != nil {
			continue
		}
		names = append(names, name)
		b.room[name] = 0
		if b.client.gauge != nil {
			b.room[name], b.full[name] = b.client.gauge.room(ctx, t.Model, t.Lane)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return b.client.rdb.SAdd(ctx, registryKey, names...).Err()
}

// revive drops the dead letters that tasks of this call have in other lanes than the one they entered, where
// the script has seen to it: whoever is enqueued again is not dead. It costs one small read per model while
// nobody is dead.
func (b *bulk) revive(ctx context.Context) error {
	entered := map[string]map[tasks.Lane][]string{} // model -> lane -> ids
	for _, r := range b.receipts {
		if r.State != Enqueued && r.State != Rerun && r.State != Repaired {
			continue
		}
		if entered[r.Model] == nil {
			entered[r.Model] = map[tasks.Lane][]string{}
		}
		entered[r.Model][r.Lane] = append(entered[r.Model][r.Lane], r.ID)
	}
	dead := NewDead(b.client.rdb)
	for model, ids := range entered {
		lanes, err := dead.lanes(ctx, model)
		if err != nil {
			return err
		}
		for _, lane := range lanes {
			for other, list := range ids {
				if other == lane {
					continue
				}
				if _, err := dead.forget(ctx, keysOf(model, lane), list); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *bulk) add(i int, msg []byte) {
	t := b.tasks[i]
	k := keysOf(t.Model, t.Lane)
	g := b.open[string(k)]
	if g == nil || len(g.indexes) == callTasks {
		g = &group{call: call{
			keys: []string{k.pending(), k.active(), k.lease(), k.scheduled(), k.retry(), k.archived(), k.completed(),
				k.dead(), k.causes(), k.cancelled(), k.counts()},
			args: []any{time.Now().UnixNano(), k.letters(), b.room[queueName(t.Model, t.Lane)]},
		}}
		b.open[string(k)] = g
		b.chunk = append(b.chunk, g)
	}
	g.keys = append(g.keys, k.task(t.ID))
	g.args = append(g.args, t.ID, msg)
	g.indexes = append(g.indexes, i)
	b.count++
	b.bytes += len(msg)
}

// flush sends the open chunk. It fills the receipts of what Redis answered also when it fails.
func (b *bulk) flush(ctx context.Context) error {
	calls := make([]*call, len(b.chunk))
	for i, g := range b.chunk {
		calls[i] = &g.call
	}
	err := b.client.enqueue.runAll(ctx, b.client.rdb, calls)
	for _, g := range b.chunk {
		answers, callErr := g.cmd.StringSlice()
		if callErr != nil && err == nil {
			err = callErr
		}
		for n, answer := range answers {
			b.receipts[g.indexes[n]].State = State(answer)
		}
		b.explain(g)
	}
	b.chunk, b.count, b.bytes = nil, 0, 0
	clear(b.open)
	return err
}

// explain adds to the receipts of tasks that found no room when there may be some.
func (b *bulk) explain(g *group) {
	var refused []int
	for _, i := range g.indexes {
		if b.receipts[i].State == Full {
			refused = append(refused, i)
		}
	}
	if len(refused) == 0 {
		return
	}
	t := b.tasks[refused[0]]
	err := b.client.gauge.full(t.Model, t.Lane, b.room[queueName(t.Model, t.Lane)], int64(len(b.tasks)))
	for _, i := range refused {
		b.receipts[i].Err = err
	}
}

// message returns the wire form of t as asynq's own client would write it, never a unique lock (T15).
func (c *Client) message(t tasks.Task) ([]byte, error) {
	if err := checkTask(t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	m := message{
		Type:      string(t.Kind),
		Payload:   t.Payload,
		ID:        t.ID,
		Queue:     queueName(t.Model, t.Lane),
		Retry:     c.maxRetry,
		Timeout:   t.Timeout,
		Retention: c.retention,
		Expires:   t.Expires,
	}
	return m.append(make([]byte, 0, len(t.Payload)+256)), nil
}

// checkTask reports what of a task's envelope asynq would take silently and wrongly.
func checkTask(t tasks.Task) error {
	switch {
	// asynq can't decode a message with broken UTF-8: the task would stay active for ever.
	case t.ID == "" || !utf8.ValidString(t.ID):
		return fmt.Errorf("its id is %q, want a name in UTF-8", t.ID)
	case t.Kind == "" || !utf8.ValidString(string(t.Kind)):
		return fmt.Errorf("its kind is %q, want a name in UTF-8", t.Kind)
	case t.Timeout < time.Second || t.Timeout%time.Second != 0:
		// asynq cuts fractions off, and reads 0 as half an hour (T13).
		return fmt.Errorf("its timeout is %v, want whole seconds, at least 1 s", t.Timeout)
	}
	return checkLane(t.Model, t.Lane)
}
