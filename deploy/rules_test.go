package deploy_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// A rule is an alert of rules.yml.
type rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func rules(t testing.TB) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	decode(t, &file, "deploy", "prometheus", "rules.yml")
	var list []rule
	for _, g := range file.Groups {
		list = append(list, g.Rules...)
	}
	return list
}

// fires reports when the alert begins to fire within an hour and a half of the history, as Prometheus counts: the
// expression must have held at every evaluation for as long as `for` says.
func (r rule) fires(t testing.TB, h history) (after time.Duration, ok bool) {
	t.Helper()
	wait, err := time.ParseDuration(r.For)
	if r.For != "" && err != nil {
		t.Fatalf("%s: for: %v", r.Alert, err)
	}
	since := time.Duration(-1)
	for at := time.Duration(0); at <= 150*step; at += step {
		if len(h.ask(t, r.Expr, at)) == 0 {
			since = -1
			continue
		}
		if since < 0 {
			since = at
		}
		if at-since >= wait {
			return at, true
		}
	}
	return 0, false
}

// A scene is a history in which an alert fires, or one that is close to it and is none.
type scene struct {
	fires bool
	lines []string
}

// scenes tell for each alert what it is about.
var scenes = map[string][]scene{
	"NoWorkerReady": {
		{true, []string{`embed_manager_state{state="ready",instance="a"} 0x20`, `embed_manager_state{state="loading",instance="a"} 1x20`}},
		{true, []string{`up{job="worker"} 0x20`}}, // nobody left to tell
		{false, []string{`embed_manager_state{state="ready",instance="a"} 0x150`, `embed_manager_state{state="ready",instance="b"} 1x150`}},
		{false, []string{`embed_manager_state{state="ready",instance="a"} 0x3 1x150`}}, // a start
	},
	"WorkerDown": {
		{true, []string{`up{job="worker",instance="a"} 1x5 0x10`, `up{job="worker",instance="b"} 1x20`}},
		{false, []string{`up{job="worker",instance="a"} 1x5 0 1x20`, `up{job="scheduler"} 0x20`}},
	},
	"WorkerStuck": {
		{true, []string{`embed_worker_stuck{instance="a"} 0x5 1x5`}},
		{false, []string{`embed_worker_stuck{instance="a"} 0x20`}},
	},
	"WorkerCrashLoop": {
		{true, []string{`process_start_time_seconds{job="worker",instance="a"} 1x5 400 500 600 600x10`}},
		{false, []string{`process_start_time_seconds{job="worker",instance="a"} 1x5 400x30 5000x30 9000x30`}}, // an hour between two
		{false, []string{`process_start_time_seconds{job="scheduler",instance="a"} 1x5 400 500 600 600x10`}},
	},
	"WorkerHeldBack": {
		{true, []string{`embed_worker_held{instance="a"} 1x10`}},
		{false, []string{`embed_worker_held{instance="a"} 1x3 0x20`}}, // a probe went through
	},
	"ModelLoadSlow": {
		{true, []string{`embed_manager_state{state="loading",instance="a"} 1x20`}},
		{false, []string{`embed_manager_state{state="loading",instance="a"} 1x5 0x20`}},
	},
	"SpacesMixed": {
		{true, []string{`embed_model_info{model="m",space="x",instance="a"} 1x20`, `embed_model_info{model="m",space="y",instance="b"} 1x20`}},
		{false, []string{`embed_model_info{model="m",space="x",instance="a"} 1x20`, `embed_model_info{model="m",space="x",instance="b"} 1x20`, `embed_model_info{model="n",space="y"} 1x20`}},
	},
	"LanesUnreadable": {
		{true, []string{`embed_queue_up{instance="a"} 0x5`, `embed_queue_up{instance="b"} 0x5`}},
		{false, []string{`embed_queue_up{instance="a"} 0x20`, `embed_queue_up{instance="b"} 1x20`}}, // one of them reads
	},
	"LaneLate": {
		{true, []string{`embed_queue_oldest_pending_seconds{model="m",lane="live"} 0+60x10`}},
		{false, []string{`embed_queue_oldest_pending_seconds{model="m",lane="live"} 290x20`, `embed_queue_oldest_pending_seconds{model="m",lane="backfill"} 90000x20`}},
	},
	"QueriesLate": {
		{true, []string{`embed_queue_oldest_pending_seconds{model="m",lane="query"} 11x5`}},
		{false, []string{`embed_queue_oldest_pending_seconds{model="m",lane="query"} 1x20`, `embed_queue_oldest_pending_seconds{model="m",lane="live"} 100x20`}},
	},
	"BackfillStalls": {
		{true, []string{`embed_queue_tasks{model="m",lane="backfill",state="pending"} 5x150`, `embed_queue_processed_tasks_total{model="m",lane="backfill"} 7x150`}},
		{false, []string{`embed_queue_tasks{model="m",lane="backfill",state="pending"} 5x150`, `embed_queue_processed_tasks_total{model="m",lane="backfill"} 7+1x150`}},
		{false, []string{`embed_queue_tasks{model="m",lane="backfill",state="pending"} 0x150`, `embed_queue_processed_tasks_total{model="m",lane="backfill"} 7x150`}},
	},
	"LanePaused": {
		{true, []string{`embed_queue_paused{model="m",lane="live"} 1x90`}},
		{false, []string{`embed_queue_paused{model="m",lane="live"} 1x30 0x90`}},
	},
	"RetriesNotForwarded": {
		{true, []string{`embed_queue_retry_due_tasks{model="m",lane="live"} 101x10`}},
		{false, []string{`embed_queue_retry_due_tasks{model="m",lane="live"} 0x3 500 0x20`}},
	},
	"DeadLettersGrow": {
		{true, []string{`embed_queue_tasks{model="m",lane="live",state="dead"} 3x20 4x20`}},
		{false, []string{`embed_queue_tasks{model="m",lane="live",state="dead"} 3x90`, `embed_queue_tasks{model="m",lane="live",state="pending"} 0+5x90`}},
		{false, []string{`embed_queue_tasks{model="m",lane="live",state="dead"} 9x5 0x90`}}, // replayed
	},
	"QuarantineInUse": {
		{true, []string{`embed_queue_tasks{model="m",lane="quarantine",state="pending"} 0x5 1x5`}},
		{false, []string{`embed_queue_tasks{model="m",lane="quarantine",state="pending"} 0x50`, `embed_queue_tasks{model="m",lane="live",state="pending"} 9x50`}},
	},
	"RedisMemoryHigh": {
		{true, []string{`embed_redis_memory_used_ratio 0.86x5`}},
		{false, []string{`embed_redis_memory_used_ratio 0.84x50`}},
	},
	"SchedulersAway": {
		{true, []string{`up{job="scheduler",instance="a"} 1x10`, `up{job="scheduler",instance="b"} 0x10`}},
		{true, []string{`up{job="worker"} 1x10`}},
		{false, []string{`up{job="scheduler",instance="a"} 1x150`, `up{job="scheduler",instance="b"} 1x10 0x2 1x150`}},
	},
	"CrawlNotFresh": {
		{true, []string{`crawl_oldest_awaited_seconds{source="dart"} 0+60x10`}},
		{false, []string{`crawl_oldest_awaited_seconds{source="dart"} 200x50`}},
	},
	"TickMissed": {
		{true, []string{`crawl_last_success_timestamp_seconds{job="news"} 0x90`}},
		{false, []string{`crawl_last_success_timestamp_seconds{job="news"} 0+60x150`, `crawl_last_success_timestamp_seconds{job="dart-companies"} 0x150`}},
	},
	"SourceFailing": {
		{true, []string{`crawl_runs_total{job="news",outcome="failed"} 0x10 1x10 2x10 3x10`, `crawl_runs_total{job="news",outcome="done"} 7x60`}},
		{false, []string{`crawl_runs_total{job="news",outcome="failed"} 0x10 1x10 2x10 3x10`, `crawl_runs_total{job="news",outcome="done"} 0x10 1+0.1x150`}},
	},
	"SourcePaused": {
		{true, []string{`crawl_paused{source="dart"} 1x30`}},
		{false, []string{`crawl_paused{source="dart"} 1x5 0x60`}},
	},
	"DartQuotaNearlyUsed": {
		{true, []string{`crawl_requests_total{job="dart"} 0+500x40`}},
		{false, []string{`crawl_requests_total{job="dart"} 0+50x150`, `crawl_requests_total{job="news"} 0+900x150`}},
	},
	"GatewayFails": {
		{true, []string{`embed_gateway_requests_total{route="/v1/search",status="200"} 0+90x20`, `embed_gateway_requests_total{route="/v1/search",status="503"} 0+10x20`}},
		{false, []string{`embed_gateway_requests_total{route="/v1/search",status="429"} 0+90x20`, `embed_gateway_requests_total{route="/v1/search",status="500"} 0+1x20`}},
		{false, []string{`embed_gateway_requests_total{route="/v1/search",status="200"} 5x50`}}, // nobody asks
	},
	"MonitorStale": {
		{true, []string{`embed_monitor_snapshot_age_seconds{part="lanes",instance="a"} 0+60x10`}},
		{false, []string{`embed_monitor_snapshot_age_seconds{part="lanes",instance="a"} 2x50`, `embed_monitor_snapshot_age_seconds{part="sources",instance="a"} 500x50`}},
	},
	"LoginsRefused": {
		{true, []string{`embed_monitor_logins_total{outcome="refused"} 0+5x10`}},
		{false, []string{`embed_monitor_logins_total{outcome="refused"} 0x50 1x50`, `embed_monitor_logins_total{outcome="in"} 0+50x50`}},
	},
}

// TestAlerts lets each rule fire, and not fire.
func TestAlerts(t *testing.T) {
	t.Parallel()
	list := rules(t)
	if len(list) != len(scenes) {
		t.Errorf("%d alerts, scenes for %d", len(list), len(scenes))
	}
	for _, r := range list {
		t.Run(r.Alert, func(t *testing.T) {
			t.Parallel()
			var fired, quiet bool
			for i, s := range scenes[r.Alert] {
				after, ok := r.fires(t, write(t, s.lines...))
				if ok != s.fires {
					t.Errorf("scene %d: fires %v after %v, want %v", i, ok, after, s.fires)
				}
				fired, quiet = fired || s.fires, quiet || !s.fires
			}
			if !fired || !quiet {
				t.Error("want a scene in which it fires and one in which it does not")
			}
		})
	}
}

// TestRulesAreWellFormed looks at what people are told.
func TestRulesAreWellFormed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range rules(t) {
		if seen[r.Alert] {
			t.Errorf("%s is there twice", r.Alert)
		}
		seen[r.Alert] = true
		if s := r.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		summary := r.Annotations["summary"]
		if !strings.HasSuffix(summary, ".") {
			t.Errorf("%s: summary %q is no sentence", r.Alert, summary)
		}
		helpers := template.FuncMap{}
		for _, name := range []string{"humanizeDuration", "humanizePercentage", "humanize"} {
			helpers[name] = func(any) string { return "" }
		}
		// Prometheus puts these two variables before each text.
		if _, err := template.New("").Funcs(helpers).Parse(`{{$labels := .}}{{$value := .}}` + summary); err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
		expr, err := parser.ParseExpr(r.Expr)
		if err != nil {
			t.Errorf("%s: %v", r.Alert, err)
			continue
		}
		for _, m := range regexp.MustCompile(`\$labels\.([a-z]+)`).FindAllStringSubmatch(summary, -1) {
			if kept := keptLabels(expr); kept != nil && !slices.Contains(kept, m[1]) {
				t.Errorf("%s: the summary tells %s, of which the expression keeps %v", r.Alert, m[1], kept)
			}
		}
	}
}

// keptLabels are the labels that an expression's outermost sum or max leaves; nil if it has none and leaves all.
func keptLabels(expr parser.Expr) []string {
	var kept []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if agg, ok := node.(*parser.AggregateExpr); ok && kept == nil {
			kept = append([]string{}, agg.Grouping...)
		}
		return nil
	})
	return kept
}

// Each alert has a section in the runbook, and each section of the runbook an alert.
func TestRunbook(t *testing.T) {
	t.Parallel()
	_, book, ok := strings.Cut(read(t, "docs", "operations.md"), "\n## Alerts\n")
	if !ok {
		t.Fatal("docs/operations.md has no section Alerts")
	}
	book, _, _ = strings.Cut(book, "\n## ")
	sections := map[string]string{}
	for _, part := range strings.Split(book, "\n### ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		sections[name] = strings.TrimSpace(text)
	}
	for _, r := range rules(t) {
		text, ok := sections[r.Alert]
		if !ok {
			t.Errorf("%s has no section", r.Alert)
		} else if len(text) < 100 {
			t.Errorf("%s: its section says next to nothing: %q", r.Alert, text)
		}
		delete(sections, r.Alert)
	}
	for name := range sections {
		t.Errorf("the section %s is about no alert", name)
	}
}
