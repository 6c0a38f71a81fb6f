package boot

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// RedisLog sends what the Redis client says of its own accord to log, at debug: by default it writes to the
// process's standard error, and every failure it speaks of comes back as an error too. The client keeps one
// logger for the whole process, so a binary calls this once, before it makes a client.
func RedisLog(log *slog.Logger) { redis.SetLogger(redisLogger{log}) }

type redisLogger struct{ log *slog.Logger }

func (l redisLogger) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, "redis client", "says", fmt.Sprintf(format, v...))
}
