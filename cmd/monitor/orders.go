package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/page"
	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
)

// What happens to sources, as the fleet's events call it.
const (
	eventSourcePaused  = "source paused"
	eventSourceResumed = "source resumed"
)

// A desk carries out what operators ask for, and notes it among the fleet's events.
type desk struct {
	log     *slog.Logger
	lanes   *queue.Lanes
	control *registry.Control
	dead    *upkeep.Dead
	events  *registry.Events
	sources *ledger.Ledger
	forget  func(ctx context.Context, alias string) (keys int, err error)
}

// Do implements [page.Controls].
func (d *desk) Do(ctx context.Context, o page.Order, progress func(string)) (string, error) {
	switch o.Do {
	case page.PauseLane:
		return "Paused.", d.noted(ctx, o, registry.EventPaused, string(o.Lane), d.lanes.Pause(ctx, o.Model, o.Lane))
	case page.ResumeLane:
		return "Resumed.", d.noted(ctx, o, registry.EventResumed, string(o.Lane), d.lanes.Resume(ctx, o.Model, o.Lane))
	case page.SetLimits: // Control notes its own events
		_, err := d.control.Set(ctx, target(o), o.Settings, o.By)
		return "Set: " + o.Settings.String() + ". Workers take it over within two seconds.", err
	case page.ResetLimits:
		_, err := d.control.Reset(ctx, target(o), o.By)
		return "Taken back; the workers' flags hold again within two seconds.", err
	case page.DrainWorker:
		_, err := d.control.Drain(ctx, o.Worker, o.By)
		return "Asked to drain; it ends when what it has in hand is done.", err
	case page.ReplayDead:
		return d.replay(ctx, o, progress)
	case page.DropDead:
		return d.drop(ctx, o)
	case page.PauseSource:
		return "Paused.", d.pauseSource(ctx, o)
	case page.ResumeSource:
		_, err := d.sources.Resume(ctx, o.Source)
		return "Resumed.", d.noted(ctx, o, eventSourceResumed, o.Source, err)
	case page.RunSlot:
		return d.runSlot(ctx, o)
	case page.CancelWaiting:
		return d.cancelWaiting(ctx, o, progress)
	case page.MoveWaiting:
		return d.moveWaiting(ctx, o, progress)
	case page.ForgetModel:
		return d.forgetModel(ctx, o)
	default:
		return "", fmt.Errorf("there is no order %q", o.Do)
	}
}

// target is whom settings are for: one worker if it is named, else the model's.
func target(o page.Order) registry.Target {
	if o.Worker != "" {
		return registry.Target{Worker: o.Worker}
	}
	return registry.Target{Model: o.Model}
}

// noted writes down what was done. That it could not be noted does not undo it, so it is logged only; the log has
// the order as well.
func (d *desk) noted(ctx context.Context, o page.Order, what, about string, err error) error {
	if err != nil {
		return err
	}
	d.note(ctx, registry.Event{What: what, Who: o.By, Model: o.Model, About: about, Text: o.Reason})
	return nil
}

func (d *desk) note(ctx context.Context, e registry.Event) {
	if err := d.events.Append(ctx, e); err != nil {
		d.log.Warn("noting what an operator did failed", "what", e.What, "who", e.Who, "about", e.About, "err", err)
	}
}

func (d *desk) pauseSource(ctx context.Context, o page.Order) error {
	var until time.Time
	if o.For > 0 {
		until = time.Now().Add(o.For)
	}
	if o.Reason == "" {
		o.Reason = "by hand, by " + o.By
	}
	return d.noted(ctx, o, eventSourcePaused, o.Source, d.sources.Pause(ctx, o.Source, o.Reason, until))
}

// runSlot asks the schedulers. Whoever of them hears it notes what came of it.
func (d *desk) runSlot(ctx context.Context, o page.Order) (string, error) {
	sources, err := d.sources.Status(ctx)
	if err != nil {
		return "", err
	}
	kept := slices.ContainsFunc(sources, func(s ledger.SourceStatus) bool {
		return s.Source == o.Source && slices.ContainsFunc(s.Jobs, func(j ledger.Job) bool { return j.Job == o.Job && j.Kept })
	})
	if !kept {
		return "", fmt.Errorf("no scheduler keeps job %s of %s; start one", o.Job, o.Source)
	}
	if err := d.sources.Ask(ctx, o.Source, o.Job, o.By); err != nil {
		return "", err
	}
	return "Asked for; a scheduler begins within some seconds, and what came of it appears among the changes.", nil
}

// letters are the dead letters that an order is about.
func letters(o page.Order) upkeep.DeadFilter {
	var f upkeep.DeadFilter
	if o.Lane != "" {
		f.Lanes = []tasks.Lane{o.Lane}
	}
	if o.Cause != "" {
		f.Codes = []string{o.Cause}
	}
	if o.Source != "" {
		f.Sources = []string{o.Source}
	}
	if o.ID != "" {
		f.IDs = []string{o.ID}
	}
	return f
}

func (d *desk) replay(ctx context.Context, o page.Order, progress func(string)) (string, error) {
	r, err := d.dead.Replay(ctx, o.Model, letters(o), func(r upkeep.Revival) {
		progress(fmt.Sprintf("%s of %s replayed", words.Count(int64(r.Replayed)), words.Count(int64(r.Chosen))))
	})
	if r.Replayed > 0 {
		d.note(ctx, registry.Event{What: registry.EventReplayed, Who: o.By, Model: o.Model, About: about(o), Text: words.Plural(int64(r.Replayed), "letter")})
	}
	if err != nil {
		return "", err
	}
	if r.Chosen == 0 {
		return "", errors.New("no letter fits; they were replayed or dropped meanwhile")
	}
	said := []string{words.Plural(int64(r.Replayed), "letter") + " replayed."}
	for _, rest := range []struct {
		n    int
		text string
	}{
		{r.Attached, "wait or run in their lane already and stay"}, {r.Unreadable, "can't be read as a task and stay"}, {r.Gone, "were gone"},
	} {
		if rest.n > 0 {
			said = append(said, fmt.Sprintf("%s %s.", words.Count(int64(rest.n)), rest.text))
		}
	}
	return strings.Join(said, " "), nil
}

func (d *desk) drop(ctx context.Context, o page.Order) (string, error) {
	n, err := d.dead.Drop(ctx, o.Model, letters(o))
	if n > 0 {
		d.note(ctx, registry.Event{What: registry.EventDropped, Who: o.By, Model: o.Model, About: about(o), Text: words.Plural(int64(n), "letter")})
	}
	if err == nil && n == 0 {
		err = errors.New("no letter fits; they were replayed or dropped meanwhile")
	}
	return words.Plural(int64(n), "letter") + " dropped.", err
}

// about names a choice of letters in an event.
func about(o page.Order) string {
	text := ""
	for _, part := range []string{string(o.Lane), o.Cause, o.Source, o.ID} {
		if part != "" && text != "" {
			text += ", "
		}
		text += part
	}
	if text == "" {
		return "all"
	}
	return text
}
