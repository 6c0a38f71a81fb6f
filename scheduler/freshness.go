package scheduler

import (
	"context"
	"log/slog"
	"time"
)

// Waiting is what a source's memory knows of documents that are on their way.
type Waiting interface {
	// Oldest returns ids and events of at most limit documents that were enqueued and are not known to be
	// stored, the oldest first, without the first skip of them.
	Oldest(ctx context.Context, skip, limit int) (ids []string, events []time.Time, err error)
	// Arrive takes one off and reports false if another replica did.
	Arrive(ctx context.Context, id string, latency time.Duration) (bool, error)
	// Forget takes one off that is not waited for any more, and reports false if another replica did.
	Forget(ctx context.Context, id string) (bool, error)
}

const (
	// FreshEvery is how often it is looked.
	FreshEvery = 5 * time.Second
	freshLimit = 500 // documents looked at in one part of a round
	// A document that is not stored by then is a dead letter, or was never wanted by its model.
	freshFor = 24 * time.Hour
)

// A Freshness watches one source's documents until they can be searched. Any number of replicas may watch.
type Freshness struct {
	Log     *slog.Logger
	Alias   string
	Source  string
	Waiting Waiting
	Store   Store
	// Seen is told of each document's way from its event to readable vectors.
	Seen func(source string, latency time.Duration)

	skip int // of the round's second part
}

// Run looks every [FreshEvery] until ctx ends, then returns nil.
func (f *Freshness) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		f.Look(ctx)
		sleep(ctx, FreshEvery)
	}
	return nil
}

// Look looks once. A Redis that is away is logged. The latency of a document that was stored while nobody watched is
// too long by that time.
func (f *Freshness) Look(ctx context.Context) {
	if err := f.look(ctx); err != nil && ctx.Err() == nil {
		f.Log.Warn("measuring freshness failed", "source", f.Source, "err", err)
	}
}

// look looks at the oldest, which are due, and at another part in turn, so that documents that never arrive
// do not hide the others.
func (f *Freshness) look(ctx context.Context) error {
	if _, err := f.part(ctx, 0); err != nil {
		return err
	}
	f.skip += freshLimit
	n, err := f.part(ctx, f.skip)
	if n < freshLimit {
		f.skip = 0
	}
	return err
}

// part looks at some documents and returns how many there were.
func (f *Freshness) part(ctx context.Context, skip int) (int, error) {
	ids, events, err := f.Waiting.Oldest(ctx, skip, freshLimit)
	if err != nil {
		return 0, err
	}
	hashes, err := f.Store.TextHashes(ctx, f.Alias, ids)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	for i, hash := range hashes {
		if err := f.judge(ctx, ids[i], hash, max(0, now.Sub(events[i]))); err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}

func (f *Freshness) judge(ctx context.Context, id, hash string, age time.Duration) error {
	switch {
	case hash != "":
		mine, err := f.Waiting.Arrive(ctx, id, age)
		if mine {
			f.Seen(f.Source, age)
		}
		return err
	case age > freshFor:
		mine, err := f.Waiting.Forget(ctx, id)
		if mine {
			f.Log.Error("document was enqueued and never stored, see the dead letters", "document", id, "age", age)
		}
		return err
	default:
		return nil
	}
}
