package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// Gateway returns what a gateway of alias works with; s finds its documents.
func (f *Fleet) Gateway(alias string, s gateway.Searcher) gateway.Parts {
	return gateway.Parts{
		Model: alias, Queue: receipts{f}, Answers: answers{f}, Search: s, Documents: f.Documents(alias),
		Status: func(ctx context.Context) (any, error) { return f.Status(ctx, alias) },
	}
}

// receipts tells a gateway what became of its tasks.
type receipts struct{ fleet *Fleet }

// Enqueue hands documents to the queue one by one, but the queries of one request together: a part of them is of no
// use to anybody.
func (r receipts) Enqueue(ctx context.Context, list []tasks.Task) ([]gateway.Receipt, error) {
	if len(list) > 0 && list[0].Lane == tasks.Query {
		if err := r.fleet.ask(ctx, list); err != nil {
			return nil, err
		}
		return whole(len(list)), nil
	}
	got, err := r.fleet.Queue.Enqueue(ctx, trace.Stamp(ctx, list))
	if err != nil {
		return nil, err
	}
	out := make([]gateway.Receipt, len(got))
	for i, receipt := range got {
		out[i] = gateway.Receipt{State: string(receipt.State), Err: refusal(receipt)}
	}
	return out, nil
}

// whole returns the receipts of n tasks that are all in.
func whole(n int) []gateway.Receipt {
	out := make([]gateway.Receipt, n)
	for i := range out {
		out[i].State = string(queue.Enqueued)
	}
	return out
}

// refusal is why a task is not in the queue's care.
func refusal(r queue.Receipt) error {
	if r.State.Accepted() {
		return nil
	}
	return r.Err
}

// ask puts the queries of one request, all of one alias, into their lane: all of them, or none. It fails at once if
// no worker of the alias has registered. When ctx ends, those that nobody has fetched the answer of are cancelled.
func (f *Fleet) ask(ctx context.Context, list []tasks.Task) error {
	if err := f.served.check(ctx, list[0].Model); err != nil {
		return err
	}
	ids := make([]string, len(list))
	for i, t := range list {
		ids[i] = t.ID
	}
	f.asked.add(ids)
	_, err := f.Queue.EnqueueWhole(ctx, trace.Stamp(ctx, list))
	var full *queue.FullError
	var many *queue.TooManyError
	if errors.As(err, &full) || errors.As(err, &many) || errors.Is(err, queue.ErrInvalid) {
		f.asked.take(ids) // none is there
		return err
	}
	context.AfterFunc(ctx, func() { f.withdraw(list[0].Model, ids) })
	if err != nil {
		f.withdraw(list[0].Model, ids) // they may be there
	}
	return err
}

// answers fetches answers, and remembers what is fetched.
type answers struct{ fleet *Fleet }

func (a answers) Await(ctx context.Context, id string) (vector.Embedding, error) {
	e, err := a.fleet.Store.Await(ctx, id)
	var refused *store.RefusedError
	if err == nil || errors.As(err, &refused) {
		a.fleet.asked.take([]string{id})
	}
	return e, err
}

// withdraw cancels those of the queries whose answers nobody has fetched. The caller's context has ended, so it has
// one of its own. What Redis does not take in that time expires with its tasks.
func (f *Fleet) withdraw(model string, ids []string) {
	open := f.asked.take(ids)
	if len(open) == 0 || !f.asked.begin() {
		return
	}
	defer f.asked.end()
	ctx, cancel := context.WithTimeout(context.Background(), withdrawTime)
	defer cancel()
	_, _ = f.Lanes.Cancel(ctx, model, tasks.Query, open) // nobody is left to tell
}

// one hands single queries of a search to the queue.
type one struct{ fleet *Fleet }

func (o one) Enqueue(ctx context.Context, t tasks.Task) error {
	if err := o.fleet.ask(ctx, []tasks.Task{t}); err != nil {
		return fmt.Errorf("asking a worker: %w", err)
	}
	return nil
}
