package queue

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
)

const (
	// replicaWait is how long replicas may take to have what was enqueued, behindWait how long once they have
	// fallen short: a producer of many documents would else wait a second for each round trip.
	replicaWait = time.Second
	behindWait  = replicaWait / 10
)

// An answer is what became of a few calls of the script.
type answer struct {
	weak map[*wire.Call]bool // calls whose writes too few replicas have
	err  error               // of the connection
}

// runAll runs the script for each call, and asks for the replicas if the client wants some.
func (c *Client) runAll(ctx context.Context, calls []*wire.Call) answer {
	if c.replicas == 0 {
		return answer{err: c.enqueue.RunAll(ctx, c.rdb, calls)}
	}
	cluster, ok := c.rdb.(*redis.ClusterClient)
	if !ok {
		return c.runReplicated(ctx, c.rdb, calls)
	}
	all := answer{weak: map[*wire.Call]bool{}}
	parts := map[*redis.Client][]*wire.Call{}
	for _, call := range calls {
		node, err := cluster.MasterForKey(ctx, call.Keys[0])
		if err != nil {
			return answer{err: err}
		}
		parts[node] = append(parts[node], call)
	}
	for node, part := range parts {
		one := c.runReplicated(ctx, node, part)
		for call := range one.weak {
			all.weak[call] = true
		}
		all.err = errors.Join(all.err, one.err)
	}
	return all
}

// runReplicated runs calls on one master and has it wait for its replicas, in one pipeline: WAIT speaks only of what
// its own connection wrote, so that on another it would confirm anything.
func (c *Client) runReplicated(ctx context.Context, node redis.UniversalClient, calls []*wire.Call) answer {
	if len(calls) == 0 {
		return answer{}
	}
	for known := false; ; known = true {
		pipe := node.Pipeline()
		unknown := false
		for _, call := range calls {
			call.Cmd = pipe.EvalSha(ctx, c.enqueue.Hash(), call.Keys, call.Args...)
		}
		patience := replicaWait
		if c.behind.Load() {
			patience = behindWait
		}
		wait := pipe.Do(ctx, "WAIT", c.replicas, patience.Milliseconds())
		_, err := pipe.Exec(ctx)
		for _, call := range calls {
			unknown = unknown || redis.HasErrorPrefix(call.Cmd.Err(), "NOSCRIPT")
		}
		if unknown && !known {
			if err := c.enqueue.Load(ctx, node).Err(); err != nil {
				return answer{err: err}
			}
			continue // all of them: who is in already only says so
		}
		had, waitErr := wait.Int()
		c.behind.Store(waitErr != nil || had < c.replicas)
		if waitErr != nil || had < c.replicas {
			weak := map[*wire.Call]bool{}
			for _, call := range calls {
				weak[call] = true
			}
			return answer{weak: weak, err: unanswered(err)}
		}
		return answer{err: unanswered(err)}
	}
}

// unanswered returns err unless it is what the server said of some call, which its cmd holds.
func unanswered(err error) error {
	if _, answered := errors.AsType[redis.Error](err); answered {
		return nil
	}
	return err
}

// doubt notes on receipts that too few replicas have what they speak of. A task that was confirmed and only asked
// about again stays confirmed.
func (b *bulk) doubt(g *group, weak bool) {
	for _, i := range g.indexes {
		b.receipts[i].Unconfirmed = weak
	}
}
