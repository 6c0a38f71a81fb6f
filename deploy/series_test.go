package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/embedfleet/embedfleet/monitoring"
)

// catalogue is every series that our roles describe, with its labels. It is read off the registries and not off a
// scrape, since a counter that nothing has counted yet is shown by none.
func catalogue(t testing.TB) map[string][]string {
	t.Helper()
	worker := monitoring.NewWorker("v")
	worker.Held(func() bool { return false })
	worker.Waiting(func() int { return 0 })
	worker.Manager(func() monitoring.Manager { return monitoring.Manager{} })
	worker.Alive(&monitoring.Pulse{}, func() int { return 0 })
	lanes := monitoring.NewLanes(func(context.Context) ([]monitoring.Lane, error) { return nil, nil })
	crawler := monitoring.NewCrawler("v")
	crawler.Registry().MustRegister(monitoring.NewRedisMemory(func(context.Context) float64 { return 0 }))
	monitor := monitoring.NewMonitor("v", lanes, []string{"lanes"}, func(string) time.Duration { return 0 })
	gateway := monitoring.NewGateway("v", lanes)

	described := regexp.MustCompile(`fqName: "([a-z0-9_]+)".*constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`)
	all := map[string][]string{}
	for _, r := range []*prometheus.Registry{worker.Registry(), crawler.Registry(), monitor.Registry(), gateway.Registry()} {
		descs := make(chan *prometheus.Desc, 10_000)
		r.Describe(descs)
		close(descs)
		for d := range descs {
			m := described.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("%s", d)
			}
			names := regexp.MustCompile(`[a-z_]+`).FindAllString(regexp.MustCompile(`"[^"]*"`).ReplaceAllString(m[2], "")+" "+m[3], -1)
			all[m[1]] = names
		}
	}
	all["up"] = nil
	return all
}

// fromScrape are the labels that Prometheus puts on every series, and that of a histogram's buckets.
var fromScrape = []string{"job", "instance", "le"}

// checkExpr fails if an expression can't be read, or asks for what does not exist.
func checkExpr(t *testing.T, place, expr string, known map[string][]string) {
	t.Helper()
	for _, fault := range faults(expr, known) {
		t.Errorf("%s: %s", place, fault)
	}
}

func faults(expr string, known map[string][]string) (list []string) {
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	root, err := parser.ParseExpr(expr)
	if err != nil {
		return []string{err.Error()}
	}
	var given []string // labels of all series in it
	parser.Inspect(root, func(node parser.Node, _ []parser.Node) error {
		s, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		name := s.Name
		if _, ok := known[name]; !ok {
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		}
		has, ok := known[name]
		if !ok {
			fault("no role has the series %s", s.Name)
		}
		has = append(slices.Clone(has), fromScrape...)
		given = append(given, has...)
		for _, m := range s.LabelMatchers {
			if m.Name != labels.MetricName && !slices.Contains(has, m.Name) {
				fault("%s has no label %s", s.Name, m.Name)
			}
		}
		return nil
	})
	parser.Inspect(root, func(node parser.Node, _ []parser.Node) error {
		if agg, ok := node.(*parser.AggregateExpr); ok {
			for _, l := range agg.Grouping {
				if !slices.Contains(given, l) {
					fault("grouped by %s, which nothing in it has", l)
				}
			}
		}
		return nil
	})
	return list
}

func TestRulesAskForWhatExists(t *testing.T) {
	t.Parallel()
	known := catalogue(t)
	for _, r := range rules(t) {
		checkExpr(t, r.Alert, r.Expr, known)
	}
	// The check itself can fail.
	for _, expr := range []string{"embed_nothing_total", `embed_worker_stuck{lane="live"}`, "sum by (lane) (embed_worker_stuck)", "sum("} {
		if len(faults(expr, known)) == 0 {
			t.Errorf("%s passes", expr)
		}
	}
}

// Scenes use series that exist: an alert that is tested with another name is not tested.
func TestScenesAreOfThisWorld(t *testing.T) {
	t.Parallel()
	known := catalogue(t)
	for alert, list := range scenes {
		for _, s := range list {
			for _, line := range s.lines {
				lset, _, err := parser.ParseSeriesDesc(line)
				if err != nil {
					t.Fatal(err)
				}
				name := lset.Get(labels.MetricName)
				has, ok := known[name]
				if !ok {
					t.Errorf("%s: no role has %s", alert, name)
				}
				lset.Range(func(l labels.Label) {
					if l.Name != labels.MetricName && !slices.Contains(append(slices.Clone(has), fromScrape...), l.Name) {
						t.Errorf("%s: %s has no label %s", alert, name, l.Name)
					}
				})
			}
		}
	}
}

// A panel of the dashboard.
type panel struct {
	ID          int
	Title, Type string
	Datasource  struct{ UID string }
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ Expr, LegendFormat string }
}

func TestDashboard(t *testing.T) {
	t.Parallel()
	var board struct {
		UID        string
		Panels     []panel
		Templating struct {
			List []struct{ Name, Query string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "deploy", "grafana", "dashboards", "fleet.json")), &board); err != nil {
		t.Fatal(err)
	}
	known := catalogue(t)
	variables := strings.NewReplacer("$__rate_interval", "1m", "$model", "m")
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("%s: the id %d is taken", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s covers %q, or is beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Datasource.UID != "prometheus" {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpr(t, p.Title, variables.Replace(target.Expr), known)
		}
	}
	for _, v := range board.Templating.List {
		m := regexp.MustCompile(`^label_values\(([a-z_]+), ([a-z]+)\)$`).FindStringSubmatch(v.Query)
		if m == nil || !slices.Contains(known[m[1]], m[2]) {
			t.Errorf("variable %s: %s", v.Name, v.Query)
		}
	}
	if source := read(t, "deploy", "grafana", "provisioning", "datasources", "prometheus.yml"); !strings.Contains(source, "\n    uid: prometheus\n") ||
		!strings.Contains(source, "url: http://prometheus:9090") {
		t.Errorf("the data source is another: %s", source)
	}
	if path := load(t).Services["grafana"].Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]; !strings.HasSuffix(*path, "/dashboards/fleet.json") {
		t.Errorf("Grafana begins with %s", *path)
	}
}

// The autoscaler asks for what exists and names what KEDA knows.
func TestScaledObject(t *testing.T) {
	t.Parallel()
	var object struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Spec       struct {
			Triggers []struct {
				Type     string
				Metadata map[string]string
			}
		}
	}
	decode(t, &object, "deploy", "keda", "worker.yaml")
	if object.APIVersion != "keda.sh/v1alpha1" || object.Kind != "ScaledObject" || len(object.Spec.Triggers) == 0 {
		t.Fatalf("%+v", object)
	}
	known := catalogue(t)
	for _, trigger := range object.Spec.Triggers {
		if keys := slices.Sorted(maps.Keys(trigger.Metadata)); trigger.Type != "prometheus" || !slices.Equal(keys, []string{"query", "serverAddress", "threshold"}) {
			t.Errorf("trigger %s with %v", trigger.Type, keys)
		}
		checkExpr(t, "worker.yaml", trigger.Metadata["query"], known)
	}
	// Two workers, each scrape tells the same: 90 seconds for both of them are 180 of one, three workers a minute.
	h := write(t, `embed_queue_work_seconds{model="minilm",lane="live",instance="a"} 90x5`, `embed_queue_work_seconds{model="minilm",lane="live",instance="b"} 90x5`,
		`embed_manager_state{state="ready",instance="w1"} 1x5`, `embed_manager_state{state="ready",instance="w2"} 1x5`, `embed_manager_state{state="ready",instance="w3"} 0x5`)
	if v := h.ask(t, object.Spec.Triggers[0].Metadata["query"], 5*step); len(v) != 1 || v[0].F != 180 {
		t.Errorf("seconds of work: %v", v)
	}
	if v := write(t, `embed_queue_tasks{model="minilm",lane="live",state="pending"} 7x5`).ask(t, object.Spec.Triggers[1].Metadata["query"], 5*step); len(v) != 1 || v[0].F != 1 {
		t.Errorf("something waits: %v", v)
	}
}
