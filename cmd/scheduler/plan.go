package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/outside"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/alike"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/interval"
	"github.com/embedfleet/embedfleet/scheduler/jsonapi"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/news"
	"github.com/embedfleet/embedfleet/scheduler/sources"
	"github.com/embedfleet/embedfleet/tasks"
)

// keepSeen is how long items are remembered of sources that only a file describes.
const keepSeen = 45 * 24 * time.Hour

// A plan is what is crawled, as flags and the file of sources say together.
type plan struct {
	jobs  []scheduler.Job
	pages map[string]*ledger.Source // of sources whose documents are awaited
	quiet map[string]bool           // jobs that enqueue nothing
}

// plan reads the file of sources, if there is one, and makes the jobs.
func (a *app) plan() (*plan, error) {
	set := sources.Set{}
	if a.file != nil {
		var err error
		if set, _, err = a.file.Read(); err != nil {
			return nil, boot.Usagef("--sources: %w", err)
		}
	}
	return a.planOf(set)
}

// planOf makes the jobs of a set and of the flags.
func (a *app) planOf(set sources.Set) (*plan, error) {
	p := &plan{pages: map[string]*ledger.Source{}, quiet: map[string]bool{}}
	if err := a.addDART(p, set); err != nil {
		return nil, err
	}
	if err := a.addNews(p, set); err != nil {
		return nil, err
	}
	for _, e := range set.JSONAPIs {
		if err := a.addJSONAPI(p, e, set.Versions[e.Name]); err != nil {
			return nil, fmt.Errorf("source %s: %w", e.Name, err)
		}
	}
	for _, e := range set.Intervals {
		if err := a.addInterval(p, e, set.Versions[e.Name]); err != nil {
			return nil, fmt.Errorf("source %s: %w", e.Name, err)
		}
	}
	for i := range p.jobs {
		p.jobs[i].Do = a.traced(p.jobs[i].Do)
	}
	return p, nil
}

// page returns the ledger's page of a source whose documents are awaited.
func (a *app) page(p *plan, name string, keep time.Duration) *ledger.Source {
	if p.pages[name] == nil {
		p.pages[name] = a.ledger.Source(name, keep)
	}
	return p.pages[name]
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
	return dart.NewClient(dart.Key(a.cfg.dartKey), source, &dart.ClientOptions{
		BaseURL: a.cfg.dartURL, HTTP: a.dartHTTP(), UserAgent: a.cfg.agent, Limit: limit,
	}), source
}

// dartHTTP speaks to OpenDART. An address that the operator named may be anywhere.
func (a *app) dartHTTP() *http.Client {
	transport := dart.NewTransport(a.cfg.roots)
	if !a.cfg.allowPrivate && a.cfg.dartURL == dart.BaseURL {
		outside.Guard(transport)
	}
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// with takes over what a file says of DART, in place of flags.
func (c config) with(set sources.Set) config {
	if e := set.DART; e != nil {
		c.listedOnly, c.classes, c.companies, c.bodies = e.ListedOnly, e.Classes, e.Companies, e.Bodies
		if e.Quota > 0 {
			c.quota = e.Quota
		}
	}
	return c
}

// addDART adds the jobs of filings: without a file of sources where there is a key, with one where it says so.
func (a *app) addDART(p *plan, set sources.Set) error {
	cfg := a.cfg.with(set)
	switch {
	case set.DART != nil && cfg.dartKey == "":
		return boot.Usagef("source %s: OpenDART's key is missing: want --dart-key or $OPENDART_API_KEY", set.DART.Name)
	case set.DART == nil && (cfg.dartKey == "" || a.file != nil):
		return nil
	}
	client, source := a.openDART(cfg.quota)
	p.pages[dart.Source] = source
	parts := dart.SweepParts{Client: client, Outbox: a.outbox(source, tasks.Live), Links: source, Filter: cfg.filter()}
	if len(cfg.bodies) > 0 {
		parts.Bodies = &dart.Bodies{Client: client, Filter: cfg.filter(), Reports: cfg.bodies}
	}
	sweeper := dart.NewSweeper(a.log, parts)
	work := map[string]scheduler.Job{
		dart.JobSweep:     {Timeout: 10 * time.Minute, Do: sweeper.Run},
		dart.JobWide:      {Timeout: 50 * time.Minute, Do: sweeper.Run},
		dart.JobCompanies: {Timeout: 10 * time.Minute, Do: companies(client, source)},
	}
	p.quiet[dart.JobCompanies] = true
	version := fmt.Sprint(cfg.listedOnly, cfg.classes, cfg.companies, cfg.bodies, cfg.quota)
	for _, s := range dart.Schedules() {
		j := work[s.Job]
		j.Schedule, j.Version = s, version
		p.jobs = append(p.jobs, j)
	}
	return nil
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

// addNews adds feeds, Naver's search, and the job that compares what either brought. They share one memory, so that a
// story found by both is one; pausing them is apart.
func (a *app) addNews(p *plan, set sources.Set) error {
	if a.cfg.feeds != "" || len(set.Feeds) > 0 {
		source := a.page(p, news.Source, news.KeepSeen)
		crawler := news.New(a.log, news.Parts{
			Feeds: a.feedLists(set), States: source, Outbox: a.outbox(source, tasks.Live),
			HTTP: a.web.outside, Inside: a.web.inside, Agent: a.cfg.agent,
		})
		version, err := json.Marshal(set.Feeds)
		if err != nil {
			return err
		}
		p.jobs = append(p.jobs, scheduler.Job{Schedule: news.Schedules()[0], Timeout: 8 * time.Minute, Do: crawler.Run, Version: string(version)})
	}
	options := a.cfg.naverOptions()
	if set.Naver != nil {
		options.Shape, options.Queries = set.Naver.Shape, set.Naver.Queries
		if options.ID == "" || options.Secret == "" {
			return boot.Usagef("source %s: Naver's id or secret is missing: want --naver-id and --naver-secret", set.Naver.Name)
		}
	}
	if set.Naver != nil || a.cfg.naver != "off" {
		source := a.page(p, news.Source, news.KeepSeen)
		options.HTTP = a.web.outside
		n, err := news.NewNaver(a.log, a.outbox(source, tasks.Live), options)
		if err != nil {
			return err
		}
		version := fmt.Sprint(options.Shape, options.Queries)
		p.jobs = append(p.jobs, scheduler.Job{Schedule: news.Schedules()[1], Timeout: 8 * time.Minute, Do: n.Run, Version: version})
	}
	if source := p.pages[news.Source]; source != nil && a.cfg.alike > 0 {
		marker := alike.New(a.log, alike.Parts{
			Alias: a.cfg.alias, Source: news.Source, Threshold: float64(a.cfg.alike) / 100, Store: a.store, Progress: source,
		})
		p.jobs = append(p.jobs, scheduler.Job{Schedule: alike.Schedule(news.Source), Timeout: 5 * time.Minute, Do: marker.Run})
	}
	return nil
}

// feedLists are the feeds of the file of sources and those of --feeds.
func (a *app) feedLists(set sources.Set) feedLists {
	l := feedLists{fixed: set.Feeds}
	if a.cfg.feeds != "" {
		l.file = news.NewList(a.cfg.feeds)
	}
	return l
}

type feedLists struct {
	fixed []news.Feed
	file  *news.List // nil for none
}

// Feeds implements [news.Lister].
func (l feedLists) Feeds() (feeds []news.Feed, err error) {
	feeds = slices.DeleteFunc(slices.Clone(l.fixed), func(f news.Feed) bool { return f.Off })
	if l.file == nil {
		return feeds, nil
	}
	list, err := l.file.Feeds()
	for _, f := range list {
		if slices.ContainsFunc(l.fixed, func(other news.Feed) bool { return other.Name == f.Name }) {
			err = errors.Join(err, fmt.Errorf("feed %s is in --sources and in --feeds, the latter is left out", f.Name))
			continue
		}
		feeds = append(feeds, f)
	}
	return feeds, err
}

// addJSONAPI adds a source that a file describes.
func (a *app) addJSONAPI(p *plan, e sources.JSONAPI, version string) error {
	source := a.page(p, e.Name, keepSeen)
	client := a.web.outside
	if e.Private {
		client = a.web.inside
	}
	c, err := jsonapi.New(a.log, e.Name, e.Config, jsonapi.Parts{
		Outbox: a.outbox(source, tasks.Live), Memory: source, HTTP: client, Agent: a.cfg.agent,
	})
	if err != nil {
		return err
	}
	schedule := e.Schedule(e.Name, e.LookBack(), "the file of sources says so")
	p.jobs = append(p.jobs, scheduler.Job{Schedule: schedule, Timeout: 10 * time.Minute, Do: c.Run, Version: version})
	return nil
}

// addInterval adds a command or call that a file describes.
func (a *app) addInterval(p *plan, e sources.Interval, version string) error {
	source := a.ledger.Source(e.Name, keepSeen)
	if e.Gives == interval.Documents {
		source = a.page(p, e.Name, keepSeen)
	} else {
		p.quiet[e.Name] = true
	}
	client := *a.web.outside
	if e.Private {
		client = *a.web.inside
	}
	client.Timeout = e.MaxTime()
	r, err := interval.New(a.log, e.Name, e.Config, interval.Parts{
		Outbox: a.outbox(source, tasks.Live), Memory: source, HTTP: &client, Agent: a.cfg.agent, Getenv: a.getenv,
	})
	if err != nil {
		return err
	}
	schedule := e.Schedule(e.Name, e.LookBack(), "the file of sources says so")
	p.jobs = append(p.jobs, scheduler.Job{Schedule: schedule, Timeout: e.MaxTime(), Do: r.Run, Version: version})
	return nil
}
