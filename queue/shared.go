package queue

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/coalesce"
)

// sharedCommands is how many commands travel in one round trip at most.
const sharedCommands = 64

// A sharedTrips hook lets the scripts that asynq runs at the same time share round trips. When the engine has
// finished a batch, all of its tasks are acked at once; a round trip each would cost the cores that the
// model needs. It must be a client's last hook, so that the others see every command by itself.
type sharedTrips struct {
	rdb   redis.UniversalClient
	group *coalesce.Group[*sharedCommand]
}

// A sharedCommand is one command on its way, and what the client's own way of sending it is.
type sharedCommand struct {
	cmd  redis.Cmder
	next redis.ProcessHook
	err  error
}

func newSharedTrips(rdb redis.UniversalClient) *sharedTrips {
	s := &sharedTrips{rdb: rdb}
	s.group = coalesce.New(sharedCommands, s.run)
	return s
}

// DialHook changes nothing.
func (s *sharedTrips) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook changes nothing; it is also how the shared trips themselves travel.
func (s *sharedTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook takes scripts by digest, which is what asynq's hot paths send: dequeue and ack. Whatever may
// block has no business in a shared trip.
func (s *sharedTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "evalsha" {
			return next(ctx, cmd)
		}
		c := &sharedCommand{cmd: cmd, next: next}
		s.group.Do(ctx, c)
		return c.err
	}
}

func (s *sharedTrips) run(ctx context.Context, list []*sharedCommand) {
	if len(list) == 1 {
		list[0].err = list[0].next(ctx, list[0].cmd)
		return
	}
	pipe := s.rdb.Pipeline()
	for _, c := range list {
		_ = pipe.Process(ctx, c.cmd) // queues it; the error is the command's own, below
	}
	_, _ = pipe.Exec(ctx)
	for _, c := range list {
		c.err = c.cmd.Err()
	}
}
