package queue

import (
	"context"
	"fmt"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// WholeTasks is how many tasks [Client.EnqueueWhole] takes at most: what one run of a script can push at once.
const WholeTasks = 4096

// A TooManyError says that tasks which must enter a lane together never will, since fewer may wait there.
type TooManyError struct {
	Tasks, Bound int64
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%d tasks at once, at most %d may wait: send fewer", e.Tasks, e.Bound)
}

// Permanent marks the error for [tasks.Classify]: trying again is no use.
func (e *TooManyError) Permanent() bool { return true }

// EnqueueWhole is [Client.Enqueue] for tasks of one lane that are of use only together, as the texts of one request:
// all are admitted, or none. If there is no room for all of them the error is a [*FullError], which says when there
// will be, or a [*TooManyError]; if one can't be enqueued at all it wraps [ErrInvalid]. After any other error Redis
// did not answer, and the tasks may be in their lane or not.
func (c *Client) EnqueueWhole(ctx context.Context, list []tasks.Task) ([]Receipt, error) {
	receipts, err := c.enqueueWhole(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("enqueuing %d tasks together: %w", len(list), err)
	}
	return receipts, nil
}

func (c *Client) enqueueWhole(ctx context.Context, list []tasks.Task) ([]Receipt, error) {
	if len(list) == 0 {
		return nil, nil
	}
	if len(list) > WholeTasks {
		return nil, &TooManyError{int64(len(list)), WholeTasks}
	}
	b := &bulk{client: c, tasks: list, receipts: make([]Receipt, len(list)), want: chunkTasks}
	for i, t := range list {
		if t.Model != list[0].Model || t.Lane != list[0].Lane {
			return nil, fmt.Errorf("%w: task %d is for lane %s of %s, the first for lane %s of %s", ErrInvalid, i, t.Lane, t.Model, list[0].Lane, list[0].Model)
		}
		b.receipts[i] = Receipt{ID: t.ID, Model: t.Model, Lane: t.Lane, State: Unknown}
	}
	if err := b.register(ctx); err != nil {
		return nil, err
	}
	d := b.lanes[place{list[0].Model, list[0].Lane}]
	if err := b.enterWhole(ctx, d); err != nil {
		return nil, err
	}
	d.room = 0 // whoever follows one that runs was admitted with it
	if err := b.follow(ctx); err != nil {
		return nil, err
	}
	return b.receipts, b.revive(ctx)
}

// enterWhole runs the script for all tasks of b, which are d's.
func (b *bulk) enterWhole(ctx context.Context, d *destination) error {
	if d.full != nil {
		return d.full
	}
	if wanted := int64(len(b.tasks)); d.room > 0 && wanted > d.room {
		return &TooManyError{wanted, d.room}
	}
	g := newGroup(d).whole()
	for i, t := range b.tasks {
		msg, err := b.client.message(t, d)
		if err != nil {
			return fmt.Errorf("task %d: %w", i, err)
		}
		g.add(i, t, msg)
	}
	got := b.client.runAll(ctx, []*wire.Call{&g.Call})
	if got.err != nil {
		return got.err
	}
	answers, err := g.Cmd.Slice()
	if err != nil {
		return err
	}
	if len(answers) == 2 && answers[0] == int64(-1) {
		waiting, _ := answers[1].(int64)
		return b.client.gauge.full(ctx, b.tasks[0].Model, b.tasks[0].Lane, d.room, waiting+int64(len(b.tasks))-d.room)
	}
	b.doubt(g, got.weak[&g.Call])
	return b.settle(g)
}
