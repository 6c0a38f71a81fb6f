package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/gateway"
)

const day = 24 * time.Hour

// usageKeys are those of the minute and the day of now. Both are in one slot of a cluster.
func usageKeys(now time.Time) []string {
	return []string{
		"ef:{usage}:minute:" + strconv.FormatInt(now.Unix()/60, 10),
		"ef:{usage}:day:" + strconv.FormatInt(now.Unix()/86400, 10),
	}
}

// Take is the method of gateway.Meter.
func (l *Ledger) Take(ctx context.Context, caller string, a gateway.Amount, q gateway.Quota) (string, time.Duration, error) {
	now := time.Now()
	over, err := l.take.Run(ctx, l.rdb, usageKeys(now), caller, a.Requests, a.Texts, a.Tokens,
		q.Minute.Requests, q.Minute.Texts, q.Minute.Tokens, q.Day.Requests, q.Day.Texts, q.Day.Tokens).Text()
	if err != nil {
		return "", 0, fmt.Errorf("counting what %q takes: %w", caller, err)
	}
	span := time.Minute
	if strings.HasSuffix(over, "/day") {
		span = day
	}
	return over, now.Truncate(span).Add(span).Sub(now), nil
}

// Used is the method of gateway.Meter.
func (l *Ledger) Used(ctx context.Context) (map[string]gateway.Usage, error) {
	keys := usageKeys(time.Now())
	cmds := make([]*goredis.MapStringStringCmd, len(keys))
	_, err := l.rdb.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i, key := range keys {
			cmds[i] = p.HGetAll(ctx, key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading what callers took: %w", err)
	}
	used := map[string]gateway.Usage{}
	for i, cmd := range cmds {
		for field, value := range cmd.Val() {
			n, err := strconv.ParseInt(value, 10, 64)
			at := strings.LastIndexByte(field, ':')
			if err != nil || at < 0 {
				return nil, fmt.Errorf("reading %s of %s: %q", field, keys[i], value)
			}
			u := used[field[:at]]
			a := &u.Day
			if i == 0 {
				a = &u.Minute
			}
			switch field[at+1:] {
			case "requests":
				a.Requests = n
			case "texts":
				a.Texts = n
			case "tokens":
				a.Tokens = n
			}
			used[field[:at]] = u
		}
	}
	return used, nil
}
