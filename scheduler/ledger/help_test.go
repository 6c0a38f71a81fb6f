package ledger_test

import (
	"time"

	"github.com/redis/go-redis/v9"
)

// member is a name in a seen-set.
func member(at time.Time, name string) redis.Z {
	return redis.Z{Score: float64(at.Unix()), Member: name}
}
