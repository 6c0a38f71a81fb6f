package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/gateway/batch"
	"github.com/embedfleet/embedfleet/gateway/ledger"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// Gateway returns what a gateway of models works with, of which the alias and the settings are filled in already.
func (f *Fleet) Gateway(log *slog.Logger, models []gateway.Model) gateway.Parts {
	models = slices.Clone(models)
	for i := range models {
		m := &models[i]
		docs := f.Documents(m.Alias)
		if m.Search == nil {
			m.Search = f.Search(log, m.Alias, nil)
		}
		m.Documents, m.Exporter = docs, docs
	}
	l := ledger.New(f.rdb)
	alias := ""
	if len(models) == 1 {
		alias = models[0].Alias
	}
	return gateway.Parts{
		Models: models, Queue: receipts{f}, Waiter: waiter{f}, Answers: answers{f},
		Status:  func(ctx context.Context) (any, error) { return f.Status(ctx, alias) },
		Batches: batch.NewDesk(l), Meter: l,
	}
}

// Batches returns a runner of the batches of models, which calls itself owner.
func (f *Fleet) Batches(log *slog.Logger, owner string, models []gateway.Model) *batch.Runner {
	return batch.NewRunner(log, owner, batch.Parts{
		Ledger: ledger.New(f.rdb), Interpreter: gateway.NewInterpreter(models), Queue: lane{f}, Answers: collector{f.Store},
	})
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
		return whole(list), nil
	}
	got, err := r.fleet.Queue.Enqueue(ctx, trace.Stamp(ctx, list))
	if err != nil {
		return nil, err
	}
	out := make([]gateway.Receipt, len(got))
	for i, receipt := range got {
		out[i] = gateway.Receipt{ID: receipt.ID, State: string(receipt.State), Err: refusal(receipt)}
	}
	return out, nil
}

// whole returns the receipts of tasks that are all in.
func whole(list []tasks.Task) []gateway.Receipt {
	out := make([]gateway.Receipt, len(list))
	for i, t := range list {
		out[i] = gateway.Receipt{ID: t.ID, State: string(queue.Enqueued)}
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

// waiter tells a gateway how tasks stand.
type waiter struct{ fleet *Fleet }

// Wait is the method of gateway.Waiter. What the queue does not know any more is done.
func (w waiter) Wait(ctx context.Context, model string, lane tasks.Lane, ids []string) ([]gateway.TaskState, error) {
	states := make([]gateway.TaskState, len(ids))
	group := make([]queue.Receipt, len(ids))
	for i, id := range ids {
		states[i] = gateway.TaskState{ID: id, State: "waiting"}
		group[i] = queue.Receipt{ID: id, Model: model, Lane: lane, State: queue.Enqueued}
	}
	failures, err := w.fleet.Queue.Wait(ctx, group, nil)
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("waiting for tasks: %w", err)
	}
	if err == nil {
		for i := range states {
			states[i].State = "done"
		}
	}
	for _, f := range failures {
		if i := slices.Index(ids, f.ID); i >= 0 {
			states[i].State, states[i].Error = "dead", f.Cause
		}
	}
	return states, nil
}

// lane is the queue as batches use it.
type lane struct{ fleet *Fleet }

// Enqueue is the method of batch.Queue. A task that had died was tried again and again: it is not tried once more.
func (l lane) Enqueue(ctx context.Context, list []tasks.Task) ([]batch.Receipt, error) {
	got, err := l.fleet.Queue.Enqueue(ctx, list)
	if err != nil {
		return nil, err
	}
	out := make([]batch.Receipt, len(got))
	for i, r := range got {
		switch {
		case r.State == queue.Full:
			out[i].Full = true
		case r.State == queue.Rerun:
			out[i].Err = errors.New("no worker could embed this text; the dead letters said why")
		case r.Err != nil:
			out[i].Err = r.Err
		}
	}
	return out, nil
}

// Cancel is the method of batch.Queue.
func (l lane) Cancel(ctx context.Context, list []tasks.Task) error {
	byModel := map[string][]string{}
	for _, t := range list {
		byModel[t.Model] = append(byModel[t.Model], t.ID)
	}
	for model, ids := range byModel {
		if _, err := l.fleet.Lanes.Cancel(ctx, model, tasks.Backfill, ids); err != nil {
			return err
		}
	}
	return nil
}

// collector hands answers to batches.
type collector struct{ store *storeredis.Store }

// Collect is the method of batch.Collector.
func (c collector) Collect(ctx context.Context, ids []string) (map[string]batch.Outcome, error) {
	got, err := c.store.Collect(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]batch.Outcome, len(got))
	for id, o := range got {
		out[id] = batch.Outcome(o)
	}
	return out, nil
}

// Documents looks up the documents of one alias.
func (f *Fleet) Documents(alias string) Documents { return Documents{f.Store, alias} }

// Documents is a store with the alias filled in.
type Documents struct {
	store *storeredis.Store
	alias string
}

// Get returns the record of a document; the error wraps store.ErrNotFound if there is none.
func (d Documents) Get(ctx context.Context, id string) (vector.Record, error) {
	return d.store.Get(ctx, d.alias, id)
}

// Delete is the method of gateway.Documents.
func (d Documents) Delete(ctx context.Context, id string, version int64) (bool, error) {
	return d.store.Delete(ctx, d.alias, id, version)
}

// Update is the method of gateway.Documents: the text is stored already, so that only what is beside it is taken over.
func (d Documents) Update(ctx context.Context, rec vector.Record) (bool, error) {
	same, err := d.store.Refresh(ctx, rec)
	if !same || err != nil {
		return false, err
	}
	now, err := d.store.Get(ctx, d.alias, rec.Document.ID)
	return err == nil && now.Version == rec.Version, err
}

// Export is the method of gateway.Exporter.
func (d Documents) Export(ctx context.Context, each func(vector.Record) error) error {
	space, err := d.store.Space(ctx, d.alias)
	if err != nil {
		return err
	}
	return search.Walk(ctx, d.store, d.alias, space, each)
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
