package queue

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed cancel.lua
var cancelLua string

const (
	// cancelTasks bounds one run of the script, longLine what it reads of a line: a few milliseconds.
	cancelTasks = 1000
	longLine    = 20_000
	// linePage is how much of a long line is looked at in one run, lineSlack how much more, for what was
	// enqueued in front of it meanwhile.
	linePage  = 5000
	lineSlack = 1000
)

// A Cancellation says what became of one task that was to be cancelled.
type Cancellation string

// The cancellations.
const (
	Removed Cancellation = "removed" // it waited and is gone
	Marked  Cancellation = "marked"  // it runs, and ends when its worker hears of it, at once or within some seconds
	Missing Cancellation = "missing" // it is done, dead or was never there

	// elsewhere is the script's word for a task that waits where it has not looked. No caller sees it.
	elsewhere Cancellation = "elsewhere"
)

// Cancel ends tasks of one lane that nobody wants any more: they are not retried and leave no dead letter.
// asynq's own cancellation only makes a task fail and come again (T14). Of a task that runs, the handler's
// context ends; if it returns nil all the same, the task is done. [Client.Wait] reports a cancelled task as
// failed. After an error the answers are those of the first ids.
func (l *Lanes) Cancel(ctx context.Context, model string, lane tasks.Lane, ids []string) ([]Cancellation, error) {
	if err := wire.CheckLane(model, lane); err != nil {
		return nil, fmt.Errorf("cancelling tasks: %w", err)
	}
	k := wire.KeysOf(model, lane)
	list := make([]Cancellation, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), cancelTasks)
		answers, err := l.takeOut(ctx, k, toCancel, ids[:n], 0, 0)
		if err == nil {
			err = l.search(ctx, k, ids[:n], answers)
		}
		if err != nil {
			return list, fmt.Errorf("cancelling tasks: %w", err)
		}
		list, ids = append(list, answers...), ids[n:]
	}
	return list, nil
}

// A takeOutMode says why tasks leave their lane, as the script has it.
type takeOutMode string

const (
	toCancel takeOutMode = "1"
	toMove   takeOutMode = "0" // only those that wait are taken out, and leave no mark
	toCount  takeOutMode = ""  // none is; the script never hears of it
)

// takeOut runs the script for at most cancelTasks ids, looking at the places first to last of a long line.
func (l *Lanes) takeOut(ctx context.Context, k wire.Keys, mode takeOutMode, ids []string, first, last int) ([]Cancellation, error) {
	args := []any{time.Now().Unix(), k.Tasks(), first, last, longLine, string(mode)}
	for _, id := range ids {
		args = append(args, id)
	}
	words, err := l.cancel.Run(ctx, l.rdb, []string{k.Pending(), k.Scheduled(), k.Retry(), k.Cancelled()}, args...).StringSlice()
	if err == nil && len(words) != len(ids) {
		err = fmt.Errorf("reading the answer about %d tasks: it has %d words", len(ids), len(words))
	}
	answers := make([]Cancellation, len(words))
	for i, word := range words {
		answers[i] = Cancellation(word)
	}
	return answers, err
}

// search walks through a long line for those that wait elsewhere, and cancels them. Who is not found has moved
// meanwhile, at worst to a worker; it has its mark.
func (l *Lanes) search(ctx context.Context, k wire.Keys, ids []string, answers []Cancellation) error {
	at := map[string]int{} // of those to find, in ids
	for i, answer := range answers {
		if answer == elsewhere {
			answers[i], at[ids[i]] = Marked, i
		}
	}
	for first := 0; len(at) > 0; {
		page, err := l.rdb.LRange(ctx, k.Pending(), int64(first), int64(first+linePage-1)).Result()
		if err != nil || len(page) == 0 {
			return err
		}
		var found []string
		for _, id := range page {
			if _, ok := at[id]; ok {
				found = append(found, id)
			}
		}
		first += len(page)
		if len(found) == 0 {
			continue
		}
		words, err := l.takeOut(ctx, k, toCancel, found, first-len(page), first+lineSlack)
		if err != nil {
			return err
		}
		for i, id := range found {
			if words[i] == Removed {
				answers[at[id]] = Removed
				first--
			}
			delete(at, id)
		}
	}
	return nil
}

// cancelledText is what [Client.Wait] reports as the cause of a cancelled task.
const cancelledText = "the task was cancelled"
