package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// AskedFor is how long a wish to run a slot waits for a scheduler.
const AskedFor = 5 * time.Minute

// Ask asks the schedulers that keep a job to run its current slot once more, now. by is who asks. Asking twice
// before it was heard is asking once.
func (l *Ledger) Ask(ctx context.Context, source, job, by string) error {
	if err := l.rdb.Set(ctx, askedKey(source, job), by, AskedFor).Err(); err != nil {
		return fmt.Errorf("asking for a slot of job %s: %w", job, err)
	}
	return nil
}

// Asked takes the wish for a slot of a job, if there is one, and returns who asked. Of several schedulers, one
// gets it.
func (l *Ledger) Asked(ctx context.Context, source, job string) (by string, ok bool, err error) {
	by, err = l.rdb.GetDel(ctx, askedKey(source, job)).Result()
	if errors.Is(err, redis.Nil) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("looking for a wish for job %s: %w", job, err)
	}
	return by, true, nil
}
