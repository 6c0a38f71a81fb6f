package queue

import (
	"context"

	"github.com/redis/go-redis/v9"
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
	subscription := s.rdb.Subscribe(ctx, channels...)
	defer subscription.Close()
	events := subscription.ChannelWithSubscriptions()
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-events:
			if !ok {
				return
			}
			switch e := event.(type) {
			case *redis.Subscription:
				if a := lanes[e.Channel]; a != nil && e.Kind == "subscribe" {
					a.listening()
				}
			case *redis.Message:
				if a := lanes[e.Channel]; a != nil {
					a.wake(e.Channel)
				}
			}
		}
	}
}

// listening notes that producers are heard, so that looks may be rare.
func (a *ahead) listening() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = true
}

// wake notes that tasks arrived in the lane whose pending list is given.
func (a *ahead) wake(pending string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lanes[pending].empty = false
}
