package queue

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// UsedMemory returns the used part of Redis's maxmemory, of a cluster its fullest node's: what admission goes by,
// see [Limits]. It is 0 if there is no limit or if Redis does not answer.
func UsedMemory(ctx context.Context, rdb redis.UniversalClient) float64 { return usedMemory(ctx, rdb) }
