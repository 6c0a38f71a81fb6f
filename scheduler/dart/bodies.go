package dart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// A Fetcher fetches bodies; [Client] is one.
type Fetcher interface {
	Document(ctx context.Context, receipt string, limit int) (string, error)
}

// Bodies says which filings' bodies are embedded too, as documents of their own: "dart:<receipt>#body". The
// fleet cuts them into chunks. Each costs a call of the quota, and a quarterly report a quarter of a million
// tokens, hence the bounds.
type Bodies struct {
	Client  Fetcher
	Filter  Filter
	Reports []string // names begin with one of these; none for all
	MaxText int      // bytes of text that are kept, default 64 kB
	PerRun  int      // bodies fetched in one run, default 50; the rest follows with the next
}

func (b *Bodies) wants(f Filing) bool {
	if !b.Filter.Wants(f) {
		return false
	}
	name, _ := f.Split()
	for _, begin := range b.Reports {
		if strings.HasPrefix(name, begin) {
			return true
		}
	}
	return len(b.Reports) == 0
}

// put fetches and hands in the bodies of filings that were not fetched yet, the oldest first. It asks the
// outbox's memory what is known itself, since fetching to find out would cost a call each.
func (b *Bodies) put(ctx context.Context, log *slog.Logger, out *scheduler.Outbox, filings []Filing, now time.Time) (r scheduler.Report, err error) {
	var wanted []Filing
	var names []string
	for _, f := range slices.Backward(filings) {
		if b.wants(f) {
			wanted, names = append(wanted, f), append(names, bodyID(f))
		}
	}
	known, err := out.Memory.Seen(ctx, names)
	if err != nil {
		return r, fmt.Errorf("asking which bodies are known: %w", err)
	}
	left := b.PerRun
	if left <= 0 {
		left = 50
	}
	for i, f := range wanted {
		if known[i] || left == 0 {
			continue
		}
		left--
		one, err := b.one(ctx, log, out, f, now)
		r.Add(one)
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

func bodyID(f Filing) string { return f.ID() + "#body" }

// one fetches a body and hands it in. One that can never be read is marked and forgotten.
func (b *Bodies) one(ctx context.Context, log *slog.Logger, out *scheduler.Outbox, f Filing, now time.Time) (scheduler.Report, error) {
	limit := b.MaxText
	if limit <= 0 {
		limit = 64 << 10
	}
	text, err := b.Client.Document(ctx, f.Receipt, limit)
	var (
		status *StatusError
		bomb   *BombError
	)
	switch {
	case err == nil && text != "":
	case err == nil, errors.As(err, &bomb), errors.As(err, &status) && status.Status.Action() == Missing:
		log.Info("filing has no readable body", "receipt", f.Receipt, "err", err)
		mark := scheduler.Mark{ID: bodyID(f), Names: []string{bodyID(f)}}
		r := scheduler.Report{}
		r.Drop("no_body", 1)
		return r, out.Memory.Mark(ctx, []scheduler.Mark{mark})
	case concernsAll(err):
		return scheduler.Report{}, err
	default: // the next run tries again
		log.Warn("fetching a body failed", "receipt", f.Receipt, "err", err)
		r := scheduler.Report{}
		r.Fail("body")
		return r, nil
	}
	d := f.Document(now)
	d.ID, d.Text = bodyID(f), text
	d.Fields["part"], d.Fields["of"] = "body", f.ID()
	return out.Put(ctx, []scheduler.Item{{Document: d, Event: now}})
}

// concernsAll reports whether the next call would meet the same error.
func concernsAll(err error) bool {
	var (
		quota  *QuotaError
		status *StatusError
	)
	if errors.As(err, &status) {
		a := status.Status.Action()
		return a == StopSource || a == NextTick
	}
	return errors.As(err, &quota) || errors.Is(err, context.Canceled)
}
