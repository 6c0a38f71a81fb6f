package upkeep

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// A task is moved to quarantine with its second crash, and is poison with the next.
	quarantineAfter = 2
	// patience is how long after its lease a task may be kept, in seconds, because it was inside a native call of a
	// worker whose entry has not lapsed yet: whether the worker crashed in it is not known before. An entry lapses
	// within registry.WorkerTTL; a worker that lives on without its leases is away, not dead, and nobody is charged.
	patience = 7
)

// candidates are the tasks that were inside a native call of a worker, by task name.
type candidates struct {
	dead   map[string]string // -> the worker that died with it
	living map[string]string // -> a worker that has not, as far as is known
}

// readCandidates reads who was inside a native call of which worker; of several dead workers the one that died last
// counts, since the registry is in that order.
func (s *Sweeper) readCandidates(ctx context.Context) (*candidates, error) {
	workers, err := s.workers.Index(ctx)
	if err != nil {
		return nil, err
	}
	calls := make([]*redis.StringSliceCmd, len(workers))
	_, err = s.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, w := range workers {
			calls[i] = pipe.HVals(ctx, wire.CallsKey(w.ID))
		}
		return nil
	})
	if err != nil && !answered(err) { // else of the workers whose calls can't be read nobody is charged
		return nil, err
	}
	c := &candidates{map[string]string{}, map[string]string{}}
	for i, w := range workers {
		among := c.dead
		if w.Lives {
			among = c.living
		}
		for _, call := range calls[i].Val() {
			for name := range strings.SplitSeq(call, "\n") {
				among[name] = w.ID
			}
		}
	}
	return c, nil
}

// reapAll takes back every abandoned task of the lane.
func (l laneSweep) reapAll(ctx context.Context, crashed *candidates) error {
	ids, err := l.abandoned(ctx, crashed)
	if err != nil {
		return fmt.Errorf("looking for abandoned tasks: %w", err)
	}
	for part := range slices.Chunk(ids, wire.CallTasks) {
		if _, err := l.reapSome(ctx, part, crashed); err != nil {
			return fmt.Errorf("taking abandoned tasks back: %w", err)
		}
	}
	return nil
}

// abandoned lists active tasks whose lease has lapsed or is missing. Both lists are short: they hold what
// the fleet works on at the moment.
func (l laneSweep) abandoned(ctx context.Context, crashed *candidates) ([]string, error) {
	pipe := l.rdb.Pipeline()
	now := pipe.Time(ctx)
	active := pipe.LRange(ctx, l.keys.Active(), 0, -1)
	leases := pipe.ZRangeWithScores(ctx, l.keys.Lease(), 0, -1)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	var ids []string
	leased := map[string]bool{}
	at := float64(now.Val().UnixMicro()) / 1e6
	for _, z := range leases.Val() {
		id, _ := z.Member.(string)
		leased[id] = true
		if z.Score < at && !l.undecided(id, at-z.Score, crashed) {
			ids = append(ids, id)
		}
	}
	for _, id := range active.Val() {
		if !leased[id] {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// undecided reports whether it will be known in a moment if a worker crashed in the task. Whoever waits for a query
// can't wait for that: there a worker that is away for longer than the lease counts as crashed.
func (l laneSweep) undecided(id string, lapsed float64, crashed *candidates) bool {
	name := wire.TaskName(l.model, l.lane, id)
	return l.lane != tasks.Query && lapsed < patience && crashed.dead[name] == "" && crashed.living[name] != ""
}

// charged returns the worker that crashed in a task, "" if none did.
func (l laneSweep) charged(id string, crashed *candidates) string {
	name := wire.TaskName(l.model, l.lane, id)
	if worker := crashed.dead[name]; worker != "" || l.lane != tasks.Query {
		return worker
	}
	return crashed.living[name]
}

// reapSome runs the script for some tasks and returns its words.
func (l laneSweep) reapSome(ctx context.Context, ids []string, crashed *candidates) ([]string, error) {
	limit := quarantineAfter
	if l.lane == tasks.Quarantine {
		limit++ // its next crash
	}
	keys := []string{l.keys.Active(), l.keys.Lease(), l.keys.Pending(), l.keys.Counts()}
	args := []any{limit}
	for _, id := range ids {
		keys = append(keys, l.keys.Task(id))
		args = append(args, id, l.charged(id, crashed))
	}
	answers, err := l.reap.Run(ctx, l.rdb, keys, args...).StringSlice()
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for i, answer := range answers {
		counts[answer]++
		if answer == "suspect" {
			if err := l.quarantine(ctx, ids[i]); err != nil {
				return answers, fmt.Errorf("moving task %s to quarantine: %w", ids[i], err)
			}
		}
	}
	if counts["alive"] < len(ids) {
		l.log.Warn("took tasks of a dead worker back", "model", l.model, "lane", string(l.lane),
			"returned", counts["returned"], "gone", counts["gone"], "suspect", counts["suspect"])
	}
	return answers, nil
}
