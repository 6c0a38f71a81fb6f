package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

var every5 = scheduler.Schedule{Job: "dart", Source: "dart", Cron: []string{"*/5 * * * *"}, Window: time.Hour}

// A diary is what the replicas of a test did, in order.
type diary struct {
	mu    sync.Mutex
	runs  []scheduler.Tick
	times []time.Time
	took  time.Duration     // of each run
	fail  func(n int) error // of the n-th run, from 1
	skips []string
}

func (d *diary) job(s scheduler.Schedule) scheduler.Job {
	return scheduler.Job{Schedule: s, Timeout: time.Hour, Do: func(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
		select {
		case <-ctx.Done():
			return scheduler.Report{}, context.Cause(ctx)
		case <-time.After(d.took):
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.runs = append(d.runs, t)
		d.times = append(d.times, time.Now())
		if d.fail != nil {
			return scheduler.Report{New: 1}, d.fail(len(d.runs))
		}
		return scheduler.Report{New: 1}, nil
	}}
}

func (*diary) Ran(string, string, scheduler.Report, time.Duration) {}

func (d *diary) Skipped(_, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.skips = append(d.skips, why)
}

// slots returns the names of the slots that ran, in order.
func (d *diary) slots() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, r := range d.runs {
		list = append(list, r.Slot.UTC().Format("15:04"))
	}
	return list
}

// A replica is one scheduler process.
type replica struct {
	rdb  *redis.Client
	stop context.CancelFunc
	done chan struct{}
}

func start(t *testing.T, m *miniredis.Miniredis, d *diary, schedules ...scheduler.Schedule) *replica {
	t.Helper()
	rdb := testkit.MiniClient(t, m)
	var jobs []scheduler.Job
	for _, s := range schedules {
		jobs = append(jobs, d.job(s))
	}
	s, err := scheduler.New(ledger.New(rdb), jobs, &scheduler.Options{Logger: testkit.Logger(t), Observer: d})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &replica{rdb: rdb, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return r
}

func (r *replica) end() {
	r.stop()
	<-r.done
}

// kill ends a replica as kill -9 does: what it has not written yet, it never will.
func (r *replica) kill() {
	_ = r.rdb.Close()
	r.end()
}

// bubble runs f on fake time that begins on a full hour.
func bubble(t *testing.T, f func(t *testing.T, m *miniredis.Miniredis)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, _ := testkit.MiniRedis(t)
		f(t, m)
	})
}

// want lists slots from first on, every 5 minutes.
func want(first string, n int) []string {
	at, _ := time.Parse("15:04", first)
	list := make([]string, n)
	for i := range list {
		list[i] = at.Add(time.Duration(i) * 5 * time.Minute).Format("15:04")
	}
	return list
}

func TestTwoReplicasRunEachSlotOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{took: 3 * time.Second}
		a, b := start(t, m, d, every5), start(t, m, d, every5)
		time.Sleep(3*time.Hour + time.Minute)
		a.end()
		b.end()
		if got, want := d.slots(), want("00:00", 37); !slices.Equal(got, want) {
			t.Errorf("slots %v\nwant  %v", got, want)
		}
		for i, tick := range d.runs {
			if late := d.times[i].Sub(tick.Slot); late > 4*time.Second {
				t.Errorf("slot %v was done %v after it began", tick.Slot, late)
			}
			if i > 0 && !tick.Since.Equal(d.runs[i-1].Slot) {
				t.Errorf("slot %v: since %v, want the slot before", tick.Slot, tick.Since)
			}
		}
	})
}

func TestTheCurrentSlotIsCaughtUpAtStart(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{}
		r := start(t, m, d, every5)
		time.Sleep(6 * time.Minute)
		r.end()
		time.Sleep(38 * time.Minute) // nobody there; now 00:44
		r = start(t, m, d, every5)
		time.Sleep(30 * time.Second)
		r.end()
		if got, want := d.slots(), []string{"00:00", "00:05", "00:40"}; !slices.Equal(got, want) {
			t.Errorf("slots %v, want %v", got, want)
		}
		if last := d.runs[2]; last.Now.Sub(last.From()) != time.Hour {
			t.Errorf("the run looks back to %v, want its window, which is longer than the gap", last.From())
		}
		time.Sleep(3 * time.Hour)
		r = start(t, m, d, every5)
		time.Sleep(30 * time.Second)
		r.end()
		if last := d.runs[3]; last.From().UTC().Format("15:04") != "00:40" {
			t.Errorf("the run after the gap looks back to %v, want to the last success", last.From())
		}
	})
}

func TestRedisDownAtATick(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{}
		a, b := start(t, m, d, every5), start(t, m, d, every5)
		time.Sleep(9*time.Minute + 50*time.Second)
		m.SetError("LOADING Redis is loading") // over the tick of 00:10
		time.Sleep(2 * time.Minute)
		m.SetError("")
		time.Sleep(3 * time.Minute)
		m.SetError("LOADING Redis is loading") // over the whole slot 00:15, from 00:14:50 on
		time.Sleep(6 * time.Minute)
		m.SetError("")
		time.Sleep(5 * time.Minute)
		a.end()
		b.end()
		if got, want := d.slots(), []string{"00:00", "00:05", "00:10", "00:20", "00:25"}; !slices.Equal(got, want) {
			t.Errorf("slots %v, want %v", got, want)
		}
		if late := d.times[2].Sub(d.runs[2].Slot); late < time.Minute || late > 3*time.Minute {
			t.Errorf("slot 00:10 ran %v after its beginning, want soon after Redis came back", late)
		}
		if !slices.Contains(d.skips, "unreachable") {
			t.Errorf("skips %v do not tell of the missed slot", d.skips)
		}
	})
}

func TestAKilledReplicasSlotIsTakenOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{took: 20 * time.Second}
		a := start(t, m, d, every5)
		time.Sleep(10 * time.Second)
		b := start(t, m, d, every5)
		a.kill() // in the middle of slot 00:00
		time.Sleep(2 * time.Minute)
		b.end()
		if got := d.slots(); !slices.Equal(got, []string{"00:00"}) {
			t.Fatalf("slots %v", got)
		}
		if d.times[0].Sub(d.runs[0].Slot) > scheduler.LeaseTime+25*time.Second {
			t.Errorf("taken over at %v", d.times[0])
		}
	})
}

func TestASlowRunIsNotStacked(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{took: 12 * time.Minute}
		a, b := start(t, m, d, every5), start(t, m, d, every5)
		time.Sleep(33 * time.Minute)
		a.end()
		b.end()
		if got, want := d.slots(), []string{"00:00", "00:10"}; !slices.Equal(got, want) {
			t.Errorf("slots %v, want %v: 00:05 is skipped, 00:10 was current when the first ended", got, want)
		}
		if !slices.Contains(d.skips, "slow") {
			t.Errorf("skips %v do not name the slow run", d.skips)
		}
	})
}

// setBack makes Redis's clock show an earlier time from now on, and still run.
func setBack(t *testing.T, m *miniredis.Miniredis, by time.Duration) (stop func()) {
	t.Helper()
	quit, done := make(chan struct{}), make(chan struct{})
	m.SetTime(time.Now().Add(-by))
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(50 * time.Millisecond):
				m.SetTime(time.Now().Add(-by))
			}
		}
	}()
	return func() { close(quit); <-done }
}

func TestRedissClockJumpsBackAnHour(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{took: time.Second}
		a, b := start(t, m, d, every5), start(t, m, d, every5)
		time.Sleep(92 * time.Minute)
		stop := setBack(t, m, time.Hour) // 01:32 is 00:32 again
		time.Sleep(90 * time.Minute)     // to 02:02
		a.end()
		b.end()
		stop()
		got := d.slots()
		if len(got) > 19 && got[19] == "00:30" { // Redis's clock moves in steps of 50 ms here, and may not have come to 00:35
			got = slices.Delete(slices.Clone(got), 19, 20)
		}
		if w := append(want("00:00", 19), want("00:35", 18)...); !slices.Equal(got, w) {
			t.Errorf("slots %v\nwant  %v", got, w)
		}
		for i := 1; i < len(d.times); i++ {
			if gap := d.times[i].Sub(d.times[i-1]); gap > 9*time.Minute {
				t.Errorf("nothing ran for %v after slot %d", gap, i-1)
			}
		}
	})
}

func TestFailedRunsAreTriedAgainInTheirSlot(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{fail: func(n int) error {
			if n <= 2 {
				return errors.New("not today")
			}
			return nil
		}}
		r := start(t, m, d, every5)
		time.Sleep(6 * time.Minute)
		r.end()
		if got, want := d.slots(), []string{"00:00", "00:00", "00:00", "00:05"}; !slices.Equal(got, want) {
			t.Errorf("slots %v, want %v", got, want)
		}
	})
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{fail: func(int) error { return errors.New("never") }}
		a, b := start(t, m, d, every5), start(t, m, d, every5)
		time.Sleep(4*time.Minute + 55*time.Second)
		a.end()
		b.end()
		if got := len(d.slots()); got != scheduler.MaxAttempts {
			t.Errorf("%d attempts of two replicas together, want %d", got, scheduler.MaxAttempts)
		}
		s, err := ledger.New(testkit.MiniClient(t, m)).Job(t.Context(), "dart", "dart")
		if err != nil || s.Error != "never" || s.Failures != scheduler.MaxAttempts {
			t.Errorf("state %+v, %v", s, err)
		}
	})
}

func TestAPanicIsAFailure(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{fail: func(n int) error {
			if n == 1 {
				panic("bug")
			}
			return nil
		}}
		r := start(t, m, d, every5)
		time.Sleep(time.Minute)
		r.end()
		if got := len(d.slots()); got != 2 {
			t.Errorf("%d runs, want a second one after the panic", got)
		}
	})
}

func TestAPauseOfASource(t *testing.T) {
	t.Parallel()
	nightly := scheduler.Schedule{Job: "dart-wide", Source: "dart", Cron: []string{"2-59/5 * * * *"}}
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		until := time.Now().Add(21 * time.Minute)
		d := &diary{fail: func(n int) error {
			if n == 4 { // slot 00:05
				return fmt.Errorf("asking: %w", &scheduler.PauseError{Until: until, Reason: "020: quota"})
			}
			return nil
		}}
		a, b := start(t, m, d, every5, nightly), start(t, m, d, every5, nightly)
		time.Sleep(10 * time.Minute)
		l := ledger.New(testkit.MiniClient(t, m))
		if s, err := l.Job(t.Context(), "dart", "dart"); err != nil || s.Paused != "020: quota" || !s.Until.Equal(until) {
			t.Errorf("state %+v, %v", s, err)
		}
		time.Sleep(18 * time.Minute) // 00:28
		if err := l.Pause(t.Context(), "dart", "by hand", time.Time{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute) // 00:34
		if was, err := l.Resume(t.Context(), "dart"); !was || err != nil {
			t.Errorf("Resume = %t, %v", was, err)
		}
		time.Sleep(2 * time.Minute)
		a.end()
		b.end()
		got := strings.Join(d.slots(), " ")
		// 23:57 is the nightly job's current slot at the start.
		if got != "00:00 23:57 00:02 00:05 00:22 00:25 00:27 00:35" && got != "23:57 00:00 00:02 00:05 00:22 00:25 00:27 00:35" {
			t.Errorf("slots %s", got)
		}
	})
}

func TestRunNow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
		d := &diary{took: time.Second}
		r := start(t, m, d, every5)
		time.Sleep(2 * time.Minute)
		s, err := scheduler.New(ledger.New(testkit.MiniClient(t, m)), []scheduler.Job{d.job(every5)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		report, err := s.RunNow(t.Context(), "dart", time.Now().Add(-30*time.Minute))
		if err != nil || report.New != 1 {
			t.Errorf("RunNow = %+v, %v", report, err)
		}
		time.Sleep(2*time.Minute + 59*time.Second + 500*time.Millisecond) // in the run of 00:05
		if _, err := s.RunNow(t.Context(), "dart", time.Now()); err == nil || !strings.Contains(err.Error(), "under way") {
			t.Errorf("beside another run: %v", err)
		}
		if _, err := s.RunNow(t.Context(), "nope", time.Now()); err == nil {
			t.Error("a job that is not there ran")
		}
		time.Sleep(time.Minute)
		r.end()
		if got, want := d.slots(), []string{"00:00", "23:30", "00:05"}; !slices.Equal(got, want) {
			t.Errorf("slots %v, want %v", got, want)
		}
		if late := d.runs[2]; !late.Since.Equal(late.Slot.Add(-5 * time.Minute)) {
			t.Errorf("a run by hand moved the last success to %v", late.Since)
		}
	})
}

// TestReplicasKilledAtRandom lets three replicas die and come back for eight hours of fake time.
func TestReplicasKilledAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		bubble(t, func(t *testing.T, m *miniredis.Miniredis) {
			chance := rand.New(rand.NewPCG(seed, 1))
			d := &diary{took: 40 * time.Second}
			var live []*replica
			for range 3 {
				live = append(live, start(t, m, d, every5))
			}
			end := time.Now().Add(8 * time.Hour)
			for time.Now().Before(end) {
				time.Sleep(time.Duration(60+chance.IntN(400)) * time.Second)
				i := chance.IntN(len(live))
				live[i].kill()
				time.Sleep(time.Duration(chance.IntN(100)) * time.Second)
				live[i] = start(t, m, d, every5)
			}
			for _, r := range live {
				r.end()
			}
			seen := map[string]int{}
			for _, slot := range d.slots() {
				seen[slot]++
			}
			for slot, n := range seen {
				if n > 2 { // a run that was done when its replica died before it could say so
					t.Errorf("seed %d: slot %s ran %d times", seed, slot, n)
				}
			}
			if len(seen) < 96 {
				t.Errorf("seed %d: %d slots of 96 ran", seed, len(seen))
			}
		})
	}
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 11, 7, 31, 0, scheduler.KST) // a Sunday
	for name, tt := range map[string]struct {
		cron       []string
		begin, end string // UTC
	}{
		"every 5 minutes":  {[]string{"*/5 * * * *"}, "11-22T02:05", "11-22T02:10"},
		"day and night":    {[]string{"*/5 7-19 * * 1-5", "*/30 * * * 0,6"}, "11-22T02:00", "11-22T02:30"},
		"KST, not UTC":     {[]string{"40 3 * * *"}, "11-21T18:40", "11-22T18:40"},
		"once a year":      {[]string{"0 0 1 1 *"}, "12-31T15:00", "12-31T15:00"},
		"on the very tick": {[]string{"7 11 * * *"}, "11-22T02:07", "11-23T02:07"},
	} {
		s := scheduler.Schedule{Job: "j", Source: "s", Cron: tt.cron}
		begin, end, err := s.Slot(at)
		if got := begin.UTC().Format("01-02T15:04"); err != nil || got != tt.begin {
			t.Errorf("%s: slot begins %s, %v, want %s", name, got, err, tt.begin)
		}
		if got := end.UTC().Format("01-02T15:04"); got != tt.end {
			t.Errorf("%s: slot ends %s, want %s", name, got, tt.end)
		}
	}
	if got := scheduler.SlotName("dart", at.Truncate(5*time.Minute)); got != "dart:2026-11-22T02:05Z" {
		t.Errorf("SlotName = %s", got)
	}
	for _, bad := range []scheduler.Schedule{
		{Job: "j", Source: "s"},
		{Job: "j", Source: "s", Cron: []string{"@every 5m"}},
		{Job: "j", Source: "s", Cron: []string{"* * * *"}},
		{Job: "j", Source: "s", Cron: []string{"0 0 31 2 *"}},
		{Source: "s", Cron: []string{"* * * * *"}},
	} {
		if list, err := bad.Next(at, 1); err == nil {
			t.Errorf("%+v: next %v, want an error", bad, list)
		}
	}
	list, err := every5.Next(at, 3)
	if err != nil || len(list) != 3 || list[2].Format("15:04 -0700") != "11:20 +0900" {
		t.Errorf("Next = %v, %v", list, err)
	}
}
