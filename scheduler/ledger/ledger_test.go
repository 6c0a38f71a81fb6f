package ledger_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// TestOneOfManyIsGranted on a real Redis, whose Lua writes numbers in another way than the fake's.
func TestOneOfManyIsGranted(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	l := ledger.New(rdb)
	begin := time.Now().Truncate(time.Hour)
	claim := func(token string) scheduler.Grant {
		g, err := l.Claim(t.Context(), scheduler.Claim{Job: "j", Source: "s", Begin: begin, End: begin.Add(2 * time.Hour), Token: token})
		if err != nil {
			t.Error(err)
		}
		return g
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	answers := map[scheduler.Answer]int{}
	var granted scheduler.Grant
	for i := range 20 {
		wg.Go(func() {
			g := claim(fmt.Sprint(i))
			mu.Lock()
			defer mu.Unlock()
			answers[g.Answer]++
			if g.Answer == scheduler.Granted {
				granted = g
			}
		})
	}
	wg.Wait()
	if answers[scheduler.Granted] != 1 || answers[scheduler.Busy] != 19 {
		t.Fatalf("answers %v", answers)
	}
	if d := time.Since(granted.Now); d < -time.Second || d > time.Minute || granted.Attempt != 1 || !granted.Since.IsZero() {
		t.Errorf("%+v", granted)
	}
	if err := l.Renew(t.Context(), granted); err != nil {
		t.Error(err)
	}
	other := granted
	other.Token = "nobody's"
	if err := l.Renew(t.Context(), other); !errors.Is(err, scheduler.ErrLost) {
		t.Errorf("renewing another's lease: %v", err)
	}
	if err := l.Finish(t.Context(), other, scheduler.Result{}); !errors.Is(err, scheduler.ErrLost) {
		t.Errorf("ending another's slot: %v", err)
	}
	if err := l.Finish(t.Context(), granted, scheduler.Result{Report: scheduler.Report{New: 7}}); err != nil {
		t.Fatal(err)
	}
	if g := claim("late"); g.Answer != scheduler.Done || !g.Since.Equal(begin) {
		t.Errorf("%+v, want done, and the slot as last success", g)
	}
	if s, err := l.Job(t.Context(), "s", "j"); err != nil || s.Report.New != 7 || !s.LastOK.Equal(begin) || s.Running != "" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	s := ledger.New(testkit.Redis(t)).Source("dart", time.Hour)
	ctx := t.Context()
	take := func(want int) {
		t.Helper()
		if n, err := s.Take(ctx, "who", "20261122", 1); err != nil || n != want {
			t.Errorf("Take = %d, %v, want %d", n, err, want)
		}
	}
	take(1)
	take(2)
	if err := s.Block(ctx, "who", "20261122"); err != nil {
		t.Fatal(err)
	}
	if n, blocked, err := s.Calls(ctx, "who", "20261122"); n != 2 || !blocked || err != nil {
		t.Errorf("Calls = %d, %t, %v", n, blocked, err)
	}
	for range 2 { // the second time there is nothing to do
		if err := s.Unblock(ctx, "who", "20261122"); err != nil {
			t.Fatal(err)
		}
	}
	take(3)
	if n, blocked, err := s.Calls(ctx, "who", "20261123"); n != 0 || blocked || err != nil {
		t.Errorf("on another day Calls = %d, %t, %v", n, blocked, err)
	}
}

func TestSeenIsForgottenInTime(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := ledger.New(rdb).Source("x", time.Hour)
	ctx := t.Context()
	if err := s.Mark(ctx, []scheduler.Mark{{ID: "a", Names: []string{"a", "title:a"}, Latest: "k"}}); err != nil {
		t.Fatal(err)
	}
	if known, err := s.Seen(ctx, []string{"b", "title:a", "a"}); err != nil || fmt.Sprint(known) != "[false true true]" {
		t.Errorf("%v, %v", known, err)
	}
	if ids, err := s.Latest(ctx, []string{"k", "other"}); err != nil || fmt.Sprint(ids) != "[a ]" {
		t.Errorf("%q, %v", ids, err)
	}
	rdb.ZAdd(ctx, "ef:{crawl:x}:seen", member(time.Now().Add(-2*time.Hour), "old"))
	if err := s.Mark(ctx, []scheduler.Mark{{ID: "b", Names: []string{"b"}}}); err != nil {
		t.Fatal(err)
	}
	if known, err := s.Seen(ctx, []string{"old", "a", "b"}); err != nil || fmt.Sprint(known) != "[false true true]" {
		t.Errorf("%v, %v", known, err)
	}
}

func TestCompaniesAreReplacedWhole(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := ledger.New(rdb).Source("dart", time.Hour)
	fill := func(codes ...string) func(func(code, stock, name string) error) error {
		return func(put func(code, stock, name string) error) error {
			for _, c := range codes {
				if err := put(c, "0068Y0", "가상 "+c); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if n, err := s.ReplaceCompanies(t.Context(), fill("1", "2")); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := s.ReplaceCompanies(t.Context(), fill("3")); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := s.ReplaceCompanies(t.Context(), fill()); err == nil {
		t.Error("an empty list replaced a full one")
	}
	got := rdb.HGetAll(t.Context(), "ef:{crawl:dart}:companies").Val()
	if fmt.Sprint(got) != "map[3:0068Y0 가상 3]" || rdb.Exists(t.Context(), "ef:{crawl:dart}:companies:draft").Val() != 0 {
		t.Errorf("%v", got)
	}
}

func TestBackfillProgress(t *testing.T) {
	t.Parallel()
	s := ledger.New(testkit.Redis(t)).Source("dart", time.Hour)
	if d, err := s.Done(t.Context(), "x"); err != nil || d != (scheduler.Progress{}) {
		t.Errorf("%+v, %v", d, err)
	}
	want := scheduler.Progress{Next: time.Date(2021, 1, 2, 0, 0, 0, 0, scheduler.KST), Documents: 5, Requests: 2}
	if err := s.SetDone(t.Context(), "x", want); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Done(t.Context(), "x"); err != nil || d != want {
		t.Errorf("%+v, %v, want %+v", d, err, want)
	}
}
