package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/alike"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/news"
	"github.com/embedfleet/embedfleet/scheduler/sources"
)

// TestTheHandbook runs the commands that docs/crawlers.md shows, and looks for the jobs, flags and series it names.
func TestTheHandbook(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/crawlers.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	s := newStage(t)
	commands := regexp.MustCompile(`(?m)^ {4}scheduler (.*?)(?:\s+#.*)?$`).FindAllStringSubmatch(text, -1)
	if len(commands) < 6 {
		t.Fatalf("only %d commands were found", len(commands))
	}
	if m := regexp.MustCompile(`(?m)^ {4}\{"sources": \[(?:\n {4}.*)*?\n {4}\]\}$`).FindString(text); m == "" {
		t.Error("no file of sources is shown")
	} else if _, err := sources.Parse([]byte(m), os.LookupEnv); err != nil {
		t.Errorf("the file of sources that is shown: %v", err)
	}
	for _, m := range commands {
		args := strings.Fields(strings.ReplaceAll(m[1], `"an outlet complained"`, "complaint"))
		if args[0] == "backfill" {
			args = append(args, "--to", "2021-01-02", "--every", "1ms") // not the whole year
		}
		if status, out := s.call(t.Context(), args...); status != 0 {
			t.Errorf("scheduler %v: %d %s %s", args, status, out, s.errs.String())
		}
	}
	for _, list := range [][]scheduler.Schedule{dart.Schedules(), news.Schedules(), {alike.Schedule(news.Source)}} {
		for _, job := range list {
			if !strings.Contains(text, "| `"+job.Job+"` | "+job.Source+" |") {
				t.Errorf("the table lacks job %s of source %s", job.Job, job.Source)
			}
		}
	}
	root := newRoot(streams{out: &buffer{}, err: &buffer{}})
	for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(text, -1) {
		found := root.PersistentFlags().Lookup(m[1]) != nil
		for _, sub := range root.Commands() {
			found = found || sub.Flags().Lookup(m[1]) != nil
		}
		if !found {
			t.Errorf("there is no flag --%s", m[1])
		}
	}
	described := map[string]bool{}
	for _, m := range regexp.MustCompile("`(crawl_[a-z_]+)").FindAllStringSubmatch(text, -1) {
		described[m[1]] = true
	}
	metrics := monitoring.NewCrawler("test")
	observer{metrics}.Ran("dart", "done", scheduler.Report{}, 0)
	observer{metrics}.Skipped("dart", "slow")
	metrics.Fresh("dart", 0)
	metrics.Awaiting("dart", 1, 0)
	metrics.Paused("dart", 0)
	families, err := metrics.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, "crawl_") && !described[name] {
			t.Errorf("series %s is not described", name)
		}
	}
}
