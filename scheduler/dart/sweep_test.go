package dart

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/tasks"
)

// A fakeFleet is memory, queue, store and links in one, without Redis.
type fakeFleet struct {
	seen   map[string]bool
	latest map[string]string
	tasks  []tasks.Task
	marks  []scheduler.Mark
}

func newFleet() *fakeFleet { return &fakeFleet{seen: map[string]bool{}, latest: map[string]string{}} }

func (f *fakeFleet) Seen(_ context.Context, names []string) ([]bool, error) {
	known := make([]bool, len(names))
	for i, n := range names {
		known[i] = f.seen[n]
	}
	return known, nil
}

func (f *fakeFleet) Mark(_ context.Context, marks []scheduler.Mark) error {
	for _, m := range marks {
		for _, n := range m.Names {
			f.seen[n] = true
		}
		if m.Latest != "" {
			f.latest[m.Latest] = m.ID
		}
	}
	f.marks = append(f.marks, marks...)
	return nil
}

func (f *fakeFleet) Latest(_ context.Context, keys []string) ([]string, error) {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = f.latest[k]
	}
	return ids, nil
}

func (f *fakeFleet) Enqueue(_ context.Context, list []tasks.Task) ([]error, error) {
	f.tasks = append(f.tasks, list...)
	return make([]error, len(list)), nil
}

func (*fakeFleet) TextHashes(_ context.Context, _ string, ids []string) ([]string, error) {
	return make([]string, len(ids)), nil
}

func (f *fakeFleet) outbox(t *testing.T) scheduler.Outbox {
	return scheduler.Outbox{Log: testkit.Logger(t), Alias: "m", Lane: tasks.Live, Memory: f, Queue: f, Store: f}
}

// fields returns a field of each enqueued document, by the document's id.
func (f *fakeFleet) fields(t *testing.T, name string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, task := range f.tasks {
		p, err := tasks.DecodeDocument(task.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if v := p.Document.Fields[name]; v != "" {
			out[p.Document.ID] = v
		}
	}
	return out
}

// A book is a lister whose pages a test turns.
type book struct {
	pages func(call int, q Query) (Page, error)
	calls int
}

func (b *book) List(_ context.Context, q Query) (Page, error) { b.calls++; return b.pages(b.calls, q) }
func (b *book) Traffic() (int, int)                           { return b.calls, 0 }

func filing(n int, report string) Filing {
	return Filing{Receipt: fmt.Sprintf("20220103%06d", n), Date: "20220103", CorpCode: "00000001", CorpName: "가상", Report: report}
}

var aTick = scheduler.Tick{Schedule: scheduler.Schedule{Window: 72 * time.Hour}, Now: time.Date(2022, 1, 3, 10, 0, 0, 0, scheduler.KST)}

// TestPagesShiftWhileTheyAreWalked: an item is withdrawn between two calls, so that the first of page 2 moves
// to page 1 behind the crawler's back.
func TestPagesShiftWhileTheyAreWalked(t *testing.T) {
	t.Parallel()
	before := []Filing{filing(4, "d"), filing(3, "c"), filing(2, "b"), filing(1, "a")}
	after := []Filing{filing(4, "d"), filing(2, "b"), filing(1, "a")}
	b := &book{pages: func(call int, q Query) (Page, error) {
		list := after
		if call == 1 {
			list = before
		}
		from := min(2*(q.Page-1), len(list))
		return Page{Pages: 2, Total: len(list), Filings: list[from:min(from+2, len(list))]}, nil
	}}
	fleet := newFleet()
	r, err := NewSweeper(testkit.Logger(t), SweepParts{Client: b, Outbox: fleet.outbox(t), Links: fleet}).Run(t.Context(), aTick)
	if err != nil || r.New != 4 || b.calls != 4 {
		t.Errorf("%+v, %v, %d calls; want 4 filings, b among them, in 4 calls", r, err, b.calls)
	}
}

func TestRestlessPagesEnd(t *testing.T) {
	t.Parallel()
	b := &book{pages: func(call int, q Query) (Page, error) {
		return Page{Pages: 3, Total: call, Filings: []Filing{filing(q.Page, "a")}}, nil
	}}
	fleet := newFleet()
	r, err := NewSweeper(testkit.Logger(t), SweepParts{Client: b, Outbox: fleet.outbox(t), Links: fleet}).Run(t.Context(), aTick)
	if err != nil || r.New != 3 || b.calls != 3*walks {
		t.Errorf("%+v, %v, %d calls", r, err, b.calls)
	}
}

// TestAFaultOnTheWay: what was read before it is handed in.
func TestAFaultOnTheWay(t *testing.T) {
	t.Parallel()
	b := &book{pages: func(_ int, q Query) (Page, error) {
		if q.Page == 2 {
			return Page{}, &StatusError{"list.json", Maintenance}
		}
		return Page{Pages: 3, Total: 3, Filings: []Filing{filing(q.Page, "a")}}, nil
	}}
	fleet := newFleet()
	r, err := NewSweeper(testkit.Logger(t), SweepParts{Client: b, Outbox: fleet.outbox(t), Links: fleet}).Run(t.Context(), aTick)
	if err == nil || r.New != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestALongGapIsReadInRanges(t *testing.T) {
	t.Parallel()
	var spans []string
	b := &book{pages: func(_ int, q Query) (Page, error) {
		spans = append(spans, q.From.Format("0102")+"-"+q.To.Format("0102"))
		return Page{}, nil
	}}
	tick := aTick
	tick.Since = tick.Now.Add(-100 * 24 * time.Hour)
	fleet := newFleet()
	if _, err := NewSweeper(testkit.Logger(t), SweepParts{Client: b, Outbox: fleet.outbox(t), Links: fleet}).Run(t.Context(), tick); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(spans); got != "[0925-1214 1215-0103]" {
		t.Errorf("ranges %s", got)
	}
}

// TestCorrectionsAreLinked: within a sweep, and to what an earlier one brought.
func TestCorrectionsAreLinked(t *testing.T) {
	t.Parallel()
	day := []Filing{filing(9, "[기재정정]배당결정"), filing(5, "배당결정"), filing(4, "[기재정정]유상증자결정")}
	next := []Filing{filing(12, "[기재정정]배당결정"), filing(3, "배당결정")} // the second is published late
	last := []Filing{filing(15, "[첨부정정]배당결정")}
	fleet := newFleet()
	for _, list := range [][]Filing{day, next, last} {
		b := &book{pages: func(int, Query) (Page, error) { return Page{Pages: 1, Total: len(list), Filings: list}, nil }}
		if _, err := NewSweeper(testkit.Logger(t), SweepParts{Client: b, Outbox: fleet.outbox(t), Links: fleet}).Run(t.Context(), aTick); err != nil {
			t.Fatal(err)
		}
	}
	got := fleet.fields(t, "corrects")
	want := map[string]string{
		filing(9, "").ID(): filing(5, "").ID(), filing(12, "").ID(): filing(9, "").ID(), filing(15, "").ID(): filing(12, "").ID(),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("links %v\nwant  %v", got, want)
	}
}

// A shelf holds bodies.
type shelf map[string]error

func (s shelf) Document(_ context.Context, receipt string, _ int) (string, error) {
	if err := s[receipt]; err != nil {
		return "", err
	}
	return "body of " + receipt, nil
}

func TestBodies(t *testing.T) {
	t.Parallel()
	list := []Filing{filing(4, "사업보고서 (2021.12)"), filing(3, "배당결정"), filing(2, "[기재정정]사업보고서 (2020.12)"), filing(1, "사업보고서 (2019.12)")}
	b := &book{pages: func(int, Query) (Page, error) { return Page{Pages: 1, Total: 4, Filings: list}, nil }}
	faults := shelf{list[0].Receipt: &AnswerError{Code: 502}, list[3].Receipt: &StatusError{"document.xml", NoFile}}
	fleet := newFleet()
	s := NewSweeper(testkit.Logger(t), SweepParts{
		Client: b, Outbox: fleet.outbox(t), Links: fleet,
		Bodies: &Bodies{Client: faults, Reports: []string{"사업보고서"}},
	})
	r, err := s.Run(t.Context(), aTick)
	id := func(i int) string { return list[i].ID() }
	want := scheduler.Report{
		Requests: 1, Items: 4, New: 5, Dropped: 1, Failed: 1, Reasons: map[string]int{"dropped/no_body": 1, "failed/body": 1},
		Brought: []string{id(3), id(2), id(1), id(0), id(2) + "#body"},
	}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	delete(faults, list[0].Receipt)
	r, err = s.Run(t.Context(), aTick)
	if want := (scheduler.Report{Requests: 1, Items: 4, New: 1, Brought: []string{id(0) + "#body"}}); err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("the second time %+v, %v, want %+v", r, err, want)
	}
	if got := fleet.fields(t, "of"); len(got) != 2 || got[list[0].ID()+"#body"] != list[0].ID() {
		t.Errorf("bodies %v", got)
	}
}
