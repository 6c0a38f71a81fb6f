package ledger

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// latencyMemory is how many of the latest latencies are kept per source.
const latencyMemory = 1024

// Oldest implements [scheduler.Waiting].
func (s *Source) Oldest(ctx context.Context, skip, limit int) (ids []string, events []time.Time, err error) {
	list, err := s.rdb.ZRangeWithScores(ctx, awaitedKey(s.name), int64(skip), int64(skip+limit)-1).Result()
	if err != nil {
		return nil, nil, fmt.Errorf("reading what is awaited of %s: %w", s.name, err)
	}
	for _, z := range list {
		id, _ := z.Member.(string)
		ids, events = append(ids, id), append(events, time.UnixMilli(int64(z.Score)))
	}
	return ids, events, nil
}

// Awaited returns how many documents were enqueued and are not known to be stored, and the oldest's event.
func (s *Source) Awaited(ctx context.Context) (n int64, oldest time.Time, err error) {
	n, err = s.rdb.ZCard(ctx, awaitedKey(s.name)).Result()
	if err != nil {
		return 0, oldest, fmt.Errorf("counting what is awaited of %s: %w", s.name, err)
	}
	_, events, err := s.Oldest(ctx, 0, 1)
	if len(events) > 0 {
		oldest = events[0]
	}
	return n, oldest, err
}

// Arrive implements [scheduler.Waiting].
func (s *Source) Arrive(ctx context.Context, id string, latency time.Duration) (bool, error) {
	n, err := s.rdb.ZRem(ctx, awaitedKey(s.name), id).Result()
	if err != nil {
		return false, fmt.Errorf("taking a document of %s off the awaited: %w", s.name, err)
	}
	if n == 0 {
		return false, nil
	}
	key := latenciesKey(s.name)
	_, err = s.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.LPush(ctx, key, latency.Milliseconds())
		pipe.LTrim(ctx, key, 0, latencyMemory-1)
		return nil
	})
	if err != nil {
		return true, fmt.Errorf("writing a latency of %s down: %w", s.name, err)
	}
	return true, nil
}

// Forget implements [scheduler.Waiting].
func (s *Source) Forget(ctx context.Context, id string) (bool, error) {
	n, err := s.rdb.ZRem(ctx, awaitedKey(s.name), id).Result()
	if err != nil {
		return false, fmt.Errorf("forgetting a document of %s: %w", s.name, err)
	}
	return n > 0, nil
}

// A Latency sums up the latest documents of a source: from event to readable vectors.
type Latency struct {
	Documents     int
	P50, P95, P99 time.Duration
}

// Latency returns the quantiles of the latest documents, at most 1024 of them.
func (s *Source) Latency(ctx context.Context) (Latency, error) {
	texts, err := s.rdb.LRange(ctx, latenciesKey(s.name), 0, -1).Result()
	if err != nil {
		return Latency{}, fmt.Errorf("reading the latencies of %s: %w", s.name, err)
	}
	all := make([]time.Duration, 0, len(texts))
	for _, text := range texts {
		if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
			all = append(all, time.Duration(ms)*time.Millisecond)
		}
	}
	slices.Sort(all)
	return Latency{Documents: len(all), P50: quantile(all, .50), P95: quantile(all, .95), P99: quantile(all, .99)}, nil
}

// quantile returns the nearest rank of a sorted list, 0 of an empty one.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1]
}
