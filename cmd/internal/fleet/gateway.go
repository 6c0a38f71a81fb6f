package fleet

import (
	"context"

	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// Gateway returns what a gateway of alias works with; s finds its documents.
func (f *Fleet) Gateway(alias string, s gateway.Searcher) gateway.Parts {
	return gateway.Parts{
		Model: alias, Queue: receipts{f}, Answers: f.Store, Search: s, Documents: f.Documents(alias),
		Status: func(ctx context.Context) (any, error) { return f.Status(ctx, alias) },
	}
}

// receipts tells a gateway what became of its tasks.
type receipts struct{ fleet *Fleet }

func (r receipts) Enqueue(ctx context.Context, list []tasks.Task) ([]gateway.Receipt, error) {
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

// refusal is why a task is not in the queue's care.
func refusal(r queue.Receipt) error {
	if r.State.Accepted() {
		return nil
	}
	return r.Err
}
