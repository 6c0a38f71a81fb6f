package dart

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

const (
	// walks bounds how often the pages of one window are walked when they shift meanwhile. What is still
	// missed then is found by the next sweep.
	walks = 4
	// longestRange is what one query may span; the service allows three months.
	longestRange = 80 * 24 * time.Hour
	// maxPages is far above any window's and keeps a wrong total_page from walking for ever.
	maxPages = 1000
)

// Links knows which report was a company's latest of its name.
type Links interface {
	// Latest returns for each key the id of the latest, "" for none.
	Latest(ctx context.Context, keys []string) ([]string, error)
}

// A Lister answers queries for filings; [Client] is one.
type Lister interface {
	List(ctx context.Context, q Query) (Page, error)
	Traffic() (requests, received int)
}

// SweepParts are what a sweeper works with. All but Filter and Bodies are needed.
type SweepParts struct {
	Client Lister
	Outbox scheduler.Outbox // its Complete is set by the sweeper
	Links  Links
	Filter Filter
	Bodies *Bodies // nil: titles only
}

// A Sweeper brings filings of a window of days into the fleet.
type Sweeper struct {
	log   *slog.Logger
	parts SweepParts
}

// NewSweeper returns one. It does no I/O.
func NewSweeper(log *slog.Logger, p SweepParts) *Sweeper {
	s := &Sweeper{log: log, parts: p}
	s.parts.Outbox.Complete = s.link
	return s
}

// Run reads the tick's window, up to the day of the tick. Whatever was read before a fault is handed in
// before the fault is reported.
func (s *Sweeper) Run(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
	var total scheduler.Report
	calls, received := s.parts.Client.Traffic()
	from, to := t.From(), t.Now
	var err error
	for err == nil && !from.After(to) {
		end := from.Add(longestRange)
		if end.After(to) {
			end = to
		}
		var r scheduler.Report
		r, err = s.days(ctx, from, end, t.Now)
		total.Add(r)
		from = end.Add(24 * time.Hour)
	}
	callsNow, receivedNow := s.parts.Client.Traffic()
	total.Requests, total.Bytes = callsNow-calls, receivedNow-received
	return total, Pausing(err)
}

// days reads and hands in one range.
func (s *Sweeper) days(ctx context.Context, from, to, now time.Time) (scheduler.Report, error) {
	filings, bad, walkErr := s.walk(ctx, Query{From: from, To: to, Class: s.class()})
	if bad > 0 {
		s.log.Warn("rows of the list are unusable", "rows", bad)
	}
	wanted := filings[:0]
	for _, f := range filings {
		if s.parts.Filter.Wants(f) {
			wanted = append(wanted, f)
		}
	}
	r, err := s.put(ctx, wanted, now)
	r.Items = len(filings)
	r.Drop("unusable_row", bad)
	if err != nil {
		return r, fmt.Errorf("handing filings in: %w", err)
	}
	if s.parts.Bodies != nil && walkErr == nil {
		b, err := s.parts.Bodies.put(ctx, s.log, &s.parts.Outbox, wanted, now)
		r.Add(b)
		if err != nil {
			return r, err
		}
	}
	return r, walkErr
}

// class lets the service filter where it can, which saves calls.
func (s *Sweeper) class() string {
	if c := s.parts.Filter.Classes; len(c) == 1 {
		return c
	}
	return ""
}

// put hands filings in, the oldest first, so that a correction follows what it corrects.
func (s *Sweeper) put(ctx context.Context, filings []Filing, now time.Time) (scheduler.Report, error) {
	items := make([]scheduler.Item, 0, len(filings))
	for _, f := range slices.Backward(filings) {
		items = append(items, scheduler.Item{Document: f.Document(now), Event: now, Latest: f.kind()})
	}
	return s.parts.Outbox.Put(ctx, items)
}

// walk returns the filings of all pages, in the order of their first sight, and the number of unusable rows.
// If the total changes on the way, pages have shifted and the walk begins again; what it found before stays.
func (s *Sweeper) walk(ctx context.Context, q Query) (all []Filing, bad int, err error) {
	seen := map[string]bool{}
	for try := 1; try <= walks; try++ {
		shifted := false
		bad = 0
		total := -1
		for q.Page = 1; ; q.Page++ {
			page, err := s.parts.Client.List(ctx, q)
			if err != nil {
				return all, bad, err
			}
			shifted = shifted || total >= 0 && page.Total != total
			total = page.Total
			bad += page.Bad
			for _, f := range page.Filings {
				if !seen[f.Receipt] {
					seen[f.Receipt] = true
					all = append(all, f)
				}
			}
			if q.Page >= min(page.Pages, maxPages) {
				break
			}
		}
		if !shifted {
			return all, bad, nil
		}
		s.log.Debug("pages shifted while they were walked", "walk", try, "total", total)
	}
	return all, bad, nil
}

// link writes into corrections what they correct: the latest earlier report of the company under the same
// name that the fleet has seen. The service itself does not tell. It is scheduler's Complete.
func (s *Sweeper) link(ctx context.Context, items []scheduler.Item) error {
	keys := make([]string, len(items))
	for i, it := range items {
		keys[i] = it.Latest
	}
	known, err := s.parts.Links.Latest(ctx, keys)
	if err != nil {
		return err
	}
	latest := map[string]string{}
	for i, key := range keys {
		latest[key] = known[i]
	}
	for i, it := range items {
		if it.Latest == "" {
			continue
		}
		id, before := it.Document.ID, latest[it.Latest]
		if before != "" && before != id && it.Document.Fields["correction"] != "" {
			it.Document.Fields["corrects"] = before
		}
		if before > id { // published late: it is not the latest
			items[i].Latest = ""
			continue
		}
		latest[it.Latest] = id
	}
	return nil
}
