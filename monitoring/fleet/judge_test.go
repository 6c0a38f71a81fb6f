package fleet

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/docs"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// noon is when the snapshots of these tests are judged; they were read a second before.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func snapshot(change func(*Snapshot)) *Snapshot {
	s := &Snapshot{Since: noon.Add(-time.Hour), Parts: map[string]Part{}}
	for _, name := range []string{PartLanes, PartWorkers, PartEvents, PartCauses, PartSources} {
		s.Parts[name] = Part{At: noon.Add(-time.Second)}
	}
	s.Workers = []registry.Worker{{ID: "w1", Name: "worker-1", Model: "minilm", State: registry.StateReady, Since: noon.Add(-time.Hour), Lanes: tasks.Lanes}}
	change(s)
	return s
}

func waiting(lane tasks.Lane, n int64, oldest time.Duration) queue.LaneStatus {
	return queue.LaneStatus{Model: "minilm", Lane: lane, Pending: n, OldestPending: oldest, Pace: queue.Pace{DrainRate: 10, ETA: time.Duration(n) * time.Second / 10}}
}

func lanes(list ...queue.LaneStatus) func(*Snapshot) {
	return func(s *Snapshot) { s.Lanes = list }
}

// trend is an hour at a rate, in which what waits grows from zero, or stands.
func trend(rate, pending float64) Trend {
	t := Trend{End: noon}
	for i := range trendPoints {
		t.Pending = append(t.Pending, pending*float64(i)/trendPoints)
		t.Rate = append(t.Rate, rate)
		t.Dead = append(t.Dead, 0)
	}
	return t
}

// TestJudge is a table of days in the life of a fleet: what the headline says, and of each finding some words of
// what, why, when and what to do.
func TestJudge(t *testing.T) {
	t.Parallel()
	hour := noon.Add(-time.Hour)
	for _, tt := range []struct {
		name     string
		change   func(*Snapshot)
		level    Level
		headline string
		detail   string
		says     []string // of the first finding
		runbook  string
	}{
		{"nothing waits", lanes(waiting(tasks.Live, 0, 0)), Fine, "Healthy", "Nothing waits. 1 worker is serving.", nil, ""},
		{"working", lanes(waiting(tasks.Live, 600, 20*time.Second)), Fine, "Healthy", "600 texts waiting, done in about 60 s", nil, ""},
		{"a backfill may be old", func(s *Snapshot) {
			s.Lanes = []queue.LaneStatus{waiting(tasks.Backfill, 600, 5*time.Hour)}
			s.Trends = map[Lane]Trend{{"minilm", tasks.Backfill}: trend(3, 600)}
		}, Fine, "Healthy", "", nil, ""},
		{"a backfill that stands", func(s *Snapshot) {
			s.Lanes = []queue.LaneStatus{{Model: "minilm", Lane: tasks.Backfill, Pending: 600, OldestPending: 5 * time.Hour}}
			s.Trends = map[Lane]Trend{{"minilm", tasks.Backfill}: trend(0, 600)}
		}, Watch, "Working, 1 thing to watch", "", []string{"Lane backfill of minilm is late", "Nothing leaves the lane", "more urgent lanes", "Start more workers"}, "a-lane-is-late"},
		{"live is late and grows", func(s *Snapshot) {
			s.Lanes = []queue.LaneStatus{waiting(tasks.Live, 9000, 12*time.Minute)}
			s.Trends = map[Lane]Trend{{"minilm", tasks.Live}: trend(10, 9000)}
		}, Watch, "Working, 1 thing to watch", "", []string{"the oldest of 9,000 texts waits for 12 min", "more comes in than goes out", "Done in about 15 min", "Start more workers of minilm"}, "a-lane-is-late"},
		{"queries are late", lanes(waiting(tasks.Query, 3, 20*time.Second)), Wrong, "1 thing wrong", "", []string{"Lane query of minilm", "20 s"}, "a-lane-is-late"},
		{"live is late since the store is away", func(s *Snapshot) {
			s.Lanes = []queue.LaneStatus{waiting(tasks.Live, 90, 12*time.Minute)}
			s.Workers[0].Held = &registry.Held{Since: hour, Cause: "writing vectors: connection refused"}
		}, Wrong, "1 thing wrong, 1 to watch", "", []string{"holds texts back since 1 h", "connection refused", "charges nobody a retry"}, "texts-are-held-back"},
		{"paused", func(s *Snapshot) {
			l := waiting(tasks.Live, 60, time.Hour)
			l.Paused = true
			s.Lanes = []queue.LaneStatus{l}
			s.Events = []registry.Event{{At: noon.Add(-5 * time.Minute), What: registry.EventPaused, Who: "ann", Model: "minilm", About: "live", Text: "new tokenizer"}}
		}, Watch, "Working, 1 thing to watch", "", []string{"Lane live of minilm is paused; 60 texts", "ann did it 5 min ago: new tokenizer", "Resume it"}, "a-lane-is-paused"},
		{"paused and empty", lanes(queue.LaneStatus{Model: "minilm", Lane: tasks.Live, Paused: true}), Fine, "Healthy", "", nil, ""},
		{"nobody serves", func(s *Snapshot) { s.Workers, s.Lanes = nil, []queue.LaneStatus{waiting(tasks.Live, 7, time.Second)} },
			Wrong, "1 thing wrong", "No worker is serving", []string{"7 texts of minilm wait and no worker serves", "No worker of the model is alive", "bin/worker --alias minilm"}, "nobody-serves-a-model"},
		{"the worker serves other lanes", func(s *Snapshot) {
			s.Workers[0].Lanes = []tasks.Lane{tasks.Query}
			s.Lanes = []queue.LaneStatus{waiting(tasks.Live, 7, time.Second)}
		}, Wrong, "1 thing wrong", "", []string{"do not take that lane"}, "nobody-serves-a-model"},
		{"loading", func(s *Snapshot) {
			s.Workers[0].State = registry.StateLoading
			s.Workers[0].Since = noon.Add(-40 * time.Second)
			s.Workers[0].Loading = &registry.Loading{Stage: "fetching", Since: noon.Add(-30 * time.Second), Done: 50e6, Total: 200e6}
			s.Lanes = []queue.LaneStatus{waiting(tasks.Live, 7, time.Second)}
		}, Watch, "Working, 1 thing to watch", "", []string{"fetching since 30 s, 25 % of 200 MB", "Wait"}, "nobody-serves-a-model"},
		{"loading for long", func(s *Snapshot) {
			s.Workers[0].State, s.Workers[0].Loading = registry.StateLoading, &registry.Loading{Stage: "preparing", Since: hour}
		}, Watch, "Working, 1 thing to watch", "", []string{"is loading since 1 h", "preparing"}, "a-model-loads-slowly"},
		{"failed", func(s *Snapshot) {
			s.Workers[0].State, s.Workers[0].Reason = registry.StateFailed, "loading the model: no config.json"
		}, Wrong, "1 thing wrong", "", []string{"worker-1 of minilm has given up", "no config.json.", "a restart alone won't help"}, "a-worker-has-failed"},
		{"stuck", func(s *Snapshot) {
			s.Workers[0].State, s.Workers[0].Reason = registry.StateZombie, "nothing came back for 1m"
		},
			Wrong, "1 thing wrong", "", []string{"is stuck", "nothing came back", "within 10 s"}, "a-worker-is-stuck"},
		{"overdue", func(s *Snapshot) { s.Workers[0].Overdue = 2 }, Watch, "Working, 1 thing to watch", "", []string{"2 texts inside beyond their deadline"}, "texts-are-overdue"},
		{"refused", func(s *Snapshot) { s.Workers[0].Refused = "concurrency 9 is below the queries'" }, Watch, "Working, 1 thing to watch", "", []string{"did not take the latest settings", "below the queries'"}, "settings-were-refused"},
		{"two spaces", func(s *Snapshot) {
			s.Workers[0].Space = "aaaaaaaaaaaaaaaa"
			other := s.Workers[0]
			other.ID, other.Space = "w2", "bbbbbbbbbbbbbbbb"
			s.Workers = append(s.Workers, other)
		}, Wrong, "1 thing wrong", "", []string{"two vector spaces"}, "change-a-model"},
		{"a crash", func(s *Snapshot) {
			s.Events = []registry.Event{{At: noon.Add(-3 * time.Minute), What: registry.EventCrashed, Text: "signal: killed"}, {At: noon.Add(-20 * time.Minute), What: registry.EventLost}}
		}, Watch, "Working, 1 thing to watch", "", []string{"crashed 2 times in the last hour, the last one 3 min ago", "signal: killed."}, "a-worker-crashed"},
		{"a crash of yesterday", func(s *Snapshot) {
			s.Events = []registry.Event{{At: noon.Add(-23 * time.Hour), What: registry.EventCrashed}}
		}, Fine, "Healthy", "", nil, ""},
		{"retries stand", lanes(queue.LaneStatus{Model: "minilm", Lane: tasks.Live, Retry: 900, RetryDue: 800}), Wrong, "1 thing wrong", "900 texts for a later try", []string{"800 texts are due", "Start a scheduler"}, "retries-do-not-move"},
		{"new dead letters", func(s *Snapshot) {
			grown := trend(1, 0)
			grown.Dead[trendPoints-1] = 40
			s.Trends = map[Lane]Trend{{"minilm", tasks.Live}: grown}
			s.Causes = []Cause{{"minilm", upkeep.CauseCount{Code: "timeout", Letters: 90}}, {"minilm", upkeep.CauseCount{Code: "invalid_text", Letters: 3}}}
		}, Watch, "Working, 1 thing to watch", "", []string{"40 texts of minilm failed for good", "timeout", "replay"}, "dead-letters"},
		{"old dead letters", func(s *Snapshot) { s.Causes = []Cause{{"minilm", upkeep.CauseCount{Code: "timeout", Letters: 90}}} }, Fine, "Healthy", "", nil, ""},
		{"paused source", func(s *Snapshot) {
			s.Sources = []ledger.SourceStatus{{Source: "dart", Paused: "quota used up", PausedUntil: noon.Add(3 * time.Hour), Jobs: []ledger.Job{{Job: "dart", Failures: 9}}}}
		}, Watch, "Working, 1 thing to watch", "", []string{"Source dart is paused", "quota used up.", "goes on by itself in 3 h"}, "a-source-is-paused"},
		{"failing source", source(func(j *ledger.Job) { j.Failures, j.Error = 4, "503" }), Wrong, "1 thing wrong", "", []string{"failed 4 times in a row", "503."}, "a-source-fails"},
		{"a source nobody keeps", source(func(j *ledger.Job) { j.Kept = false }), Wrong, "1 thing wrong", "", []string{"kept by no scheduler"}, "nobody-crawls"},
		{"a source in time", source(func(*ledger.Job) {}), Fine, "Healthy", "", nil, ""},
		{"a source that is late", source(func(j *ledger.Job) { j.LastSlot = noon.Add(-30 * time.Minute) }), Watch, "Working, 1 thing to watch", "", []string{"its last slot that was done began 30 min ago"}, "a-slot-is-late"},
		{"all feeds fail", func(s *Snapshot) {
			s.Sources = []ledger.SourceStatus{{Source: "news", Feeds: []ledger.Feed{{Name: "a", Fails: 2, Error: "no route"}}}}
		}, Wrong, "1 thing wrong", "", []string{"None of the 1 feeds", "no route."}, "a-source-fails"},
		{"redis away", func(s *Snapshot) {
			for name := range s.Parts {
				s.Parts[name] = Part{At: noon.Add(-90 * time.Second), Err: "dial tcp: connection refused"}
			}
		}, Wrong, "1 thing wrong", "", []string{"Redis does not answer", "90 s old", "connection refused", "nothing is lost"}, "redis-is-slow-or-away"},
		{"redis fills up", func(s *Snapshot) { s.Memory = 0.8 }, Watch, "Working, 1 thing to watch", "", []string{"80 % of its memory", "Above 85 %"}, "redis-is-full"},
		{"redis is full", func(s *Snapshot) { s.Memory = 0.9 }, Wrong, "1 thing wrong", "", []string{"told to come back"}, "redis-is-full"},
		{"redis never there", func(s *Snapshot) { s.Parts = map[string]Part{} }, Wrong, "Unknown", "Nothing could be read", []string{"since this monitor started"}, "redis-is-slow-or-away"},
		{"just started", func(s *Snapshot) { s.Parts, s.Since = map[string]Part{}, noon.Add(-time.Second) }, Fine, "Looking", "", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := Judge(snapshot(tt.change), noon)
			if v.Level != tt.level || v.Headline != tt.headline {
				t.Errorf("%v, %q, want %v, %q; %+v", v.Level, v.Headline, tt.level, tt.headline, v.Findings)
			}
			if !strings.Contains(v.Detail, tt.detail) {
				t.Errorf("detail %q does not say %q", v.Detail, tt.detail)
			}
			if len(v.Findings) == 0 {
				if tt.says != nil {
					t.Fatal("no finding")
				}
				return
			}
			f := v.Findings[0]
			all := strings.Join([]string{f.What, f.Why, f.When, f.Do}, " ")
			for _, want := range tt.says {
				if !strings.Contains(all, want) {
					t.Errorf("%q does not say %q", all, want)
				}
			}
			if f.Runbook != tt.runbook {
				t.Errorf("runbook %q, want %q", f.Runbook, tt.runbook)
			}
		})
	}
}

func source(change func(*ledger.Job)) func(*Snapshot) {
	return func(s *Snapshot) {
		j := ledger.Job{Job: "dart", Cron: []string{"*/5 * * * *"}, Kept: true, LastSlot: noon.Add(-5 * time.Minute), Next: noon.Add(time.Minute)}
		change(&j)
		s.Sources = []ledger.SourceStatus{{Source: "dart", Jobs: []ledger.Job{j}}}
	}
}

// TestEveryFindingHasASection looks for the runbook's sections that the sources of this package name.
func TestEveryFindingHasASection(t *testing.T) {
	t.Parallel()
	headings := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(docs.Operations), -1) {
		headings[strings.ReplaceAll(strings.ToLower(h[1]), " ", "-")] = true
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"([a-z]+(?:-[a-z]+)+)"`).FindAllStringSubmatch(string(text), -1) {
			if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(m[1], "-") {
				continue
			}
			found++
			if !headings[m[1]] {
				t.Errorf("%s names the section %q, which docs/operations.md lacks", name, m[1])
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d sections are named; the search is broken", found)
	}
}
