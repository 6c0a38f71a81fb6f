package dart

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
)

type marker map[string]scheduler.Progress

func (m marker) Done(_ context.Context, name string) (scheduler.Progress, error) { return m[name], nil }
func (m marker) SetDone(_ context.Context, name string, d scheduler.Progress) error {
	m[name] = d
	return nil
}

// TestBackfillGoesOnWhereItStopped: a fault on the third day, the quota's end on the fifth, workers behind.
func TestBackfillGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from := time.Date(1999, 1, 1, 0, 0, 0, 0, scheduler.KST)
		to := from.AddDate(0, 0, 9)
		fault, spent, depth := true, true, int64(100)
		var days []string
		b := &book{pages: func(_ int, q Query) (Page, error) {
			day := q.From.In(scheduler.KST).Format("20060102")
			days = append(days, day[6:])
			if q.From.In(scheduler.KST).Format("20060102") != q.To.In(scheduler.KST).Format("20060102") {
				t.Errorf("%v to %v is not a day", q.From, q.To)
			}
			if fault && day == "19990103" {
				return Page{}, &StatusError{"list.json", Maintenance}
			}
			if spent && day == "19990105" {
				spent = false
				return Page{}, &QuotaError{Until: time.Now().Add(time.Hour)}
			}
			f := Filing{Receipt: day + "000001", Date: day, CorpCode: "1", CorpName: "가상", Report: "[기재정정]배당결정"}
			return Page{Pages: 1, Total: 1, Filings: []Filing{f}}, nil
		}}
		fleet, marks := newFleet(), marker{}
		parts := BackfillParts{
			Client: b, Outbox: fleet.outbox(t), Marker: marks, Every: 200 * time.Millisecond, MaxDepth: 50,
			Depth: func(context.Context) (int64, error) { depth -= 20; return depth, nil },
		}
		err := NewBackfill(testkit.Logger(t), parts).Run(t.Context(), from, to, nil)
		var status *StatusError
		if !errors.As(err, &status) || marks[Name(from, to)].Next != from.AddDate(0, 0, 2) {
			t.Fatalf("%v, %+v", err, marks)
		}
		fault = false
		var waits int
		var last BackfillStatus
		err = NewBackfill(testkit.Logger(t), parts).Run(t.Context(), from, to, func(s BackfillStatus) {
			if s.Waiting != "" {
				waits++
			}
			last = s
		})
		if err != nil || last.Documents != 10 || last.Left != 0 || waits != 1 {
			t.Errorf("%v, %+v, %d waits", err, last, waits)
		}
		if got, want := fmt.Sprint(days), "[01 02 03 03 04 05 05 06 07 08 09 10]"; got != want {
			t.Errorf("days %s, want %s", got, want)
		}
		if len(fleet.tasks) != 10 || len(fleet.seen) != 0 || len(fleet.latest) != 0 {
			t.Errorf("%d tasks; %d names and %d links in Redis, want none", len(fleet.tasks), len(fleet.seen), len(fleet.latest))
		}
		if got := fleet.fields(t, "corrects"); len(got) != 8 { // of its own run, see pastLinks
			t.Errorf("links %v", got)
		}
	})
}
