package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/outside"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/sources"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
)

// An app is one call of the command: its settings, and what they open.
type app struct {
	streams
	config   *boot.Config
	settings settings
	logs     boot.Log
	traces   boot.Trace

	cfg    config
	log    *slog.Logger
	rdb    redis.UniversalClient
	ledger *ledger.Ledger
	queue  enqueuer
	store  *storeredis.Store
	web    web
	file   *sources.File // nil without --sources
}

// A web is the ways to addresses that a file names: those of the world, and those of the own network.
type web struct{ outside, inside *http.Client }

func newWeb(c config) web {
	const longest = 15 * time.Second
	return web{outside.Client(outside.Options{Private: c.allowPrivate, Timeout: longest}), outside.Client(outside.Options{Private: true, Timeout: longest})}
}

func (w web) close() {
	w.outside.CloseIdleConnections()
	w.inside.CloseIdleConnections()
}

// opened wraps f with what every command does: settle the configuration, make clients, close Redis. It does
// not wait for Redis: a scheduler that starts before its Redis has to go on trying.
func (a *app) opened(f func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		if err := a.config.Resolve(a.getenv); err != nil {
			return err
		}
		if a.cfg, err = a.settings.config(a.config); err != nil {
			return err
		}
		a.log = slog.New(trace.Log(a.logs.Logger(a.err).Handler()))
		untrace, err := a.trace(cmd.Context())
		if err != nil {
			return err
		}
		defer untrace()
		boot.RedisLog(a.log)
		a.rdb = a.cfg.conn.Client()
		defer a.rdb.Close()
		a.ledger, a.store = ledger.New(a.rdb), storeredis.New(a.rdb)
		a.queue = enqueuer{queue.NewClient(a.rdb, nil)}
		a.web = newWeb(a.cfg)
		defer a.web.close()
		if a.cfg.sources != "" {
			a.file = sources.NewFile(a.cfg.sources, a.getenv)
		}
		return f(cmd, args)
	}
}

// trace opens the way of spans that the flags name. The last are sent by end; those that get lost are no reason
// to fail.
func (a *app) trace(ctx context.Context) (end func(), err error) {
	if a.tracer != nil {
		return func() {}, nil
	}
	o := trace.Options{Collector: a.traces.Collector, Percent: a.traces.Percent, Logger: a.log}
	if a.tracer, err = trace.Open(ctx, "scheduler", o); err != nil {
		return nil, boot.Usagef("--otlp: %w", err)
	}
	return func() {
		if err := a.tracer.Close(); err != nil {
			a.log.Warn("spans were not sent", "err", err)
		}
	}, nil
}

// enqueuer tells tasks that can never be taken from a queue that takes none now. The latter is an error of
// the whole call: what was taken meets itself when all is enqueued again.
type enqueuer struct{ client *queue.Client }

func (e enqueuer) Enqueue(ctx context.Context, list []tasks.Task) ([]error, error) {
	receipts, err := e.client.Enqueue(ctx, trace.Stamp(ctx, list))
	if err != nil {
		return nil, err
	}
	refused := make([]error, len(receipts))
	for i, r := range receipts {
		switch {
		case r.State == queue.Refused:
			refused[i] = r.Err
		case !r.State.Accepted():
			return nil, fmt.Errorf("enqueuing task %s: %w", r.ID, r.Err)
		}
	}
	return refused, nil
}

func (a *app) outbox(source *ledger.Source, lane tasks.Lane) scheduler.Outbox {
	return scheduler.Outbox{Log: a.log, Alias: a.cfg.alias, Lane: lane, Memory: source, Queue: a.queue, Store: a.store}
}
