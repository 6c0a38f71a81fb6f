package queue

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"
)

const (
	// ackAgain is when an ack is repeated that failed.
	ackAgain = time.Second
	// countsKept is how long the count of a day is kept: as long as asynq's own scripts keep it.
	countsKept = 90 * 24 * time.Hour
	// acksPerScript is how many tasks one script acks: Redis serves nobody else while it runs.
	acksPerScript = 1024
)

// An ack is tasks of one lane that are done.
type ack struct {
	lane  *laneAhead
	ids   []string
	until time.Time // their leases last; nobody renews them any more
	sent  time.Time
	err   error
}

// acknowledge acks tasks, unless their leases have lapsed. Nobody waits for it: the next ones may be stored meanwhile.
func (b *bundle) acknowledge(indexes []int) {
	a := &ack{lane: b.lane, until: b.leasedUntil()}
	for _, i := range indexes {
		a.ids = append(a.ids, b.tasks[i].id)
	}
	b.running.Go(func() {
		b.acks.Do(b.quit, a)
		if a.err != nil {
			b.log.Warn("acknowledging tasks failed, it is tried again", "tasks", len(a.ids), "err", a.err)
			b.repeat(a)
		}
	})
}

// acknowledgeAll sends acks that come at the same time, those of one lane as one script.
func (bs *bundles) acknowledgeAll(_ context.Context, list []*ack) {
	now := time.Now()
	byLane := map[*laneAhead][]*ack{}
	for _, a := range list {
		a.sent = now
		if now.Before(a.until) { // else the reaper has them, or will
			byLane[a.lane] = append(byLane[a.lane], a)
		}
	}
	for lane, acks := range byLane {
		var ids []string
		for _, a := range acks {
			ids = append(ids, a.ids...)
		}
		var err error
		for part := range slices.Chunk(ids, acksPerScript) {
			err = errors.Join(err, bs.acked(lane, part, now))
		}
		for _, a := range acks {
			a.err = err
		}
	}
}

// acked runs the script that acknowledges.
func (bs *bundles) acked(lane *laneAhead, ids []string, now time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), ackTimeout)
	defer cancel()
	k := lane.keys
	keys := []string{k.active(), k.lease(), k.processed() + ":" + now.UTC().Format(time.DateOnly), k.processed()}
	args := []any{now.Add(countsKept).Unix(), int64(math.MaxInt64)}
	for _, id := range ids {
		keys, args = append(keys, k.task(id)), append(args, id)
	}
	return bs.script.Run(ctx, bs.rdb, keys, args...).Err()
}

// repeat acks tasks whose ack at first failed, for as long as their leases last. Redis may have carried the first one
// out before the answer was lost, and the task may have come again since and be another worker's: its lease is a
// newer one then, since nobody here has renewed it, and it is left alone.
func (bs *bundles) repeat(a *ack) {
	newest := a.sent.Add(leaseFor).Unix()
	for ids := a.ids; len(ids) > 0 && time.Now().Before(a.until); {
		if pause(bs.quit, ackAgain); bs.quit.Err() != nil {
			return
		}
		ctx, cancel := context.WithTimeout(bs.quit, ackTimeout)
		scores, err := bs.rdb.ZMScore(ctx, a.lane.keys.lease(), ids...).Result()
		cancel()
		if err != nil {
			continue
		}
		ours := ids[:0:0]
		for i, score := range scores {
			if score > 0 && int64(score) <= newest {
				ours = append(ours, ids[i])
			}
		}
		if len(ours) == 0 || bs.acked(a.lane, ours, time.Now()) == nil {
			return
		}
		ids = ours
	}
}
