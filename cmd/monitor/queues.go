package main

import (
	"context"
	"net/http"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/monitoring/asynqmon"
	"github.com/embedfleet/embedfleet/monitoring/login"
)

// queueFlags are the settings of asynq's own page.
type queueFlags struct {
	write bool
}

func (f *queueFlags) register(c *boot.Config) {
	c.Bool(&f.write, "queues-write", "let operators change queues on asynq's own page too, past the fleet's rules")
}

// mountQueues puts asynq's own page behind the login.
func (a *app) mountQueues(inner *http.ServeMux) error {
	opts := &asynqmon.Options{Root: "/queues"}
	if a.cfg.queues.write {
		opts.Operator = func(r *http.Request) (string, bool) {
			caller := login.From(r.Context())
			return caller.Name, caller.CanAct()
		}
	}
	page, err := asynqmon.New(a.log, func() any { return a.cfg.conn.Client() }, opts)
	if err != nil {
		return err
	}
	a.beside = append(a.beside, func(ctx context.Context) error {
		<-ctx.Done()
		return page.Close()
	})
	inner.Handle("/queues/", page)
	inner.Handle("/queues", http.RedirectHandler("/queues/", http.StatusMovedPermanently))
	return nil
}
