package queue

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed reap.lua
var reapLua string

//go:embed forward.lua
var forwardLua string

const (
	// sweepEvery and leaseMargin bound recovery: asynq's lease of 30 s, the margin and one sweep are 33 s
	// at most. Leases are renewed every 5 s, so that a worker's clock may be 20 s behind Redis's.
	sweepEvery  = time.Second
	leaseMargin = 1 // seconds; Redis counts whole ones, so that it is up to 2
	// readEvery is how often a lane's active tasks and leases are compared one by one, even where their numbers agree:
	// that a task is without a lease while a lease is without a task is seen by nothing less.
	readEvery = 10 * time.Second

	// A task is moved to quarantine with its second crash, and is poison with the next (DESIGN decision 3).
	quarantineAfter = 2
	// gap is a break between sweeps after which, for the time of the amnesty, nobody is charged: while Redis or
	// this process was away, workers could not say that they live.
	gap     = 5 * time.Second
	amnesty = WorkerTTL + gap
)

// MaintenanceOptions may be nil.
type MaintenanceOptions struct {
	Logger *slog.Logger // by default nothing is logged
	Models []string     // aliases to look after beside those of the registry
}

// Maintenance keeps the lanes in order without a model: it takes back what a dead worker had leased within
// 35 s and without charging a retry, moves texts that crash workers to quarantine, and sends due retries
// back to their lane. Any number of processes may run it; each step is one script, judged by Redis's
// clock.
type Maintenance struct {
	rdb   redis.UniversalClient
	log   *slog.Logger
	lanes *Lanes
	named []string

	reap, bury, carry, leave, forward script

	client   *Client // puts tasks into quarantine
	dead     *Dead
	trimmed  time.Time // when; Run's goroutine only
	read     time.Time // when all leases were; Run's goroutine only
	last     time.Time // of the latest sweep that reached Redis; Run's goroutine only
	charging time.Time // when the amnesty ends; Run's goroutine only
}

// NewMaintenance returns it; nothing happens before Run. The Redis client is the caller's.
func NewMaintenance(rdb redis.UniversalClient, opts *MaintenanceOptions) *Maintenance {
	m := &Maintenance{
		rdb:     rdb,
		log:     slog.New(slog.DiscardHandler),
		lanes:   NewLanes(rdb),
		reap:    newScript(reapLua),
		bury:    newScript(lettersLua + buryLua),
		carry:   newScript(carryLua),
		leave:   newScript(leaveLua),
		dead:    NewDead(rdb),
		forward: newScript(forwardLua),
		client:  insider(rdb),
	}
	if opts != nil {
		m.named = opts.Models
		if opts.Logger != nil {
			m.log = opts.Logger
		}
	}
	return m
}

// Run sweeps every second until ctx ends, then returns nil. A Redis that is away is logged and tried again.
func (m *Maintenance) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := m.sweep(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("sweeping the lanes failed", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

// sweep looks at every lane once. One lane's fault does not keep it from the others.
func (m *Maintenance) sweep(ctx context.Context) error {
	models, err := m.lanes.Models(ctx)
	if err != nil {
		return err
	}
	suspects, err := m.suspects(ctx)
	if err != nil {
		return fmt.Errorf("reading the calls of dead workers: %w", err)
	}
	trim := time.Since(m.trimmed) >= trimEvery
	if trim {
		m.trimmed = time.Now()
	}
	read := time.Since(m.read) >= readEvery
	if read {
		m.read = time.Now()
	}
	var lanes []laneSweep
	models = append(models, m.named...)
	slices.Sort(models)
	for _, model := range slices.Compact(models) {
		for _, lane := range tasks.Lanes {
			lanes = append(lanes, laneSweep{m, keysOf(model, lane), model, lane})
		}
	}
	var errs []error
	for i, due := range m.glance(ctx, lanes) {
		l := lanes[i]
		due.reap = due.reap || read
		if err := l.tidy(ctx, due, suspects); err != nil {
			errs = append(errs, fmt.Errorf("lane %s of %s: %w", l.lane, l.model, err))
		}
		if trim {
			errs = append(errs, l.trim(ctx), l.forgetCancelled(ctx))
		}
	}
	return errors.Join(errs...)
}

// suspects returns whom to charge, which is nobody for a while after a gap.
func (m *Maintenance) suspects(ctx context.Context) (suspects, error) {
	now := time.Now()
	if now.Sub(m.last) > gap {
		m.charging = now.Add(amnesty)
	}
	s, err := readSuspects(ctx, m.rdb)
	if err != nil {
		return nil, err
	}
	m.last = now
	if now.Before(m.charging) {
		return suspects{}, nil
	}
	return s, nil
}

// A laneSweep is one lane's part of a sweep.
type laneSweep struct {
	*Maintenance
	keys  laneKeys
	model string
	lane  tasks.Lane
}

// A due is what a lane is to be swept of.
type due struct {
	reap, forward, bury bool
	err                 error // of the look
}

// glance tells what each lane is to be swept of, in one round trip for all: nearly always nothing, and every worker of
// a fleet looks every second.
func (m *Maintenance) glance(ctx context.Context, lanes []laneSweep) []due {
	type look struct {
		leases, scheduled, retry     *redis.ZSliceCmd // the first of each
		active, leased, archivedSize *redis.IntCmd
	}
	looks := make([]look, len(lanes))
	pipe := m.rdb.Pipeline()
	now := pipe.Time(ctx)
	for i, l := range lanes {
		looks[i] = look{
			leases:       pipe.ZRangeWithScores(ctx, l.keys.lease(), 0, 0),
			scheduled:    pipe.ZRangeWithScores(ctx, l.keys.scheduled(), 0, 0),
			retry:        pipe.ZRangeWithScores(ctx, l.keys.retry(), 0, 0),
			active:       pipe.LLen(ctx, l.keys.active()),
			leased:       pipe.ZCard(ctx, l.keys.lease()),
			archivedSize: pipe.ZCard(ctx, l.keys.archived()),
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	list := make([]due, len(lanes))
	for i, k := range looks {
		at := now.Val().Unix()
		list[i] = due{
			reap:    before(k.leases, at-leaseMargin) || k.active.Val() != k.leased.Val(),
			forward: before(k.scheduled, at+1) || before(k.retry, at+1),
			bury:    k.archivedSize.Val() > 0,
			err: cmp.Or(now.Err(), k.leases.Err(), k.scheduled.Err(), k.retry.Err(), k.active.Err(), k.leased.Err(),
				k.archivedSize.Err()),
		}
	}
	return list
}

// before reports whether the first of a sorted set is before a time.
func before(first *redis.ZSliceCmd, limit int64) bool {
	list := first.Val()
	return len(list) > 0 && list[0].Score < float64(limit)
}

// tidy does what is due.
func (l laneSweep) tidy(ctx context.Context, d due, charged suspects) error {
	errs := []error{d.err}
	if d.reap {
		errs = append(errs, l.reapAll(ctx, charged))
	}
	if d.forward {
		errs = append(errs, l.forwardAll(ctx))
	}
	if d.bury {
		errs = append(errs, l.buryArchived(ctx))
	}
	return errors.Join(errs...)
}

// forwardAll sends due tasks back to the lane.
func (l laneSweep) forwardAll(ctx context.Context) error {
	for _, set := range []string{l.keys.scheduled(), l.keys.retry()} {
		for {
			n, err := l.forward.Run(ctx, l.rdb, []string{set, l.keys.pending()}, l.keys.tasks()).Int()
			if err != nil {
				return fmt.Errorf("forwarding due tasks: %w", err)
			}
			if n == 0 {
				break
			}
		}
	}
	return nil
}

// reapAll takes back every abandoned task of the lane.
func (l laneSweep) reapAll(ctx context.Context, charged suspects) error {
	ids, err := l.abandoned(ctx)
	if err != nil {
		return fmt.Errorf("looking for abandoned tasks: %w", err)
	}
	for len(ids) > 0 {
		n := min(len(ids), callTasks)
		if _, err := l.reapSome(ctx, ids[:n], charged); err != nil {
			return fmt.Errorf("taking abandoned tasks back: %w", err)
		}
		ids = ids[n:]
	}
	return nil
}

// abandoned lists active tasks whose lease has lapsed or is missing. Both lists are short: they hold what
// the fleet works on at the moment.
func (l laneSweep) abandoned(ctx context.Context) ([]string, error) {
	pipe := l.rdb.Pipeline()
	now := pipe.Time(ctx)
	active := pipe.LRange(ctx, l.keys.active(), 0, -1)
	leases := pipe.ZRangeWithScores(ctx, l.keys.lease(), 0, -1)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	var ids []string
	leased := map[string]bool{}
	limit := float64(now.Val().Unix() - leaseMargin)
	for _, z := range leases.Val() {
		id, _ := z.Member.(string)
		leased[id] = true
		if z.Score < limit {
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

// reapSome runs the script for some tasks and returns its words.
func (l laneSweep) reapSome(ctx context.Context, ids []string, charged suspects) ([]string, error) {
	limit := quarantineAfter
	if l.lane == tasks.Quarantine {
		limit++ // its next crash
	}
	keys := []string{l.keys.active(), l.keys.lease(), l.keys.pending(), l.keys.counts()}
	args := []any{leaseMargin, limit}
	for _, id := range ids {
		keys = append(keys, l.keys.task(id))
		args = append(args, id, charged[taskName(l.model, l.lane, id)])
	}
	answers, err := l.reap.Run(ctx, l.rdb, keys, args...).StringSlice()
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for i, answer := range answers {
		counts[answer]++
		if answer == "suspect" {
			if err := l.convict(ctx, ids[i]); err != nil {
				return answers, fmt.Errorf("moving task %s to quarantine: %w", ids[i], err)
			}
		}
	}
	l.log.Warn("took tasks of a dead worker back", "model", l.model, "lane", string(l.lane),
		"returned", counts["returned"], "gone", counts["gone"], "suspect", counts["suspect"], "buried", counts["buried"])
	return answers, nil
}
