package queue

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// A bulk is one call of Enqueue under way.
type bulk struct {
	client   *Client
	tasks    []tasks.Task
	receipts []Receipt // beside tasks

	lanes map[place]*destination
	chunk []*group // not sent yet
	count int      // tasks in chunk
	bytes int      // of their messages
	want  int      // tasks that make a chunk: the first is small, so that workers that wait begin at once

	sent     []*group    // the chunk on its way
	answered chan answer // receives when Redis has answered it; nil: none is
}

// A place names a lane among all models.
type place struct {
	model string
	lane  tasks.Lane
}

// A destination is what a call needs to know of a lane, found out once.
type destination struct {
	err  error  // there is no such lane
	name string // of the queue
	keys wire.Keys
	room int64      // how many may wait, 0 for any number
	full *FullError // nobody may enter now
	open *group     // of the open chunk, with room for more; or nil
}

func newDestination(t tasks.Task) *destination {
	return &destination{err: wire.CheckLane(t.Model, t.Lane), name: wire.QueueName(t.Model, t.Lane), keys: wire.KeysOf(t.Model, t.Lane)}
}

// A group is a few tasks of one lane, for one run of the script.
type group struct {
	wire.Call
	dest    *destination
	indexes []int // of its tasks
}

// newGroup returns an empty group, of which some tasks may enter and others not.
func newGroup(d *destination) *group {
	k := d.keys
	return &group{dest: d, Call: wire.Call{
		Keys: []string{k.Pending(), k.Active(), k.Lease(), k.Scheduled(), k.Retry(), k.Archived(), k.Completed(),
			k.Dead(), k.Causes(), k.Cancelled(), k.Counts()},
		Args: append(make([]any, 0, 5+5*wire.CallTasks), time.Now().UnixNano(), k.Letters(), d.room, k.Tasks(), 0),
	}}
}

// whole makes it a group of which all tasks enter or none.
func (g *group) whole() *group {
	g.Args[4] = 1
	return g
}

// add puts the task of index i, whose message is msg, into the group.
func (g *group) add(i int, t tasks.Task, msg []byte) {
	g.Args = append(g.Args, t.ID, msg, t.Version, expiresAt(t), t.Tokens)
	g.indexes = append(g.indexes, i)
}

func (b *bulk) run(ctx context.Context) error {
	if err := b.register(ctx); err != nil {
		return err
	}
	for i := range b.tasks {
		if err := b.add(ctx, i); err != nil {
			return err
		}
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	if err := b.follow(ctx); err != nil {
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
	b.lanes = map[place]*destination{}
	var names []any
	for _, t := range b.tasks {
		at := place{t.Model, t.Lane}
		if b.lanes[at] != nil {
			continue
		}
		d := newDestination(t)
		b.lanes[at] = d
		if d.err != nil {
			continue
		}
		names = append(names, d.name)
		if b.client.gauge != nil {
			d.room, d.full = b.client.gauge.room(ctx, t.Model, t.Lane)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return b.client.rdb.SAdd(ctx, wire.RegistryKey, names...).Err()
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
	letters := wire.NewLetters(b.client.rdb)
	for model, ids := range entered {
		lanes, err := letters.Lanes(ctx, model)
		if err != nil {
			return err
		}
		for _, lane := range lanes {
			for other, list := range ids {
				if other == lane {
					continue
				}
				if _, err := letters.Forget(ctx, wire.KeysOf(model, lane), list); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// follow puts newer versions of texts that run at this moment behind them. Their messages can't be replaced,
// and would be lost: of the texts A, B, A of one document the last A would be taken for the first one, which
// is older than B.
func (b *bulk) follow(ctx context.Context) error {
	for round := range maxFollowers + 1 {
		var again []int
		for i := range b.receipts {
			if b.receipts[i].State == running {
				again = append(again, i)
			}
		}
		if len(again) == 0 {
			return nil
		}
		if round == 0 {
			b.tasks = slices.Clone(b.tasks) // they are the caller's
		}
		for _, i := range again {
			if round == maxFollowers {
				b.receipts[i].State = Attached // as good as it gets: so many versions run at once
				continue
			}
			b.tasks[i].ID += followMark
			b.receipts[i].ID, b.receipts[i].State = b.tasks[i].ID, Unknown
			if err := b.add(ctx, i); err != nil {
				return err
			}
		}
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// admit returns a task's message, or fills in its receipt if it can't be enqueued now.
func (b *bulk) admit(i int, d *destination) (msg []byte, ok bool) {
	r := &b.receipts[i]
	if d.full != nil {
		r.State, r.Err = Full, d.full
		return nil, false
	}
	if msg, r.Err = b.client.message(b.tasks[i], d); r.Err != nil {
		r.State = Refused
		return nil, false
	}
	return msg, true
}

// add puts a task into the open chunk, unless it is refused, and sends the chunk when it is full.
func (b *bulk) add(ctx context.Context, i int) error {
	t := b.tasks[i]
	d := b.lanes[place{t.Model, t.Lane}]
	msg, ok := b.admit(i, d)
	if !ok {
		return nil
	}
	g := d.open
	if g == nil || len(g.indexes) == wire.CallTasks {
		g = newGroup(d)
		d.open = g
		b.chunk = append(b.chunk, g)
	}
	g.add(i, t, msg)
	b.count++
	b.bytes += len(msg)
	if b.count < b.want && b.bytes < chunkBytes {
		return nil
	}
	b.want = chunkTasks
	return b.send(ctx)
}

// send sends the open chunk and does not wait for the answer, but for that of the chunk before: while Redis
// works on one, the next is made.
func (b *bulk) send(ctx context.Context) error {
	if err := b.receive(ctx); err != nil {
		return err
	}
	calls := make([]*wire.Call, len(b.chunk))
	for i, g := range b.chunk {
		calls[i] = &g.Call
	}
	b.sent, b.answered = b.chunk, make(chan answer, 1)
	for _, g := range b.chunk {
		g.dest.open = nil
	}
	b.chunk, b.count, b.bytes = nil, 0, 0
	go func(answered chan<- answer) { answered <- b.client.runAll(ctx, calls) }(b.answered)
	return nil
}

// receive waits for the answer to the chunk on its way. It fills the receipts of what Redis answered also when
// it fails.
func (b *bulk) receive(ctx context.Context) error {
	if b.answered == nil {
		return nil
	}
	got := <-b.answered
	err := got.err
	for _, g := range b.sent {
		b.doubt(g, got.weak[&g.Call])
		if callErr := b.settle(g); callErr != nil && err == nil {
			err = callErr
		}
		b.explain(ctx, g)
	}
	b.sent, b.answered = nil, nil
	return err
}

// flush sends the open chunk and waits until everything is answered.
func (b *bulk) flush(ctx context.Context) error {
	if err := b.send(ctx); err != nil {
		return err
	}
	return b.receive(ctx)
}

// settle fills in the receipts of one run of the script.
func (b *bulk) settle(g *group) error {
	answers, err := g.Cmd.Slice()
	if err != nil {
		return err
	}
	for _, i := range g.indexes {
		b.receipts[i].State = Enqueued
	}
	for n := 0; n+1 < len(answers); n += 2 {
		i, ok1 := answers[n].(int64)
		word, ok2 := answers[n+1].(string)
		if !ok1 || !ok2 || i < 0 || i >= int64(len(g.indexes)) {
			return fmt.Errorf("reading the answer about %d tasks: %v is not a task's number and a word", len(g.indexes), answers[n:n+2])
		}
		b.receipts[g.indexes[i]].State = State(word)
	}
	return nil
}

// explain adds to the receipts of tasks that found no room when there may be some.
func (b *bulk) explain(ctx context.Context, g *group) {
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
	err := b.client.gauge.full(ctx, t.Model, t.Lane, g.dest.room, int64(len(refused)))
	for _, i := range refused {
		b.receipts[i].Err = err
	}
}

// expiresAt is when a task expires, in Unix milliseconds; 0 is never.
func expiresAt(t tasks.Task) int64 {
	if t.Expires.IsZero() {
		return 0
	}
	return t.Expires.UnixMilli()
}
