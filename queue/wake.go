package queue

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// hearFor is how long a server listens before it looks whether it is to stop.
	hearFor = 500 * time.Millisecond
	// hearAgain is when it subscribes again after a fault.
	hearAgain = time.Second
)

// listen has the pools look at a lane as soon as tasks arrive there, until ctx ends. Producers say so on a
// channel that is called like the lane's pending list. What is missed, since the connection broke or a task
// came another way than from a producer, is found at the next look anyway.
func (s *Server) listen(ctx context.Context) {
	lanes := map[string]*ahead{}
	var channels []string
	for _, p := range s.pools {
		for pending := range p.ahead.lanes {
			lanes[pending] = p.ahead
			channels = append(channels, pending)
		}
	}
	// The library's own channel of messages has goroutines that outlive ctx while Redis is away.
	subscription := s.rdb.Subscribe(ctx, channels...)
	defer func() { _ = subscription.Close() }() // its connection goes with the client at the latest
	for ctx.Err() == nil {
		event, err := subscription.ReceiveTimeout(ctx, hearFor)
		if silence, ok := errors.AsType[net.Error](err); ok && silence.Timeout() {
			continue
		}
		switch e := event.(type) {
		case *redis.Subscription:
			if a := lanes[e.Channel]; a != nil && e.Kind == "subscribe" {
				a.hears(true)
			}
		case *redis.Message:
			if a := lanes[e.Channel]; a != nil {
				a.wake(e.Channel)
			}
		}
		if err != nil {
			for _, a := range lanes {
				a.hears(false)
			}
			pause(ctx, hearAgain)
		}
	}
}

// hears notes whether producers are heard, so that looks may be rare.
func (a *ahead) hears(heard bool) {
	a.heard.Store(heard)
	a.slots.nudge()
}

// wake notes that tasks arrived in the lane whose pending list is given.
func (a *ahead) wake(pending string) {
	a.lanes[pending].empty.Store(false)
	a.slots.nudge()
}
