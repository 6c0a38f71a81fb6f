package main

import (
	"context"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/registry"
)

// eventWait is how long noting an event may take: it is worth no delay of the work.
const eventWait = 2 * time.Second

// obey takes orders of the fleet, from the follower's goroutine.
func (w *worker) obey(o registry.Order) {
	if o.Drain {
		w.log.Info("draining was ordered", "by", o.By)
		w.finish()
		return
	}
	w.mu.Lock()
	w.order = o
	w.mu.Unlock()
	w.settle()
}

// settle makes the settings in force what flags and orders say, all of them or none. Before the model is
// there it only takes note; it is called again then.
func (w *worker) settle() {
	w.settling.Lock()
	defer w.settling.Unlock()
	w.mu.Lock()
	model, server, order, old := w.model, w.consumer, w.order, w.settings
	if model == nil || server == nil {
		w.revision = order.Revision
	}
	w.mu.Unlock()
	if model == nil || server == nil {
		w.announce()
		return
	}
	// What follows from the rest does so from what is ordered, not from what the flags' rest was.
	flags := registry.Settings{Concurrency: w.cfg.concurrency, MaxAccess: w.cfg.maxAccess, AccessTimeout: registry.Seconds(w.cfg.accessTimeout)}
	want := w.cfg.complete(order.Over(flags))
	err := w.apply(model, server, want, old)
	w.mu.Lock()
	w.revision, w.refused = order.Revision, ""
	if err == nil {
		w.settings = want
	} else {
		w.refused = err.Error()
	}
	w.mu.Unlock()
	w.announce()
	switch {
	case err != nil:
		w.log.Warn("settings refused, nothing changed", "revision", order.Revision, "by", order.By, "err", err)
		w.note(registry.EventRefused, err.Error())
	case want != old:
		w.log.Info("settings changed", "now", want.String(), "revision", order.Revision, "by", order.By)
	}
}

// apply sets all or nothing.
func (w *worker) apply(model *loaded, server concurrent, want, old registry.Settings) error {
	if err := want.Check(); err != nil {
		return err
	}
	if err := model.limits(w.limitsOf(want)); err != nil {
		return err
	}
	err := server.SetConcurrency(want.Concurrency)
	if err == nil {
		return nil
	}
	if back := model.limits(w.limitsOf(old)); back != nil {
		return fmt.Errorf("%w; and the model's limits stay changed: %w", err, back)
	}
	return err
}

// concurrent is what settings need of a queue server.
type concurrent interface{ SetConcurrency(n int) error }

func (w *worker) limitsOf(s registry.Settings) embedder.LimitChange {
	timeout, waiting := embedder.Seconds(s.AccessTimeout), w.cfg.maxWaiting(s)
	return embedder.LimitChange{MaxAccess: &s.MaxAccess, MaxWaiting: &waiting, AccessTimeout: &timeout}
}

// note tells the fleet of an event of this worker. A Redis that is away is logged, and the event lost.
func (w *worker) note(what, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), eventWait)
	defer cancel()
	err := w.events.Append(ctx, registry.Event{What: what, Who: w.label, Model: w.cfg.alias, About: w.id, Text: text})
	if err != nil {
		w.log.Warn("noting an event failed", "what", what, "err", err)
	}
}
