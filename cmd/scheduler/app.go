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
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/alike"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/news"
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

	cfg     config
	log     *slog.Logger
	rdb     redis.UniversalClient
	ledger  *ledger.Ledger
	queue   enqueuer
	store   *storeredis.Store
	sources map[string]*ledger.Source // of the jobs that are configured
	dart    *dart.Client              // nil without a key
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
		a.sources = map[string]*ledger.Source{}
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

// jobs returns what is configured to be crawled.
func (a *app) jobs() ([]scheduler.Job, error) {
	var jobs []scheduler.Job
	if a.cfg.dartKey != "" {
		jobs = append(jobs, a.dartJobs()...)
	}
	if a.cfg.feeds != "" {
		jobs = append(jobs, a.feedJob())
	}
	if a.cfg.naver != "off" {
		j, err := a.naverJob()
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	if source := a.sources[news.Source]; source != nil && a.cfg.alike > 0 {
		marker := alike.New(a.log, alike.Parts{
			Alias: a.cfg.alias, Source: news.Source, Threshold: float64(a.cfg.alike) / 100, Store: a.store, Progress: source,
		})
		jobs = append(jobs, scheduler.Job{Schedule: alike.Schedule(news.Source), Timeout: 5 * time.Minute, Do: marker.Run})
	}
	for i := range jobs {
		jobs[i].Do = a.traced(jobs[i].Do)
	}
	return jobs, nil
}

// traced makes a span of each run of a job; the documents it brings are within.
func (a *app) traced(do func(context.Context, scheduler.Tick) (scheduler.Report, error)) func(context.Context, scheduler.Tick) (scheduler.Report, error) {
	return func(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
		ctx, end := a.tracer.Span(ctx, "crawl "+t.Job, "slot", scheduler.SlotName(t.Job, t.Slot))
		r, err := do(ctx, t)
		end(err, "items", r.Items, "new", r.New)
		return r, err
	}
}

// openDART makes the client; limit is the day's quota.
func (a *app) openDART(limit int) (*dart.Client, *ledger.Source) {
	source := a.ledger.Source(dart.Source, dart.KeepSeen)
	a.sources[dart.Source] = source
	a.dart = dart.NewClient(dart.Key(a.cfg.dartKey), source, &dart.ClientOptions{
		BaseURL: a.cfg.dartURL, HTTP: a.cfg.dartHTTP(), UserAgent: a.cfg.agent, Limit: limit,
	})
	return a.dart, source
}

func (a *app) dartJobs() []scheduler.Job {
	client, source := a.openDART(a.cfg.quota)
	parts := dart.SweepParts{Client: client, Outbox: a.outbox(source, tasks.Live), Links: source, Filter: a.cfg.filter()}
	if len(a.cfg.bodies) > 0 {
		parts.Bodies = &dart.Bodies{Client: client, Filter: a.cfg.filter(), Reports: a.cfg.bodies}
	}
	sweeper := dart.NewSweeper(a.log, parts)
	work := map[string]scheduler.Job{
		dart.JobSweep:     {Timeout: 10 * time.Minute, Do: sweeper.Run},
		dart.JobWide:      {Timeout: 50 * time.Minute, Do: sweeper.Run},
		dart.JobCompanies: {Timeout: 10 * time.Minute, Do: companies(client, source)},
	}
	var jobs []scheduler.Job
	for _, s := range dart.Schedules() {
		j := work[s.Job]
		j.Schedule = s
		jobs = append(jobs, j)
	}
	return jobs
}

// companies refreshes the list of listed companies.
func companies(client *dart.Client, source *ledger.Source) func(context.Context, scheduler.Tick) (scheduler.Report, error) {
	return func(ctx context.Context, _ scheduler.Tick) (scheduler.Report, error) {
		n, err := source.ReplaceCompanies(ctx, func(put func(code, stock, name string) error) error {
			return client.Companies(ctx, func(c dart.Company) error { return put(c.Code, c.StockCode, c.Name) })
		})
		return scheduler.Report{Requests: 1, Items: n}, dart.Pausing(err)
	}
}

func (a *app) feedJob() scheduler.Job {
	source := a.ledger.Source(news.Source, news.KeepSeen)
	a.sources[news.Source] = source
	crawler := news.New(a.log, news.Parts{
		Feeds: news.NewList(a.cfg.feeds), States: source, Outbox: a.outbox(source, tasks.Live),
		HTTP: &http.Client{Timeout: 15 * time.Second}, Agent: a.cfg.agent,
	})
	return scheduler.Job{Schedule: news.Schedules()[0], Timeout: 8 * time.Minute, Do: crawler.Run}
}

// naverJob shares the memory of the feeds, so that a story found by both is one; pausing them is apart.
func (a *app) naverJob() (scheduler.Job, error) {
	source := a.ledger.Source(news.Source, news.KeepSeen)
	a.sources[news.Source] = source
	n, err := news.NewNaver(a.log, a.outbox(source, tasks.Live), a.cfg.naverOptions())
	if err != nil {
		return scheduler.Job{}, err
	}
	return scheduler.Job{Schedule: news.Schedules()[1], Timeout: 8 * time.Minute, Do: n.Run}, nil
}
