package ledger

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/scheduler"
)

// Feeds returns what is remembered of each feed, by name.
func (s *Source) Feeds(ctx context.Context) (map[string]string, error) {
	states, err := s.rdb.HGetAll(ctx, feedsKey(s.name)).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the feeds of %s: %w", s.name, err)
	}
	return states, nil
}

// Recall returns what a part of the source brought lately, as SetFeed or SetRecall was given it, "" for nothing.
func (s *Source) Recall(ctx context.Context, name string) (string, error) {
	text, err := s.rdb.HGet(ctx, recallKey(s.name), name).Result()
	if err != nil && !missing(err) {
		return "", fmt.Errorf("reading what %s brought: %w", name, err)
	}
	return text, nil
}

// SetRecall writes it down.
func (s *Source) SetRecall(ctx context.Context, name, recall string) error {
	if err := s.rdb.HSet(ctx, recallKey(s.name), name, recall).Err(); err != nil {
		return fmt.Errorf("writing down what %s brought: %w", name, err)
	}
	return nil
}

// SetFeed remembers a feed's state and, unless that is empty, what it brought, in one step.
func (s *Source) SetFeed(ctx context.Context, name, state, recall string) error {
	_, err := s.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, feedsKey(s.name), name, state)
		if recall != "" {
			pipe.HSet(ctx, recallKey(s.name), name, recall)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing feed %s down: %w", name, err)
	}
	return nil
}

// Done returns how far the backfill of a name came; it implements dart's Marker with [Source.SetDone].
func (s *Source) Done(ctx context.Context, name string) (d scheduler.Progress, err error) {
	fields, err := s.rdb.HGetAll(ctx, backfillKey(s.name, name)).Result()
	if err != nil {
		return d, fmt.Errorf("reading backfill %s: %w", name, err)
	}
	if fields["next"] == "" {
		return d, nil
	}
	if d.Next, err = time.Parse(time.RFC3339, fields["next"]); err != nil {
		return d, fmt.Errorf("reading backfill %s: %w", name, err)
	}
	d.Next = d.Next.In(scheduler.KST)
	d.Documents, _ = strconv.Atoi(fields["documents"]) // ours
	d.Requests, _ = strconv.Atoi(fields["requests"])
	return d, nil
}

// SetDone writes down how far a backfill came.
func (s *Source) SetDone(ctx context.Context, name string, d scheduler.Progress) error {
	err := s.rdb.HSet(ctx, backfillKey(s.name, name), "next", d.Next.Format(time.RFC3339),
		"documents", d.Documents, "requests", d.Requests).Err()
	if err != nil {
		return fmt.Errorf("writing backfill %s down: %w", name, err)
	}
	return nil
}

// ReplaceCompanies makes the listed companies exactly those that fill hands to put, by DART's code. Readers
// see the list before or the list after, never half of one.
func (s *Source) ReplaceCompanies(ctx context.Context, fill func(put func(code, stock, name string) error) error) (n int, err error) {
	key, draft := companiesKey(s.name), companiesKey(s.name)+":draft"
	if err := s.rdb.Del(ctx, draft).Err(); err != nil {
		return 0, fmt.Errorf("writing the list of companies: %w", err)
	}
	pipe := s.rdb.Pipeline()
	err = fill(func(code, stock, name string) error {
		pipe.HSet(ctx, draft, code, stock+" "+name)
		if n++; n%500 == 0 {
			_, err := pipe.Exec(ctx)
			return err
		}
		return nil
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("the list of companies is empty, the one before stays")
	}
	if err == nil {
		pipe.Rename(ctx, draft, key)
		_, err = pipe.Exec(ctx)
	}
	if err != nil {
		_ = s.rdb.Del(ctx, draft).Err() // the next one begins with that too
		return 0, fmt.Errorf("writing the list of companies: %w", err)
	}
	return n, nil
}

// Compared returns up to which change of an alias's log documents were compared with each other, 0 for none.
func (s *Source) Compared(ctx context.Context, alias string) (int64, error) {
	seq, err := s.rdb.HGet(ctx, comparedKey(s.name), alias).Int64()
	if err != nil && !missing(err) {
		return 0, fmt.Errorf("reading what was compared of %s: %w", s.name, err)
	}
	return seq, nil
}

// SetCompared writes that down.
func (s *Source) SetCompared(ctx context.Context, alias string, seq int64) error {
	if err := s.rdb.HSet(ctx, comparedKey(s.name), alias, seq).Err(); err != nil {
		return fmt.Errorf("writing down what was compared of %s: %w", s.name, err)
	}
	return nil
}
