package redis

import (
	"context"
	"errors"
	"fmt"

	goredis "github.com/redis/go-redis/v9"
)

// TextHashes returns for each id the hash of the text whose vectors are stored under alias, "" where there
// are none: for producers that lost their own memory of what they handed in. One round trip.
func (s *Store) TextHashes(ctx context.Context, alias string, ids []string) ([]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	cmds := make([]*goredis.StringCmd, len(ids))
	_, err := s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HGet(ctx, docKey(alias, id), fieldTextHash)
		}
		return nil
	})
	if err != nil && !errors.Is(err, goredis.Nil) {
		return nil, fmt.Errorf("looking up %d documents: %w", len(ids), err)
	}
	hashes := make([]string, len(ids))
	for i, cmd := range cmds {
		if err := cmd.Err(); err != nil && !errors.Is(err, goredis.Nil) { // one of several may have failed
			return nil, fmt.Errorf("looking up document %q: %w", ids[i], err)
		}
		hashes[i] = cmd.Val()
	}
	return hashes, nil
}
