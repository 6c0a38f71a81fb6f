package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/registry"
)

// lookEvery is how often a worker looks whether it is stuck.
const lookEvery = 5 * time.Second

// become enters a state and has the registry hear of it.
func (w *worker) become(state, reason string) {
	w.mu.Lock()
	w.state, w.since, w.reason = state, time.Now(), reason
	w.mu.Unlock()
	w.announce()
}

// announce has the registry hear of what is new.
func (w *worker) announce() {
	select {
	case w.changed <- struct{}{}:
	default: // an announcement is due already and will tell the newest state
	}
}

// liveness reports why only a new process would help. A worker that loads or is idle is alive, and so is one
// that gave up: restarting it was tried.
func (w *worker) liveness() error {
	if err := w.pulse.Stuck(); err != nil {
		return fmt.Errorf("stuck: %w", err)
	}
	return nil
}

// readiness reports why the worker takes no tasks, or none that it can do.
func (w *worker) readiness() error {
	w.mu.Lock()
	state, since, reason, server, redis := w.state, w.since, w.reason, w.consumer, w.redis
	w.mu.Unlock()
	if state != registry.StateReady {
		err := fmt.Errorf("%s since %v", state, time.Since(since).Round(time.Second))
		if reason != "" {
			err = fmt.Errorf("%w: %s", err, reason)
		}
		return err
	}
	if err := w.liveness(); err != nil {
		return err
	}
	if err := redis.Err(); err != nil {
		return err
	}
	if since, cause := server.Held(); cause != nil {
		return fmt.Errorf("tasks are held back since %v: %w", since.Format(time.TimeOnly), cause)
	}
	if late := server.Overdue(); len(late) > 0 {
		return fmt.Errorf("%d tasks are inside beyond their deadline", len(late))
	}
	return nil
}

// describe is the worker's entry in the registry.
func (w *worker) describe() registry.Worker {
	host, _ := os.Hostname() // a name for people; none is fine
	w.mu.Lock()
	out := registry.Worker{
		ID: w.id, Model: w.cfg.alias, State: w.state, Since: w.since, Reason: w.reason, Host: host, PID: os.Getpid(),
		Name: w.cfg.name, Probes: w.probes, Lanes: w.cfg.lanes, Version: version(), Started: w.started, Crashes: w.crashes(),
		Settings: w.settings, Revision: w.revision, Refused: w.refused,
	}
	if w.state == registry.StateLoading {
		out.Loading = w.stage
	}
	model, server := w.model, w.consumer
	w.mu.Unlock()
	out.Memory = memory()
	out.TextsEver, out.TokensEver, out.TokenRate = w.meter.read()
	if model != nil {
		describeModel(&out, model)
	}
	if server != nil {
		w.describeWork(&out, server)
	}
	return out
}

// describeModel adds what the model is and takes.
func describeModel(out *registry.Worker, model *loaded) {
	s := model.stats()
	out.Space, out.Dim, out.Precision, out.Runners = model.space, model.dim, model.precision, model.runners
	out.Device, out.Waiting = s.Device, s.Engine.WaitingTexts
	if p := s.Memory.Process; p.Private+p.Shared > 0 {
		out.Memory = registry.Memory{Private: p.Private, Shared: p.Shared, RSS: p.Private + p.Shared, Proportional: p.Proportional}
	}
}

// describeWork adds what the consumer has in hand.
func (w *worker) describeWork(out *registry.Worker, c *consumer.Consumer) {
	out.InUse, out.Overdue = len(c.Running()), len(c.Overdue())
	if since, cause := c.Held(); cause != nil {
		out.Held = &registry.Held{Since: since, Cause: cause.Error()}
	}
	if out.State == registry.StateReady && out.InUse > 0 {
		out.State = registry.StateBusy
	}
	if err := w.pulse.Stuck(); err != nil {
		out.State, out.Reason = registry.StateZombie, err.Error()
	}
}

// crashes is how often this worker was started again.
func (w *worker) crashes() int { return w.cfg.crashes + w.restarts.Crashes }

// watchPulse tells people once each time the worker gets stuck, until ctx ends. Whoever probes it restarts it.
func (w *worker) watchPulse(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	was := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := w.pulse.Stuck()
		if err != nil && !was {
			w.log.Error("stuck: /livez says no", "err", err)
			w.note(registry.EventZombie, err.Error())
			w.announce()
		}
		was = err != nil
	}
}

// status is the answer of /statusz.
func (w *worker) status() any {
	out := map[string]any{"worker": w.describe(), "uptime_seconds": int(time.Since(w.started).Seconds())}
	w.mu.Lock()
	model := w.model
	w.mu.Unlock()
	if model != nil {
		out["engine"] = model.stats()
	}
	return out
}
