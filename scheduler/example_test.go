package scheduler_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/vector"
)

// A ship is what the example's source knows.
type ship struct {
	Number, Name, Cargo string
	At                  time.Time
}

// harbour crawls the arrivals of a harbour, a document a ship.
type harbour struct {
	outbox   scheduler.Outbox
	arrivals func(ctx context.Context, from, to time.Time) ([]ship, error)
}

func (h harbour) run(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
	ships, err := h.arrivals(ctx, t.From(), t.Now) // a sweep, not a delta: the window, or back to the last success
	report := scheduler.Report{Requests: 1, Items: len(ships)}
	if err != nil {
		return report, fmt.Errorf("reading the arrivals: %w", err) // the slot is tried again
	}
	var items []scheduler.Item
	for _, s := range ships {
		if s.Name == "" {
			report.Drop("no_name", 1)
			continue
		}
		items = append(items, scheduler.Item{Event: s.At, Document: vector.Document{
			ID: "harbour:" + s.Number, Text: s.Name + " " + s.Cargo, Source: "harbour", PublishedAt: s.At,
		}})
	}
	put, err := h.outbox.Put(ctx, items) // what is known costs nothing
	report.Add(put)
	return report, err
}

var arrivals = scheduler.Schedule{
	Job: "harbour", Source: "harbour", Cron: []string{"*/15 * * * *"}, Window: 24 * time.Hour,
	Reason: "ships report a quarter of an hour before they arrive",
}

// TestTheExampleInTheDocs runs the source that docs/add-a-source.md shows, as it stands there.
func TestTheExampleInTheDocs(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/add-a-source.md")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(doc), "```go\n")
	code, _, found := strings.Cut(code, "```")
	if !found || !strings.Contains(string(own), code) {
		t.Error("the document's code is not this file's")
	}

	_, rdb := testkit.MiniRedis(t)
	l := ledger.New(rdb)
	c := &crash{Source: l.Source("harbour", time.Hour), client: queue.NewClient(rdb, nil), store: storeredis.New(rdb), at: -1}
	h := harbour{outbox: *c.outbox(t), arrivals: func(context.Context, time.Time, time.Time) ([]ship, error) {
		return []ship{{"1", "무궁화호", "자동차", time.Now()}, {"2", "", "", time.Now()}}, nil
	}}
	s, err := scheduler.New(l, []scheduler.Job{{Schedule: arrivals, Timeout: time.Minute, Do: h.run}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 0} {
		r, err := s.RunNow(t.Context(), "harbour", time.Now())
		if err != nil || r.New != want || r.Reasons["dropped/no_name"] != 1 {
			t.Errorf("run %d: %+v, %v", i, r, err)
		}
	}
}
