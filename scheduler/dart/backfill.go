package dart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// Marker remembers how far backfills came.
type Marker interface {
	Done(ctx context.Context, name string) (scheduler.Progress, error)
	SetDone(ctx context.Context, name string, d scheduler.Progress) error
}

// A BackfillStatus is told after each day and while nothing can be done.
type BackfillStatus struct {
	scheduler.Progress
	From, To time.Time
	Left     time.Duration // an estimate, 0 while there is none
	Waiting  string        // why nothing happens, "" while it does
}

// BackfillParts are what a backfill works with. All but Depth are needed.
type BackfillParts struct {
	Client Lister
	Outbox scheduler.Outbox // its lane should be the backfill one
	Marker Marker
	Filter Filter
	// Depth returns how many tasks wait already; while they are more than MaxDepth, no more are added.
	Depth    func(ctx context.Context) (int64, error)
	MaxDepth int64
	Every    time.Duration // between calls
}

// A Backfill brings the filings of past days into the fleet, a day at a time, the oldest first. A day is
// written down when it is done, so that a backfill that was stopped goes on there. Two of one name at once
// do the work twice and harm nothing.
type Backfill struct {
	log   *slog.Logger
	parts BackfillParts
	sweep *Sweeper
}

// NewBackfill returns one. It does no I/O.
func NewBackfill(log *slog.Logger, p BackfillParts) *Backfill {
	links := &pastLinks{Memory: p.Outbox.Memory, latest: map[string]string{}}
	out := p.Outbox
	out.Memory = links
	return &Backfill{log: log, parts: p, sweep: NewSweeper(log, SweepParts{
		Client: &paced{Lister: p.Client, every: p.Every}, Outbox: out, Links: links, Filter: p.Filter,
	})}
}

// Name is that of a backfill of a range of days.
func Name(from, to time.Time) string { return from.Format("20060102") + "-" + to.Format("20060102") }

// Run hands in the filings of the days from and to and all between. When the day's quota is used up it waits
// for the next day. tell may be nil.
func (b *Backfill) Run(ctx context.Context, from, to time.Time, tell func(BackfillStatus)) error {
	if tell == nil {
		tell = func(BackfillStatus) {}
	}
	name := Name(from, to)
	done, err := b.parts.Marker.Done(ctx, name)
	if err != nil {
		return err
	}
	if done.Next.IsZero() {
		done.Next = from
	}
	status := BackfillStatus{From: from, To: to, Progress: done}
	began, first := time.Now(), done.Next
	for !status.Next.After(to) {
		if err := b.room(ctx, &status, tell); err != nil {
			return err
		}
		if err := b.day(ctx, &status, tell); err != nil {
			return fmt.Errorf("backfilling %s: %w", status.Next.Format(time.DateOnly), err)
		}
		status.Next = status.Next.AddDate(0, 0, 1)
		if err := b.parts.Marker.SetDone(ctx, name, status.Progress); err != nil {
			return err
		}
		days := status.Next.Sub(first).Hours() / 24
		left := to.AddDate(0, 0, 1).Sub(status.Next).Hours() / 24
		status.Left = time.Duration(float64(time.Since(began)) / days * left)
		tell(status)
	}
	return nil
}

// day does one day, and again if the quota ran out in it.
func (b *Backfill) day(ctx context.Context, status *BackfillStatus, tell func(BackfillStatus)) error {
	// Noon, so that no zone makes it another day; the sweep reads a window of no length: this day.
	at := status.Next.Add(12 * time.Hour)
	for {
		r, err := b.sweep.Run(ctx, scheduler.Tick{Slot: at, Now: at})
		status.Documents += r.New
		status.Requests += r.Requests
		length := waiting(err)
		if length == 0 {
			return err
		}
		wait := *status
		wait.Waiting = err.Error()
		tell(wait)
		if err := pause(ctx, length); err != nil {
			return err
		}
	}
}

// waiting returns how long to wait after an error that passes by itself, 0 for any other: the quota's end
// passes at midnight, a full lane as the workers go on.
func waiting(err error) time.Duration {
	var (
		quota *QuotaError
		full  interface{ Overloaded() bool }
	)
	switch {
	case errors.As(err, &quota):
		return max(time.Until(quota.Until), 0) + time.Minute
	case errors.As(err, &full) && full.Overloaded():
		return 30 * time.Second
	default:
		return 0
	}
}

// room waits until the fleet has worked off enough.
func (b *Backfill) room(ctx context.Context, status *BackfillStatus, tell func(BackfillStatus)) error {
	if b.parts.Depth == nil {
		return nil
	}
	for {
		n, err := b.parts.Depth(ctx)
		if err != nil {
			return fmt.Errorf("asking how much waits: %w", err)
		}
		if n <= b.parts.MaxDepth {
			return nil
		}
		wait := *status
		wait.Waiting = fmt.Sprintf("%d tasks wait for workers, more than %d", n, b.parts.MaxDepth)
		tell(wait)
		if err := pause(ctx, 5*time.Second); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// paced leaves time between calls.
type paced struct {
	Lister
	every time.Duration
	last  time.Time
}

func (p *paced) List(ctx context.Context, q Query) (Page, error) {
	if err := pause(ctx, p.every-time.Since(p.last)); err != nil {
		return Page{}, err
	}
	p.last = time.Now()
	return p.Lister.List(ctx, q)
}

// pastLinks keeps the links between past filings in this process: in Redis they would be as many keys as
// there are documents, for corrections that have all been made. And it does not mark past filings as seen,
// since no sweep looks at their days again.
type pastLinks struct {
	scheduler.Memory

	mu     sync.Mutex
	latest map[string]string
}

func (p *pastLinks) Latest(_ context.Context, keys []string) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make([]string, len(keys))
	for i, key := range keys {
		ids[i] = p.latest[key]
	}
	return ids, nil
}

// Mark keeps the links. What the sweeps may meet again is marked as ever.
func (p *pastLinks) Mark(ctx context.Context, marks []scheduler.Mark) error {
	var recent []scheduler.Mark
	p.mu.Lock()
	for _, m := range marks {
		if m.Latest != "" {
			p.latest[m.Latest] = m.ID
		}
		m.Latest, m.Event = "", time.Time{} // a document of years ago is not late
		if isRecent(m.ID) {
			recent = append(recent, m)
		}
	}
	p.mu.Unlock()
	return p.Memory.Mark(ctx, recent)
}

// isRecent reports whether a receipt bears a date that sweeps look at.
func isRecent(id string) bool {
	number := id[len(Source)+1:]
	at, err := time.ParseInLocation("20060102", number[:min(8, len(number))], scheduler.KST)
	return err != nil || time.Since(at) < KeepSeen
}
