package ledger_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// TestStatusShowsWhatSchedulersKeep to a reader that knows no job: timetable, last run, pause, freshness, feeds.
func TestStatusShowsWhatSchedulersKeep(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	l, ctx := ledger.New(rdb), t.Context()
	if list, err := l.Status(ctx); err != nil || len(list) != 0 {
		t.Fatalf("before anything: %+v, %v", list, err)
	}
	schedule := scheduler.Schedule{Job: "news", Source: "news", Cron: []string{"*/10 * * * *"}, Reason: "ten minutes are polite"}
	if err := l.Announce(ctx, []scheduler.Schedule{schedule}); err != nil {
		t.Fatal(err)
	}
	begin, end, err := schedule.Slot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	g, err := l.Claim(ctx, scheduler.Claim{Job: "news", Source: "news", Begin: begin, End: end, Token: "t", ByHand: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Finish(ctx, g, scheduler.Result{Report: scheduler.Report{Items: 9, New: 7}, Err: errors.New("half of it")}); err != nil {
		t.Fatal(err)
	}
	if err := l.Pause(ctx, "news", "tea", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	s := l.Source("news", time.Hour)
	waits := scheduler.Mark{ID: "b", Event: time.Now().Add(-time.Minute)}
	if err := s.Mark(ctx, []scheduler.Mark{{ID: "a", Event: time.Now()}, waits}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Arrive(ctx, "a", 3*time.Second); err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]string{
		"good": `{"ok":"2026-11-22T00:00:00Z","items":30}`, "bad": `{"fails":3,"error":"HTTP 404","items":0}`, "torn": `{"fails":`,
	} {
		if err := s.SetFeed(ctx, name, state, ""); err != nil {
			t.Fatal(err)
		}
	}

	list, err := l.Status(ctx)
	if err != nil || len(list) != 1 || len(list[0].Jobs) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	checkStatus(t, list[0], end, schedule.Reason)
	if _, err := json.Marshal(list); err != nil {
		t.Error(err)
	}
}

// checkStatus of a paused source whose only run failed, with a document that arrived and one that did not.
func checkStatus(t *testing.T, got ledger.SourceStatus, next time.Time, reason string) {
	t.Helper()
	job := got.Jobs[0]
	if got.Paused != "tea" || time.Until(got.PausedUntil) < 50*time.Minute || got.PausedSince.IsZero() {
		t.Errorf("the pause is %q since %v until %v", got.Paused, got.PausedSince, got.PausedUntil)
	}
	if !job.Kept || !job.Next.Equal(next) || job.Report.New != 7 || job.Error != "half of it" || job.Failures != 1 || job.Reason != reason {
		t.Errorf("the job is %+v, its next slot at %v", job, next)
	}
	if f := got.Freshness; f.Documents != 1 || f.P50 != 3 || f.P99 != 3 || f.Awaited != 1 || f.Oldest < 59 || f.Oldest > 600 {
		t.Errorf("freshness is %+v", f)
	}
	if bad := got.Failing(); len(got.Feeds) != 3 || len(bad) != 2 || bad[0].Name != "bad" || bad[0].Error != "HTTP 404" || bad[1].Name != "torn" {
		t.Errorf("feeds are %+v, failing %+v", got.Feeds, bad)
	}
}

// TestStatusOfAJobThatNobodyKeeps: one that the caller names is shown, one that was given up long ago is not.
func TestStatusOfAJobThatNobodyKeeps(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	l, ctx := ledger.New(rdb), t.Context()
	mine := scheduler.Schedule{Job: "dart", Source: "dart", Cron: []string{"*/5 * * * *"}}
	if list, err := l.Status(ctx, mine); err != nil || len(list) != 1 || list[0].Jobs[0].Kept || list[0].Jobs[0].Next.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
	old := `{"Job":"gone","Source":"dart","Cron":["0 0 * * *"],"At":"2020-01-01T00:00:00Z"}`
	if err := rdb.HSet(ctx, "ef:{crawl:dart}:schedules", "gone", old).Err(); err != nil {
		t.Fatal(err)
	}
	if list, err := l.Status(ctx, mine); err != nil || len(list) != 1 || len(list[0].Jobs) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}
