package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An Amount is what a caller takes.
type Amount struct {
	Requests int64 `json:"requests"`
	Texts    int64 `json:"texts"`
	Tokens   int64 `json:"tokens"`
}

// A Quota is what a caller may take in a minute and in a day, both by UTC's clock. Zero is no limit.
type Quota struct {
	Minute Amount `json:"minute"`
	Day    Amount `json:"day"`
}

// set sets one limit, as "requests/minute" = "600".
func (q *Quota) set(key, value string) error {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 1 {
		return fmt.Errorf("%s wants a number from 1 up", key)
	}
	what, per, _ := strings.Cut(key, "/")
	var a *Amount
	switch per {
	case "minute":
		a = &q.Minute
	case "day":
		a = &q.Day
	default:
		return fmt.Errorf("there is no setting %q of a token, want name, or requests, texts or tokens by /minute or /day", key)
	}
	switch what {
	case "requests":
		a.Requests = n
	case "texts":
		a.Texts = n
	case "tokens":
		a.Tokens = n
	default:
		return fmt.Errorf("there is no setting %q of a token, want name, or requests, texts or tokens by /minute or /day", key)
	}
	return nil
}

// A Usage is what a caller took in the minute and the day that it is.
type Usage struct {
	Minute Amount `json:"minute"`
	Day    Amount `json:"day"`
}

// A Meter counts what callers take. All gateways of a fleet count together. It is safe for concurrent use.
type Meter interface {
	// Take counts a, unless it would lead beyond q: then nothing is counted, and over says of what ("tokens/minute") and
	// after when there is more. Amounts may be negative, which is never refused. An error is of whatever keeps the counts.
	Take(ctx context.Context, caller string, a Amount, q Quota) (over string, after time.Duration, err error)
	// Used returns what each caller took that took anything today.
	Used(ctx context.Context) (map[string]Usage, error)
}

// anonymous is the name under which calls without a token are counted.
const anonymous = "anonymous"

// charge takes what a request is going to cost from its caller's quota, before anything is done for it. Tokens are
// estimated, four bytes each; what it returns corrects the count by those that it took.
func (g *gateway) charge(ctx context.Context, c caller, j job) (settle func(tokens int), err error) {
	if g.Meter == nil {
		return func(int) {}, nil
	}
	name := c.name
	if name == "" {
		name = anonymous
	}
	estimate := (j.bytes + 3) / 4
	over, after, err := g.Meter.Take(ctx, name, Amount{1, int64(j.texts), estimate}, c.quota)
	if err != nil {
		return nil, fmt.Errorf("counting the request: %w", err)
	}
	if over != "" {
		return nil, &requestError{
			status: http.StatusTooManyRequests, code: "quota_exceeded", after: max(time.Second, after),
			message: fmt.Sprintf("this token's quota of %s is used up, or would be by this request; GET /v1/usage shows it", over),
		}
	}
	return func(tokens int) {
		if tokens == 0 || int64(tokens) == estimate {
			return
		}
		// The request is done: it is counted even if its caller has gone.
		if _, _, err := g.Meter.Take(context.WithoutCancel(ctx), name, Amount{Tokens: int64(tokens) - estimate}, Quota{}); err != nil {
			g.log.WarnContext(ctx, "tokens were not counted", "caller", name, "err", err)
		}
	}, nil
}

// usage is GET /v1/usage: the caller's own.
func (g *gateway) usage(ctx context.Context) (any, error) {
	if g.Meter == nil {
		return nil, &requestError{status: http.StatusNotFound, code: "not_found", message: "this gateway counts nothing"}
	}
	c := callerOf(ctx)
	used, err := g.Meter.Used(ctx)
	if err != nil {
		return nil, err
	}
	name := c.name
	if name == "" {
		name = anonymous
	}
	return map[string]any{"object": "usage", "caller": name, "used": used[name], "limits": c.quota}, nil
}
