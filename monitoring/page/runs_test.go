package page_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// history has a run a minute of the last hours, the first of which says more than numbers.
type history struct{}

func (history) RunsOf(_ context.Context, source string, before time.Time, limit int) (runs []ledger.Run, err error) {
	if source == "down" {
		return nil, errors.New("redis is away")
	}
	begin := time.Now().Truncate(time.Minute)
	for i := range 150 {
		r := ledger.Run{Source: source, Job: source, Begun: begin.Add(-time.Duration(i) * time.Minute), Ended: begin.Add(-time.Duration(i)*time.Minute + 2*time.Second)}
		r.Slot, r.Outcome, r.Report = fmt.Sprintf("%s:slot-%d", source, i), "done", scheduler.Report{Requests: 1}
		if i == 0 {
			r.Outcome, r.Error, r.Report = "failed", "<script>alert(1)</script>", scheduler.Report{Items: 9, New: 2, Updated: 1, Brought: []string{"dart:1&2"}}
			r.Report.Repeat("same_title")
			r.Report.Drop("no_title", 4)
		}
		if (before.IsZero() || r.Ended.Before(before)) && len(runs) < limit {
			runs = append(runs, r)
		}
	}
	return runs, nil
}

// TestRuns shows why, what came, and the pages behind; nothing that a source says is markup.
func TestRuns(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Viewer, letters{})
	status, body := s.get("/runs?source=dart")
	for _, want := range []string{"dart:slot-0", "dropped/no title 4, repeated/same title 1", `href="/search?like=dart%3a1%262"`, "&lt;script&gt;", `rel="next"`, "failed", "2 s"} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %q", want)
		}
	}
	if status != 200 || strings.Contains(body, "<script>alert") || strings.Contains(body, "slot-100") {
		t.Errorf("%d\n%s", status, body)
	}
	_, rest, _ := strings.Cut(body, `href="/runs?before=`)
	next, _, _ := strings.Cut(rest, `"`)
	if _, body = s.get("/runs?before=" + strings.ReplaceAll(next, "&amp;", "&")); !strings.Contains(body, "slot-100") || !strings.Contains(body, "slot-149") || strings.Contains(body, "slot-99<") {
		t.Errorf("the next page\n%s", body)
	}
	if _, body = s.get("/runs"); !strings.Contains(body, "Runs of dart") {
		t.Error("without a choice the first source is not shown")
	}
	if status, _ = s.get("/runs?source=moon"); status != 404 {
		t.Errorf("of no source: %d", status)
	}
	_, body = s.get("/runs?source=dart&format=json")
	var runs []ledger.Run
	if err := json.Unmarshal([]byte(body), &runs); err != nil || len(runs) != 100 || runs[0].Report.New != 2 || runs[0].Report.Brought[0] != "dart:1&2" {
		t.Errorf("%v, %d runs", err, len(runs))
	}
	now := snapshot()
	now.Sources = []ledger.SourceStatus{{Source: "down"}}
	s.show(now)
	if status, body = s.get("/runs?source=down"); status != 503 || !strings.Contains(body, "can&#39;t be read") {
		t.Errorf("without Redis: %d\n%s", status, body)
	}
	if _, body = s.get("/"); !strings.Contains(body, `href="/runs?source=down"`) {
		t.Error("the fleet's page does not lead there")
	}
}
