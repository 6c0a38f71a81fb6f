package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/intake"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// lastLook bounds what is asked after an interrupt, or when the time for waiting is over.
	lastLook = 5 * time.Second
	// againAfter is the time between two tries while Redis is away, sayEvery that between two lines about it.
	againAfter = 500 * time.Millisecond
	sayEvery   = 10 * time.Second
	// servedEvery is how often is asked whether anybody serves the alias.
	servedEvery = 3 * time.Second
	// storePage is how many documents the store is asked about at a time.
	storePage = 1000
	// namedLost is how many lost documents are named to people; JSON names all.
	namedLost = 20
)

// An awaited document is one whose vectors are waited for.
type awaited struct {
	receipt queue.Receipt
	text    storeredis.Text
}

func newAwaited(item intake.Item, task tasks.Task, r queue.Receipt) awaited {
	hash := vector.TextHash(tasks.ComposeHangul(item.Doc.Text)) // as [tasks.New] has it
	return awaited{r, storeredis.Text{Document: item.Doc.ID, Hash: hash, Version: task.Version}}
}

// A waiting is one wait for the vectors of documents under way.
type waiting struct {
	*addCommand
	bar      *term.Progress
	failures map[string]queue.Failure // by task
	open     []queue.Receipt          // whose end was not seen

	said   time.Time // that Redis is away
	looked time.Time // whether anybody serves the alias
	served bool
}

func newWaiting(c *addCommand) *waiting {
	w := &waiting{addCommand: c, failures: map[string]queue.Failure{}, served: true}
	for _, a := range c.waited {
		w.open = append(w.open, a.receipt)
	}
	return w
}

// await waits for the vectors, with progress on stderr, and counts what became of them: by the store, which alone
// knows, asked when the waiting is over.
func (c *addCommand) await(ctx context.Context) error {
	if len(c.waited) == 0 {
		return nil
	}
	if c.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.limit)
		defer cancel()
	}
	w := newWaiting(c)
	w.bar = term.NewProgress(c.err, "embedding", len(w.open))
	err := w.wait(ctx)
	w.bar.Done()
	return errors.Join(err, w.count(ctx))
}

// wait returns when every task is done or dead, or ctx ends. It goes on while Redis is away.
func (w *waiting) wait(ctx context.Context) error {
	total := len(w.open)
	for {
		left := len(w.open)
		w.tellServed(ctx)
		failures, err := w.fleet.Queue.Wait(ctx, w.open, func(p queue.Progress) {
			w.bar.Set(total - left + p.Done + p.Failed)
			w.tellServed(ctx)
		})
		w.fail(failures)
		if err == nil {
			w.open = nil
			return nil
		}
		if still, ok := errors.AsType[*queue.OpenError](err); ok {
			w.open = still.Open
		}
		if ctx.Err() != nil || !queue.Away(err) {
			return err
		}
		if time.Since(w.said) >= sayEvery {
			w.said = time.Now()
			fmt.Fprintf(w.err, "Redis is away, waiting goes on: %v\n", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(againAfter):
		}
	}
}

func (w *waiting) fail(failures []queue.Failure) {
	for _, f := range failures {
		w.failures[f.ID] = f
	}
}

// tellServed says, now and then, when nobody serves the alias, or somebody does again.
func (w *waiting) tellServed(ctx context.Context) {
	if time.Since(w.looked) < servedEvery {
		return
	}
	w.looked = time.Now()
	workers, err := w.fleet.Workers.List(ctx)
	if err != nil {
		return // whoever waits learns of it
	}
	serves := slices.ContainsFunc(workers, func(v registry.Worker) bool {
		return v.Model == w.alias && v.State != registry.StateFailed
	})
	switch {
	case w.served && !serves:
		fmt.Fprintf(w.err, "no worker serves %s; the documents wait for one\n", w.alias)
	case !w.served && serves:
		fmt.Fprintf(w.err, "a worker serves %s now\n", w.alias)
	}
	w.served = serves
}

// count asks the queue once more about what was open, then the store about everything. While Redis is away it asks
// on until ctx ends.
func (w *waiting) count(ctx context.Context) error {
	for {
		err := w.ask(ctx)
		if err == nil || ctx.Err() == nil && !queue.Away(err) {
			return err
		}
		if ctx.Err() != nil {
			return w.lastCount(ctx)
		}
		select {
		case <-ctx.Done():
		case <-time.After(againAfter):
		}
	}
}

// lastCount is count that does not wait for a Redis that is away, also when ctx has ended: what can't be found out
// is open.
func (w *waiting) lastCount(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
	defer cancel()
	return w.ask(ctx)
}

// ask settles what became of each document, or counts all as open.
func (w *waiting) ask(ctx context.Context) error {
	w.counts.Open = len(w.waited)
	failures, open, err := w.fleet.Queue.Look(ctx, w.open)
	if err != nil {
		return err
	}
	w.fail(failures)
	w.open = open
	stored := make([]bool, 0, len(w.waited))
	for page := range slices.Chunk(w.waited, storePage) {
		texts := make([]storeredis.Text, len(page))
		for i, a := range page {
			texts[i] = a.text
		}
		got, err := w.fleet.Store.Stored(ctx, w.alias, texts)
		if err != nil {
			return fmt.Errorf("asking the store what is stored: %w", err)
		}
		stored = append(stored, got...)
	}
	w.settle(stored)
	return nil
}

// settle counts and reports what became of each document: stored; or failed; or open, if its task is still there; or
// lost, if it is nowhere.
func (w *waiting) settle(stored []bool) {
	open := map[string]bool{}
	for _, r := range w.open {
		open[r.ID] = true
	}
	n := &w.counts
	n.Open = 0
	for i, a := range w.waited {
		id := a.receipt.ID
		f, failed := w.failures[id]
		switch {
		case stored[i]:
			n.Stored++
		case failed:
			n.Failed++
			w.reportFailure(f)
		case open[id]:
			n.Open++
		default:
			n.Lost++
			w.reportLost(a)
		}
	}
}

func (w *waiting) reportFailure(f queue.Failure) {
	if w.json {
		w.print(map[string]any{"task": f.ID, "lane": f.Lane, "error": f.Cause, "retried": f.Retried})
		return
	}
	fmt.Fprintf(w.err, "task %s failed: %s\n", f.ID, f.Cause)
}

func (w *waiting) reportLost(a awaited) {
	switch {
	case w.json:
		w.print(map[string]any{"task": a.receipt.ID, "lane": a.receipt.Lane, "id": a.text.Document, "state": "lost"})
	case w.counts.Lost <= namedLost:
		fmt.Fprintf(w.err, "document %s is lost: neither stored nor in the queue; enqueue it again\n", a.text.Document)
	case w.counts.Lost == namedLost+1:
		fmt.Fprintln(w.err, "more documents are lost; --json names all")
	}
}
