package consumer

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed lease.lua
var leaseLua string

// leaseLife is how long a lease lasts, and how often it is renewed: often enough for two renewals to get lost.
type leaseLife struct{ lasts, renew time.Duration }

// A lane is one lane as a consumer serves it.
type lane struct {
	name  tasks.Lane
	model string
	keys  wire.Keys
	life  leaseLife
}

// A fetcher leases tasks.
type fetcher struct {
	rdb    redis.UniversalClient
	script wire.Script
	holder string // of this consumer; a number makes it a lease's
	cost   Cost
	leases int // so far; the pool's own goroutine
}

// A lease is what was leased in one round trip.
type lease struct {
	holder  string
	at      time.Time
	tasks   []leased
	dropped int // had expired, or were cancelled
}

type leased struct {
	id, message string
	work        float64
}

// fetch leases what there is room for from a lane. It does not end with ctx: what Redis has leased must be heard of.
func (f *fetcher) fetch(ctx context.Context, l *lane, r room) (lease, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	f.leases++
	out := lease{holder: f.holder + ":" + strconv.Itoa(f.leases), at: time.Now()}
	k := l.keys
	keys := []string{k.Pending(), k.Active(), k.Lease(), k.Paused(), k.Cancelled(), k.Counts()}
	values, err := f.script.Run(ctx, f.rdb, keys, r.tasks, r.work, l.life.lasts.Seconds(), out.holder, k.Tasks(),
		f.cost.window(), f.cost.half()).Slice()
	if err != nil {
		return lease{}, fmt.Errorf("leasing tasks of lane %s: %w", l.name, err)
	}
	if len(values)%3 != 1 {
		return lease{}, fmt.Errorf("leasing tasks of lane %s: the script answered %d values", l.name, len(values))
	}
	n, _ := values[0].(int64)
	out.dropped = int(n)
	for i := 1; i < len(values); i += 3 {
		var t leased
		t.id, _ = values[i].(string)
		t.message, _ = values[i+1].(string)
		work, _ := values[i+2].(string)
		t.work, _ = strconv.ParseFloat(work, 64)
		out.tasks = append(out.tasks, t)
	}
	return out, nil
}
