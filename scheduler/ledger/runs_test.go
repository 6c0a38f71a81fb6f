package ledger_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// TestRunsAreRemembered with what they brought and why they failed, for thirty days.
func TestRunsAreRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, rdb := testkit.MiniRedis(t)
		l, ctx := ledger.New(rdb), t.Context()
		s := scheduler.Schedule{Job: "news", Source: "news", Cron: []string{"*/10 * * * *"}}
		if err := l.Announce(ctx, []scheduler.Schedule{s}); err != nil {
			t.Fatal(err)
		}
		report := scheduler.Report{Requests: 3, Items: 9, New: 2, Updated: 1, Brought: []string{"news:a", "news:b"}}
		report.Repeat("same_title")
		report.Drop("no_title", 2)
		report.Fail("http_503")
		run := func(result scheduler.Result) {
			begin, end, err := s.Slot(time.Now())
			if err != nil {
				t.Fatal(err)
			}
			g, err := l.Claim(ctx, scheduler.Claim{Job: "news", Source: "news", Begin: begin, End: end, Token: fmt.Sprint(time.Now().UnixNano())})
			if err != nil || g.Answer != scheduler.Granted {
				t.Fatal(g.Answer, err)
			}
			time.Sleep(3 * time.Second)
			if err := l.Finish(ctx, g, result); err != nil {
				t.Fatal(err)
			}
		}
		run(scheduler.Result{Report: report})
		time.Sleep(10 * time.Minute)
		run(scheduler.Result{Err: errors.New(strings.Repeat("가", 300))})
		run(scheduler.Result{Released: true, Err: errors.New("stops")})
		runs, err := l.RunsOf(ctx, "news", time.Time{}, 10)
		if err != nil || len(runs) != 3 {
			t.Fatalf("%+v, %v", runs, err)
		}
		outcomes := fmt.Sprint(runs[0].Outcome, runs[0].Attempt, " ", runs[1].Outcome, runs[1].Attempt, " ", runs[2].Outcome, runs[2].Attempt)
		if first := runs[2]; outcomes != "released2 failed1 done1" || first.Took() != 3*time.Second || !reflect.DeepEqual(first.Report, report) || !strings.HasPrefix(first.Slot, "news:") {
			t.Errorf("%s, %+v", outcomes, first)
		}
		if e := runs[1].Error; len(e) > 510 || !strings.HasSuffix(e, "가…") {
			t.Errorf("error of %d bytes", len(e))
		}
		if older, err := l.Runs(ctx, "news", "news", runs[1].Ended, 10); err != nil || len(older) != 1 {
			t.Errorf("before the second: %+v, %v", older, err)
		}
		time.Sleep(ledger.History - 5*time.Minute)
		run(scheduler.Result{})
		if runs, err = l.RunsOf(ctx, "news", time.Time{}, 10); err != nil || len(runs) != 3 {
			t.Errorf("after a month there are %d, %v", len(runs), err)
		}
	})
}
