package alike_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/alike"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const alias = "m"

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A desk is a store on a real Redis into which tests put stories as workers do.
type desk struct {
	t     *testing.T
	docs  *storeredis.Store
	marks *ledger.Source
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	rdb := testkit.Redis(t)
	d := &desk{t, storeredis.New(rdb), ledger.New(rdb).Source("news", time.Hour)}
	if err := d.docs.ClaimSpace(t.Context(), alias, "s", store.Keep); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) marker() *alike.Marker {
	return alike.New(slog.New(slog.DiscardHandler), alike.Parts{Alias: alias, Source: "news", Threshold: 0.95, Store: d.docs, Progress: d.marks})
}

// story is published some minutes after noon, its vector at an angle in degrees.
func story(id string, minutes int, angle float64) vector.Record {
	sin, cos := math.Sincos(angle * math.Pi / 180)
	text := "text of " + id
	return vector.Record{
		Document: vector.Document{
			ID: id, Text: text, Source: "news", URL: "https://" + id + ".example/", PublishedAt: noon.Add(time.Duration(minutes) * time.Minute),
			Fields: map[string]string{"feed": "f"},
		},
		Model: alias, Space: "s", TextHash: vector.TextHash(text), Version: noon.UnixNano(),
		Chunks: []vector.Chunk{{End: len(text), Embedding: vector.Embedding{Vector: vector.Vector{float32(cos), float32(sin)}, Tokens: 3}}},
	}
}

func (d *desk) put(list ...vector.Record) {
	d.t.Helper()
	for _, rec := range list {
		if ok, err := d.docs.Put(d.t.Context(), rec); !ok || err != nil {
			d.t.Fatal(ok, err)
		}
	}
}

func (d *desk) run(m *alike.Marker) scheduler.Report {
	d.t.Helper()
	r, err := m.Run(d.t.Context(), scheduler.Tick{Now: noon.Add(time.Hour)})
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// check asserts of which document each is a near duplicate.
func (d *desk) check(want map[string]string) {
	d.t.Helper()
	for id, of := range want {
		rec, err := d.docs.Get(d.t.Context(), alias, id)
		if err != nil {
			d.t.Fatal(err)
		}
		if got := rec.Document.Fields[alike.FieldOf]; got != of {
			d.t.Errorf("%s is marked as %q, want %q", id, got, of)
		}
		if rec.Document.Fields["feed"] != "f" && id != "dart" || len(rec.Chunks) != 1 {
			d.t.Errorf("%s has lost something: %+v", id, rec)
		}
	}
}

func TestNearDuplicatesAreMarked(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	filing := story("dart", 0, 0)
	filing.Document.Source, filing.Document.Fields = "dart", nil
	old := story("old", -3*24*60, 1)
	same := story("same", 4, 0.5)
	same.Document.URL = story("first", 0, 0).Document.URL
	d.put(filing, old, story("second", 2, 10), story("first", 0, 0), story("other", 3, 90), same)
	m := d.marker()
	if r := d.run(m); r.Items != 4 || r.Repeated != 1 {
		t.Errorf("%+v, want one of four news marked", r)
	}
	d.check(map[string]string{"first": "", "second": "first", "other": "", "old": "", "dart": ""})
	rec, err := d.docs.Get(t.Context(), alias, "second")
	if err != nil || rec.Document.Fields[alike.FieldScore] != "0.985" || rec.Version != noon.UnixNano()+1 {
		t.Errorf("%+v, %v", rec.Document.Fields, err)
	}
	if r := d.run(m); r.Repeated != 0 {
		t.Errorf("again: %+v", r)
	}

	// A story that was published earlier and stored later takes the others.
	d.put(story("third", 6, 88), story("before", -1, 89))
	if r := d.run(m); r.Repeated != 2 {
		t.Errorf("%+v, want two marked", r)
	}
	d.check(map[string]string{"other": "before", "third": "before", "before": ""})

	// So does another process, which was not there before.
	d.put(story("late", 30, -1))
	if r := d.run(d.marker()); r.Items != 3 || r.Repeated != 1 { // the marks of before are changes too
		t.Errorf("another process: %+v", r)
	}
	d.check(map[string]string{"late": "first"})
}

// TestAMarkIsMadeAgain when the crawler brings a newer version without it, and the store's log starts anew.
func TestAMarkIsMadeAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.put(story("first", 0, 0), story("second", 2, 1))
	m := d.marker()
	d.run(m)
	newer := story("second", 2, 1)
	newer.Version += 1000
	if ok, err := d.docs.Refresh(t.Context(), newer); !ok || err != nil {
		t.Fatal(ok, err)
	}
	d.check(map[string]string{"second": ""})
	d.run(m)
	d.check(map[string]string{"second": "first"})

	if err := d.docs.ClaimSpace(t.Context(), alias, "t", store.ReEmbed); err != nil {
		t.Fatal(err)
	}
	a, b := story("first", 0, 0), story("second", 2, 60)
	a.Space, b.Space = "t", "t"
	a.Version, b.Version = a.Version+5000, b.Version+5000
	d.put(a, b)
	d.run(m)
	d.check(map[string]string{"first": "", "second": ""})
}

// faulty fails its nth call.
type faulty struct {
	alike.Store
	left int
}

func (f *faulty) Refresh(ctx context.Context, rec vector.Record) (bool, error) {
	if f.left--; f.left == 0 {
		return false, fmt.Errorf("the connection is gone")
	}
	return f.Store.Refresh(ctx, rec)
}

// TestAFaultInTheMiddle costs nothing but another run.
func TestAFaultInTheMiddle(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.put(story("first", 0, 0), story("second", 2, 1), story("third", 3, 2))
	m := alike.New(slog.New(slog.DiscardHandler), alike.Parts{
		Alias: alias, Source: "news", Threshold: 0.95, Store: &faulty{d.docs, 2}, Progress: d.marks,
	})
	if _, err := m.Run(t.Context(), scheduler.Tick{Now: noon}); err == nil {
		t.Fatal("the fault is not told")
	}
	d.run(d.marker())
	d.check(map[string]string{"first": "", "second": "first", "third": "first"})
}
