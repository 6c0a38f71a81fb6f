package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/alike"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/news"
	"github.com/embedfleet/embedfleet/tasks"
)

// parseTime reads a time as people type it, Korean unless it names a zone.
func parseTime(s string) (time.Time, error) {
	if s == "" || s == "now" {
		return time.Now(), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, scheduler.KST); err == nil {
			return t, nil
		}
	}
	return time.Time{}, boot.Usagef("%q is no time: want 2026-11-22T11:05 (Korean) or 2026-11-22T02:05:00Z", s)
}

func newRun(a *app) *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "run JOB", Short: "run one slot of a job now, whether it was done or not", Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&at, "at", "now", "a time in the slot, Korean unless it names a zone")
	cmd.RunE = a.opened(func(cmd *cobra.Command, args []string) error {
		when, err := parseTime(at)
		if err != nil {
			return err
		}
		p, err := a.plan()
		if err != nil {
			return err
		}
		if !slices.Contains(names(p.jobs), args[0]) {
			return a.noJob(args[0], p)
		}
		if err := a.cfg.needAlias(); err != nil && !p.quiet[args[0]] {
			return err
		}
		clock, err := scheduler.New(a.ledger, p.jobs, &scheduler.Options{Logger: a.log})
		if err != nil {
			return err
		}
		report, err := clock.RunNow(cmd.Context(), args[0], when)
		text, _ := json.Marshal(report) // numbers always marshal
		fmt.Fprintln(a.out, string(text))
		return err
	})
	return cmd
}

// noJob says why there is no such job, and what would make one.
func (a *app) noJob(name string, p *plan) error {
	missing := map[string]string{
		dart.JobSweep: "OpenDART's key: --dart-key or $OPENDART_API_KEY", dart.JobWide: "OpenDART's key: --dart-key or $OPENDART_API_KEY",
		dart.JobCompanies: "OpenDART's key: --dart-key or $OPENDART_API_KEY", news.JobFeeds: "feeds: entries of kind feed in --sources, or --feeds",
		news.JobNaver: "an entry of kind naver in --sources, or --naver", alike.Job: "feeds: entries of kind feed in --sources, or --feeds",
	}[name]
	switch {
	case missing != "":
		return boot.Usagef("job %q needs %s", name, missing)
	case len(p.jobs) == 0:
		return boot.Usagef("job %q: nothing is configured to be crawled: want --sources, --dart-key or --feeds", name)
	default:
		return boot.Usagef("job %q is none of %s", name, strings.Join(names(p.jobs), ", "))
	}
}

func names(jobs []scheduler.Job) []string {
	list := make([]string, len(jobs))
	for i, j := range jobs {
		list[i] = j.Job
	}
	return list
}

func newNext(a *app) *cobra.Command {
	var n int
	cmd := &cobra.Command{Use: "next", Short: "list the next slots, and why they are when they are", Args: boot.NoArgs}
	cmd.Flags().IntVarP(&n, "count", "n", 3, "slots of each job")
	cmd.RunE = a.opened(func(*cobra.Command, []string) error {
		p, err := a.plan()
		if err != nil {
			return err
		}
		var rows [][]string
		for _, j := range p.jobs {
			list, err := j.Next(time.Now(), n)
			if err != nil {
				return err
			}
			for i, at := range list {
				reason := ""
				if i == 0 {
					reason = j.Reason
				}
				rows = append(rows, []string{scheduler.SlotName(j.Job, at), at.Format("Mon 01-02 15:04 KST"), j.Window.String(), reason})
			}
		}
		return term.Table(a.out, []string{"slot", "begins", "looks back", "because"}, []int{0, 0, 0, 80}, rows)
	})
	return cmd
}

func newPause(a *app) *cobra.Command {
	var reason string
	var length time.Duration
	cmd := &cobra.Command{Use: "pause SOURCE", Short: "keep the jobs of a source from running", Args: cobra.ExactArgs(1)}
	cmd.Flags().StringVar(&reason, "reason", "by hand", "for whoever wonders")
	cmd.Flags().DurationVar(&length, "for", 0, "how long; 0 is until resumed")
	cmd.RunE = a.opened(func(cmd *cobra.Command, args []string) error {
		if err := a.checkSource(cmd.Context(), args[0]); err != nil {
			return err
		}
		var until time.Time
		if length > 0 {
			until = time.Now().Add(length)
		}
		return a.ledger.Pause(cmd.Context(), args[0], reason, until)
	})
	return cmd
}

// builtIn are the sources that need no file.
var builtIn = []string{dart.Source, news.Source, news.JobNaver}

// known returns what is configured; a file that can't be read is no reason not to pause what crawls by an earlier one.
func (a *app) known() *plan {
	p, err := a.plan()
	if err != nil {
		a.log.Warn("what is configured can't be read; what runs is known by Redis", "err", err)
		return &plan{}
	}
	return p
}

// checkSource refuses the name of a source that neither this configuration nor any scheduler of the last week has.
func (a *app) checkSource(ctx context.Context, name string) error {
	known := slices.Clone(builtIn)
	for _, j := range a.known().jobs {
		known = append(known, j.Source)
	}
	if slices.Contains(known, name) {
		return nil
	}
	list, err := a.ledger.Status(ctx)
	for _, s := range list {
		known = append(known, s.Source)
	}
	if slices.Contains(known, name) {
		return nil
	}
	slices.Sort(known)
	if err != nil {
		a.log.Warn("which other sources there are can't be read", "err", err)
	}
	return boot.Usagef("source %q is none of %s", name, strings.Join(slices.Compact(known), ", "))
}

func newResume(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "resume SOURCE", Short: "end a pause, and try a quota again that was found used up", Args: cobra.ExactArgs(1),
	}
	cmd.RunE = a.opened(func(cmd *cobra.Command, args []string) error {
		if err := a.checkSource(cmd.Context(), args[0]); err != nil {
			return err
		}
		if args[0] == dart.Source && a.cfg.dartKey != "" {
			client, source := a.openDART(a.cfg.quota)
			who, today := client.Unblock()
			if err := source.Unblock(cmd.Context(), who, today); err != nil {
				return err
			}
		} else if args[0] == dart.Source {
			a.log.Warn("a quota that was found used up stays so: which key's it is, only --dart-key or $OPENDART_API_KEY tells")
		}
		was, err := a.ledger.Resume(cmd.Context(), args[0])
		if err == nil && !was {
			fmt.Fprintf(a.out, "%s was not paused\n", args[0])
		}
		return err
	})
	return cmd
}

// overview returns what is known of every source: those that this process would crawl, and those that others do.
func (a *app) overview(ctx context.Context, jobs []scheduler.Job) ([]ledger.SourceStatus, error) {
	return a.ledger.Status(ctx, schedules(jobs)...)
}

func schedules(jobs []scheduler.Job) []scheduler.Schedule {
	list := make([]scheduler.Schedule, len(jobs))
	for i, j := range jobs {
		list[i] = j.Schedule
	}
	return list
}

func newStatus(a *app) *cobra.Command {
	var asJSON, feeds bool
	cmd := &cobra.Command{Use: "status", Short: "show jobs, failures, pauses, feeds and freshness", Args: boot.NoArgs}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&feeds, "each-feed", false, "show every feed in place of the jobs")
	cmd.RunE = a.opened(func(cmd *cobra.Command, _ []string) error {
		list, err := a.overview(cmd.Context(), a.known().jobs)
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(a.out).Encode(list)
		}
		if feeds {
			return a.feedTable(list)
		}
		return a.table(list)
	})
	return cmd
}

// table shows sources to people: a line per job, and one per feed that fails.
func (a *app) table(list []ledger.SourceStatus) error {
	var rows [][]string
	for _, s := range list {
		for _, j := range s.Jobs {
			rows = append(rows, row(s, j))
		}
		for _, f := range s.Failing() {
			rows = append(rows, []string{"  feed " + f.Name, clock(f.OK), clock(f.Wait), "", strconv.Itoa(f.Fails), "", "", f.Error})
		}
	}
	return term.Table(a.out, []string{"job", "last done", "next", "new", "failures", "fresh p50/p99", "awaited", "trouble"},
		[]int{0, 0, 0, 0, 0, 0, 0, 60}, rows)
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.In(scheduler.KST).Format("01-02 15:04")
}

func row(s ledger.SourceStatus, j ledger.Job) []string {
	trouble := s.Paused
	if trouble == "" && j.Failures > 0 {
		trouble = j.Error
	}
	if trouble == "" && !j.Kept {
		trouble = "no scheduler keeps it"
	}
	return []string{
		j.Job, clock(j.LastSlot), clock(j.Next), strconv.Itoa(j.Report.New), strconv.Itoa(j.Failures),
		fmt.Sprintf("%.0f s / %.0f s", s.Freshness.P50, s.Freshness.P99), strconv.FormatInt(s.Freshness.Awaited, 10), trouble,
	}
}

func newBackfill(a *app) *cobra.Command {
	var from, to string
	var every time.Duration
	var depth int64
	cmd := &cobra.Command{
		Use: "backfill dart", Short: "bring past filings in, a day at a time; goes on where it stopped", Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&from, "from", "", "first day, as 2021-01-01")
	cmd.Flags().StringVar(&to, "to", "", "last day; default yesterday")
	cmd.Flags().DurationVar(&every, "every", 200*time.Millisecond, "time between calls")
	cmd.Flags().Int64Var(&depth, "max-waiting", 50_000, "tasks in the backfill lane beyond which no more are added")
	cmd.RunE = a.opened(func(cmd *cobra.Command, args []string) error {
		first, last, err := backfillRange(args[0], from, to)
		if err != nil {
			return err
		}
		if a.cfg.dartKey == "" {
			return boot.Usagef("--dart-key: a backfill needs OpenDART's key")
		}
		filter, quota, err := a.backfillBounds()
		if err != nil {
			return err
		}
		client, source := a.openDART(quota)
		if err := a.cfg.needAlias(); err != nil {
			done, problem := source.Done(cmd.Context(), dart.Name(first, last))
			if problem == nil && done.Next.After(last) { // there is nothing to enqueue
				fmt.Fprintf(a.out, "these days are done, with %d documents\n", done.Documents)
				return nil
			}
			return errors.Join(err, problem)
		}
		progress := term.NewProgress(a.err, "days", int(last.Sub(first).Hours()/24)+1)
		defer progress.Done()
		return dart.NewBackfill(a.log, dart.BackfillParts{
			Client: client, Outbox: a.outbox(source, tasks.Backfill), Marker: source, Filter: filter,
			Depth: a.depth, MaxDepth: depth, Every: every,
		}).Run(cmd.Context(), first, last, func(s dart.BackfillStatus) {
			if s.Waiting != "" {
				a.log.Info("backfill waits", "why", s.Waiting)
				return
			}
			progress.Set(int(s.Next.Sub(s.From).Hours() / 24))
			a.log.Info("backfill", "next", s.Next.Format(time.DateOnly), "documents", s.Documents, "requests", s.Requests, "left", s.Left.Round(time.Second))
		})
	})
	return cmd
}

// backfillBounds are the filings that the crawl wants, and the calls that it leaves to a backfill.
func (a *app) backfillBounds() (dart.Filter, int, error) {
	cfg := a.cfg
	if a.file != nil {
		set, _, err := a.file.Read()
		if err != nil {
			return dart.Filter{}, 0, boot.Usagef("--sources: %w", err)
		}
		cfg = cfg.with(set)
	}
	return cfg.filter(), max(1, cfg.quota*6/10), nil
}

func backfillRange(source, from, to string) (first, last time.Time, err error) {
	if source != dart.Source {
		return first, last, boot.Usagef("only dart has a past to fetch, not %q", source)
	}
	first, err1 := time.ParseInLocation(time.DateOnly, from, scheduler.KST)
	last, err2 := time.ParseInLocation(time.DateOnly, to, scheduler.KST)
	if to == "" {
		y, m, d := time.Now().In(scheduler.KST).Date()
		last, err2 = time.Date(y, m, d-1, 0, 0, 0, 0, scheduler.KST), nil
	}
	if err := errors.Join(err1, err2); err != nil {
		return first, last, boot.Usagef("--from, --to: want days as 2021-01-01: %w", err)
	}
	if last.Before(first) {
		return first, last, boot.Usagef("--from %s is after --to %s", first.Format(time.DateOnly), last.Format(time.DateOnly))
	}
	return first, last, nil
}

// depth is how many tasks wait in the backfill lane.
func (a *app) depth(ctx context.Context) (int64, error) {
	list, err := queue.NewLanes(a.rdb).Status(ctx, a.cfg.alias)
	if err != nil {
		return 0, err
	}
	for _, l := range list {
		if l.Model == a.cfg.alias && l.Lane == tasks.Backfill {
			return l.Pending, nil
		}
	}
	return 0, nil
}
