package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/monitoring/page"
	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
)

// forgetter returns what forgets an alias, under the rules of `enqueue forget`.
func forgetter(rdb redis.UniversalClient) func(context.Context, string) (int, error) {
	return fleet.New(rdb).Forget // which is not closed: the connection is the monitor's
}

func (d *desk) cancelWaiting(ctx context.Context, o page.Order, progress func(string)) (string, error) {
	r, err := d.lanes.CancelWaiting(ctx, o.Model, o.Waiting(), soFar("cancelled", progress))
	return d.removed(ctx, o, r, err, removal{registry.EventCancelled, "cancelled", "and ends early if it can"})
}

func (d *desk) moveWaiting(ctx context.Context, o page.Order, progress func(string)) (string, error) {
	r, err := d.lanes.Move(ctx, o.Model, o.Waiting(), o.To, soFar("moved", progress))
	return d.removed(ctx, o, r, err, removal{registry.EventMoved, "moved to " + string(o.To), "and is done where it was"})
}

// soFar tells how far a removal is.
func soFar(done string, progress func(string)) func(queue.Removal) {
	return func(r queue.Removal) {
		progress(fmt.Sprintf("%s of %s %s", words.Count(int64(r.Removed)), words.Plural(int64(r.Chosen), "text"), done))
	}
}

// A removal is what was done to waiting texts, in words.
type removal struct{ event, done, taken string }

// removed notes what became of waiting texts, and says so.
func (d *desk) removed(ctx context.Context, o page.Order, r queue.Removal, err error, w removal) (string, error) {
	sum := words.Plural(int64(r.Removed), "text") + " " + w.done
	if r.Removed+r.Taken > 0 {
		d.note(ctx, registry.Event{What: w.event, Who: o.By, Model: o.Model, About: about(o), Text: sum})
	}
	switch {
	case err != nil && r.Removed > 0:
		return "", fmt.Errorf("after %s: %w", sum, err)
	case err != nil:
		return "", err
	case r.Chosen == 0:
		return "", errors.New("no waiting text fits; workers took them, or they left their lane, meanwhile")
	}
	said := sum + "."
	if r.Taken > 0 {
		said += fmt.Sprintf(" Workers took %s meanwhile; each of them is done or in hand %s.", words.Count(int64(r.Taken)), w.taken)
	}
	if r.Refused > 0 {
		said += fmt.Sprintf(" %s can't be moved, and stay.", words.Count(int64(r.Refused)))
	}
	return said, nil
}

func (d *desk) forgetModel(ctx context.Context, o page.Order) (string, error) {
	keys, err := d.forget(ctx, o.Model)
	if keys > 0 {
		d.note(ctx, registry.Event{What: registry.EventForgotten, Who: o.By, Model: o.Model, Text: words.Plural(int64(keys), "key")})
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Forgotten; %s of the queue removed.", words.Plural(int64(keys), "key")), nil
}
