package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/store"
)

// Changes returns the documents that changed after c.Seq, oldest change first, at most c.Limit of them. It
// takes two round trips. A document that changes between the two is reported in its newest state, and will
// be again under the number of that change, which does no harm.
func (s *Store) Changes(ctx context.Context, c store.Cursor) (store.Changes, error) {
	members, last, err := s.changed(ctx, c)
	if err != nil {
		return store.Changes{}, fmt.Errorf("reading the changes of alias %q: %w", c.Model, err)
	}
	cmds := make([]*goredis.SliceCmd, len(members))
	if len(members) > 0 {
		_, err = s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for i, m := range members {
				cmds[i] = p.HMGet(ctx, docKey(c.Model, member(m)), documentFields[:]...)
			}
			return nil
		})
	}
	if err != nil {
		return store.Changes{}, fmt.Errorf("reading %d changed documents of alias %q: %w", len(members), c.Model, err)
	}
	changes := store.Changes{Items: make([]store.Change, len(members)), Last: last}
	for i, m := range members {
		changes.Items[i] = change(c, m, cmds[i].Val())
	}
	return changes, nil
}

// changed returns the members of the change log after c.Seq, and the last number given out.
func (s *Store) changed(ctx context.Context, c store.Cursor) ([]goredis.Z, int64, error) {
	var (
		last    *goredis.StringCmd
		members *goredis.ZSliceCmd
	)
	_, err := s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		members = p.ZRangeByScoreWithScores(ctx, changesKey(c.Model), &goredis.ZRangeBy{
			Min:   "(" + strconv.FormatInt(c.Seq, 10),
			Max:   "+inf",
			Count: int64(max(1, c.Limit)),
		})
		last = p.Get(ctx, seqKey(c.Model))
		return nil
	})
	if err != nil && !errors.Is(err, goredis.Nil) { // no number was given out yet
		return nil, 0, err
	}
	if err := members.Err(); err != nil {
		return nil, 0, err
	}
	if errors.Is(last.Err(), goredis.Nil) {
		return nil, 0, nil
	}
	n, err := last.Int64()
	return members.Val(), n, err
}

// member returns the document id of a change log's member.
func member(z goredis.Z) string {
	id, _ := z.Member.(string) // the driver never returns anything else
	return id
}

// change turns a member and its document's values into what c asks for.
func change(c store.Cursor, m goredis.Z, values []any) store.Change {
	ch := store.Change{Seq: int64(m.Score), ID: member(m)}
	fields := byField(values)
	if len(fields) == 0 {
		return ch // deleted
	}
	rec, err := decodeRecord(c.Model, ch.ID, fields)
	switch {
	case err != nil:
		ch.Err = err
	case rec.Space == c.Space:
		ch.Record = &rec
	}
	return ch
}
