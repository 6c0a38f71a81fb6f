package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/scheduler"
)

// latestTTL is how long it is remembered which report was a company's latest of its name: a correction may
// follow a yearly report up to the next.
const latestTTL = 400 * 24 * time.Hour

// A Source is the ledger's page of one source. It implements [scheduler.Memory].
type Source struct {
	rdb  redis.UniversalClient
	name string
	keep time.Duration
}

// Source returns the page of a source. Names stay known for keep after they were marked last; that must be
// longer than any window a crawl looks back, for what is forgotten is asked of the store again.
func (l *Ledger) Source(name string, keep time.Duration) *Source {
	return &Source{rdb: l.rdb, name: name, keep: keep}
}

// Seen implements [scheduler.Memory], in one round trip.
func (s *Source) Seen(ctx context.Context, names []string) ([]bool, error) {
	if len(names) == 0 {
		return nil, nil
	}
	// Not ZMSCORE's float slice: go-redis gives 0 for what is missing, and nothing was seen in 1970.
	scores, err := s.rdb.ZMScore(ctx, seenKey(s.name), names...).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the seen-set of %s: %w", s.name, err)
	}
	known := make([]bool, len(scores))
	for i, score := range scores {
		known[i] = score != 0
	}
	return known, nil
}

// Mark implements [scheduler.Memory]: all marks in one transaction.
func (s *Source) Mark(ctx context.Context, marks []scheduler.Mark) error {
	if len(marks) == 0 {
		return nil
	}
	now := time.Now()
	_, err := s.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, m := range marks {
			s.mark(ctx, pipe, m, now)
		}
		old := strconv.FormatInt(now.Add(-s.keep).Unix(), 10)
		pipe.ZRemRangeByScore(ctx, seenKey(s.name), "-inf", old)
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing the seen-set of %s: %w", s.name, err)
	}
	return nil
}

func (s *Source) mark(ctx context.Context, pipe redis.Pipeliner, m scheduler.Mark, now time.Time) {
	for _, name := range m.Names {
		pipe.ZAdd(ctx, seenKey(s.name), redis.Z{Score: float64(now.Unix()), Member: name})
	}
	if !m.Event.IsZero() {
		pipe.ZAddNX(ctx, awaitedKey(s.name), redis.Z{Score: float64(m.Event.UnixMilli()), Member: m.ID})
	}
	if m.Latest != "" {
		pipe.Set(ctx, reportKey(s.name, m.Latest), m.ID, latestTTL)
	}
}

// Latest returns for each key the id that was marked as the latest of its kind, "" for none.
func (s *Source) Latest(ctx context.Context, keys []string) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	cmds := make([]*redis.StringCmd, len(keys))
	_, err := s.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, key := range keys {
			cmds[i] = pipe.Get(ctx, reportKey(s.name, key))
		}
		return nil
	})
	if err != nil && !missing(err) {
		return nil, fmt.Errorf("reading the latest reports of %s: %w", s.name, err)
	}
	ids := make([]string, len(keys))
	for i, cmd := range cmds {
		ids[i] = cmd.Val()
	}
	return ids, nil
}

// Known returns how many names are known.
func (s *Source) Known(ctx context.Context) (int64, error) {
	n, err := s.rdb.ZCard(ctx, seenKey(s.name)).Result()
	if err != nil {
		return 0, fmt.Errorf("counting the seen-set of %s: %w", s.name, err)
	}
	return n, nil
}

// Take counts n calls made by who, a name for a key that is not the key, on a day, and returns the count so
// far. It implements dart's quota together with [Source.Block].
func (s *Source) Take(ctx context.Context, who, day string, n int) (int, error) {
	key := quotaKey(s.name, who, day)
	pipe := s.rdb.TxPipeline()
	count := pipe.IncrBy(ctx, key, int64(n))
	pipe.Expire(ctx, key, 48*time.Hour)
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, fmt.Errorf("counting calls of %s: %w", s.name, err)
	}
	return int(count.Val()), nil
}

// blocked is more calls than any quota allows.
const blocked = 1 << 40

// Block makes every Take of the day answer with more than any quota.
func (s *Source) Block(ctx context.Context, who, day string) error {
	if _, err := s.Take(ctx, who, day, blocked); err != nil {
		return fmt.Errorf("remembering that a quota is used up: %w", err)
	}
	return nil
}

// Unblock undoes [Source.Block] and keeps the count.
func (s *Source) Unblock(ctx context.Context, who, day string) error {
	n, err := s.rdb.Get(ctx, quotaKey(s.name, who, day)).Int64()
	if errors.Is(err, redis.Nil) || err == nil && n < blocked {
		return nil
	}
	if err == nil {
		err = s.rdb.Set(ctx, quotaKey(s.name, who, day), n%blocked, 48*time.Hour).Err()
	}
	if err != nil {
		return fmt.Errorf("lifting the block of %s: %w", s.name, err)
	}
	return nil
}

// Calls returns the calls made by who on a day, and whether the day is blocked.
func (s *Source) Calls(ctx context.Context, who, day string) (n int, isBlocked bool, err error) {
	count, err := s.rdb.Get(ctx, quotaKey(s.name, who, day)).Int64()
	if err != nil && !missing(err) {
		return 0, false, fmt.Errorf("reading the calls of %s: %w", s.name, err)
	}
	return int(count % blocked), count >= blocked, nil
}
