package main

import (
	"cmp"
	"context"
	"os"

	"github.com/embedfleet/embedfleet/registry"
)

// who is the person at the keyboard, as far as the system tells.
func (a *app) who() string {
	user, _ := a.getenv("USER")
	host, _ := os.Hostname() // none is fine
	return cmp.Or(user, "somebody") + "@" + host
}

// audit leaves a line of what was done, which the fleet's page shows.
func (a *app) audit(ctx context.Context, what, model, text string) error {
	return a.fleet.Events.Append(ctx, registry.Event{What: what, Who: a.who(), Model: model, Text: text})
}
