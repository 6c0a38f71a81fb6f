package redis

import (
	"context"
	"fmt"
	"strconv"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/vector"
)

// A Text is one text of a document, for [Store.Stored]. It has no room for the text itself.
type Text struct {
	Document string // id
	Hash     string // of the text, as in [vector.TextHash]
	Version  int64
}

// Stored reports for each text whether its vectors are stored under alias, in the space that the alias writes now,
// or those of a newer version of its document. Two round trips; nothing is written.
func (s *Store) Stored(ctx context.Context, alias string, list []Text) ([]bool, error) {
	stored := make([]bool, len(list))
	space, err := s.Space(ctx, alias)
	if err != nil || space == "" || len(list) == 0 {
		return stored, err
	}
	cmds := make([]*goredis.SliceCmd, len(list))
	_, err = s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i, t := range list {
			cmds[i] = p.HMGet(ctx, docKey(alias, t.Document), fieldSpace, fieldTextHash, fieldVersion)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking up %d documents: %w", len(list), err)
	}
	for i, t := range list {
		text := func(n int) string { s, _ := cmds[i].Val()[n].(string); return s }
		version, err := strconv.ParseInt(text(2), 10, 64)
		stored[i] = vector.Space(text(0)) == space && (text(1) == t.Hash || err == nil && version >= t.Version)
	}
	return stored, nil
}
