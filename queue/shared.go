package queue

import (
	"context"
	_ "embed"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/coalesce"
)

//go:embed ack.lua
var ackLua string

// sharedCommands is how many commands travel in one round trip at most.
const sharedCommands = 256

// lingerCommands is how long a trip waits for more commands while there are many.
const lingerCommands = 30 * time.Millisecond

// A sharedTrips hook lets the scripts that asynq runs at the same time share round trips. When the engine has
// finished a batch, all of its tasks are acked at once; a round trip each would cost the cores that the
// model needs. It must be a client's last hook, so that the others see every command by itself.
type sharedTrips struct {
	rdb   redis.UniversalClient
	group *coalesce.Group[*sharedCommand]
	ack   script
	alone []any // digests of scripts that travel alone
}

// A sharedCommand is one command on its way, and what the client's own way of sending it is.
type sharedCommand struct {
	cmd  redis.Cmder
	next redis.ProcessHook
	err  error
}

func newSharedTrips(rdb redis.UniversalClient) *sharedTrips {
	s := &sharedTrips{rdb: rdb, ack: newScript(ackLua)}
	s.alone = []any{s.ack.Hash(), newScript(leaseLua).Hash(), newScript(unleaseLua).Hash()}
	s.group = coalesce.New(sharedCommands, coalesce.Patience{Linger: lingerCommands}, s.run)
	return s
}

// DialHook changes nothing.
func (s *sharedTrips) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook changes nothing; it is also how the shared trips themselves travel.
func (s *sharedTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook takes scripts by digest, which is what asynq's hot paths send. Whatever may block has no
// business in a shared trip. Nor have the scripts of our own: the shared ack is one itself, and for a lease
// all free slots wait.
func (s *sharedTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "evalsha" || slices.Contains(s.alone, cmd.Args()[1]) {
			return next(ctx, cmd)
		}
		c := &sharedCommand{cmd: cmd, next: next}
		s.group.Do(ctx, c)
		return c.err
	}
}

func (s *sharedTrips) run(ctx context.Context, list []*sharedCommand) {
	acks := map[string][]*sharedCommand{} // by lane
	var rest []*sharedCommand
	for _, c := range list {
		if lane, ok := acked(c.cmd); ok {
			acks[lane] = append(acks[lane], c)
		} else {
			rest = append(rest, c)
		}
	}
	for _, group := range acks {
		if len(group) > 1 {
			s.acknowledge(ctx, group)
		} else {
			rest = append(rest, group...)
		}
	}
	s.pipeline(ctx, rest)
}

func (s *sharedTrips) pipeline(ctx context.Context, list []*sharedCommand) {
	if len(list) == 0 {
		return
	}
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

// acked returns the key of the active list if cmd is asynq's ack of a task without a uniqueness lock: a
// script with the keys active, lease, task, processed of the day, processed, and the arguments id, end of the
// day's count and largest count.
func acked(cmd redis.Cmder) (active string, ok bool) {
	const args = 3 + 5 + 3
	if len(cmd.Args()) != args || !scriptKey(cmd, 0, ":active") || !scriptKey(cmd, 1, ":lease") || !scriptKey(cmd, 4, ":processed") {
		return "", false
	}
	if _, ok := cmd.(*redis.Cmd); !ok {
		return "", false
	}
	active, ok = cmd.Args()[3].(string)
	return active, ok
}

// acknowledge sends acks of one lane as one script, and tells each what asynq's script would have told it.
func (s *sharedTrips) acknowledge(ctx context.Context, list []*sharedCommand) {
	first := list[0].cmd.Args()
	keys := []string{first[3].(string), first[4].(string), first[6].(string), first[7].(string)} //nolint:forcetypeassert // acked has looked
	args := []any{first[9], first[10]}
	for _, c := range list {
		a := c.cmd.Args()
		keys = append(keys, a[5].(string)) //nolint:forcetypeassert // keys are strings
		args = append(args, a[8])
	}
	answers, err := s.ack.Run(ctx, s.rdb, keys, args...).Int64Slice()
	for i, c := range list {
		switch {
		case err != nil:
			c.err = err
		case i >= len(answers) || answers[i] == 0:
			c.err = notActiveError{}
		default:
			c.cmd.(*redis.Cmd).SetVal("OK") //nolint:forcetypeassert // acked has looked
			continue
		}
		c.cmd.SetErr(c.err)
	}
}

// notActiveError is the answer of asynq's own scripts to an ack of a task that is not active.
type notActiveError struct{}

func (notActiveError) Error() string { return notFound }
func (notActiveError) RedisError()   {}
