package consumer

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
)

const (
	// hearFor is how long a consumer listens before it looks whether it is to stop.
	hearFor = 500 * time.Millisecond
	// hearAgain is when it subscribes again after a fault.
	hearAgain = time.Second
	// cancelEvery is how often a consumer asks who was cancelled, in case it has not heard of it.
	cancelEvery = 5 * time.Second
	// cancelPage bounds what is read of a lane's cancellations at a time, the latest first.
	cancelPage = 10_000
)

// A pollInterval says how often Redis is asked whether an empty lane is still empty: rarely while producers are heard.
type pollInterval struct{ subscribed, unsubscribed time.Duration }

// A notifier tells a pool when to look at its lanes. Producers say on a channel, which is called like the lane's
// pending list, that tasks have arrived. What comes another way, or is missed, is found at the next look.
type notifier struct {
	every pollInterval

	mu    sync.Mutex
	heard bool // the channels are subscribed to
	news  chan struct{}
}

func newNotifier(every pollInterval) *notifier {
	return &notifier{every: every, news: make(chan struct{}, 1)}
}

// looking forgets what was heard before a look; what is heard in the middle of it is not forgotten.
func (n *notifier) looking() {
	select {
	case <-n.news:
	default:
	}
}

// wait waits for tasks to be announced, for the next look to be due, or for ctx.
func (n *notifier) wait(ctx context.Context) {
	n.mu.Lock()
	d := n.every.unsubscribed
	if n.heard {
		d = n.every.subscribed
	}
	n.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-n.news:
	}
}

// notify has the pool look.
func (n *notifier) notify() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// hears notes whether producers are heard.
func (n *notifier) hears(heard bool) {
	n.mu.Lock()
	n.heard = heard
	n.mu.Unlock()
	n.notify()
}

// listen hears of new tasks and of cancellations, those of asynq's tools too, until ctx ends.
func (c *Consumer) listen(ctx context.Context) {
	arrivals, cancellations := map[string]*pool{}, map[string]*lane{}
	channels := []string{wire.CancelChannel}
	for _, p := range c.pools {
		for _, l := range p.lanes {
			arrivals[l.keys.Pending()], cancellations[l.keys.Cancelled()] = p, l
			channels = append(channels, l.keys.Pending(), l.keys.Cancelled())
		}
	}
	// The library's own channel of messages has goroutines that outlive ctx while Redis is away.
	subscription := c.rdb.Subscribe(ctx, channels...)
	defer func() { _ = subscription.Close() }() // its connection goes with the client at the latest
	warned := false
	for ctx.Err() == nil {
		if c.demoted.CompareAndSwap(true, false) { // on a node that is a replica now nobody says anything
			_ = subscription.Close()
			subscription = c.rdb.Subscribe(ctx, channels...)
			c.hears(false)
		}
		event, err := subscription.ReceiveTimeout(ctx, hearFor)
		if silence, ok := errors.AsType[net.Error](err); ok && silence.Timeout() {
			continue
		}
		switch e := event.(type) {
		case *redis.Subscription:
			if p := arrivals[e.Channel]; p != nil && e.Kind == "subscribe" {
				p.notifier.hears(true)
			}
		case *redis.Message:
			switch {
			case arrivals[e.Channel] != nil:
				arrivals[e.Channel].notifier.notify()
			case cancellations[e.Channel] != nil:
				c.revoke(cancellations[e.Channel], strings.Fields(e.Payload), false)
			case e.Channel == wire.CancelChannel:
				c.revoke(nil, []string{e.Payload}, true)
			}
		}
		if err != nil {
			if ctx.Err() == nil && !warned && redis.IsPermissionError(err) {
				warned = true
				c.log.Warn("producers are not heard, lanes are looked at often instead: the user needs &asynq:* and &embedfleet:*", "err", err)
			}
			c.hears(false)
			wire.Pause(ctx, hearAgain)
		}
	}
}

// hears tells all pools whether producers are heard.
func (c *Consumer) hears(heard bool) {
	for _, p := range c.pools {
		p.notifier.hears(heard)
	}
}

// revoke ends the contexts of tasks in hand that were cancelled, of one lane or, if that is nil, of all.
func (c *Consumer) revoke(of *lane, ids []string, byTool bool) {
	wanted := map[string]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	for _, p := range c.pools {
		p.revoke(of, wanted, byTool)
	}
}

func (p *pool) revoke(of *lane, ids map[string]bool, byTool bool) {
	for _, b := range p.batches() {
		if of != nil && b.lane != of {
			continue
		}
		for _, r := range b.all() {
			if ids[r.task.ID] {
				r.revoke(byTool)
			}
		}
	}
}

// followCancelled asks who was cancelled, while there is something in hand, until ctx ends.
func (p *pool) followCancelled(ctx context.Context) {
	ticker := time.NewTicker(cancelEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		lanes := map[*lane]bool{}
		for _, b := range p.batches() {
			lanes[b.lane] = true
		}
		for l := range lanes {
			ids, err := p.rdb.ZRevRange(ctx, l.keys.Cancelled(), 0, cancelPage-1).Result()
			if err != nil {
				p.log.Debug("asking for cancelled tasks failed", "err", err) // and will be repeated
				continue
			}
			wanted := make(map[string]bool, len(ids))
			for _, id := range ids {
				wanted[id] = true
			}
			p.revoke(l, wanted, false)
		}
	}
}
