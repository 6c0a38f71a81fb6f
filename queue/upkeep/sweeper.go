// Package upkeep keeps the lanes in order without a model: what a dead worker had in hand goes back, due retries
// return to their lane, texts that kill workers go to quarantine, what failed for good becomes a dead letter, and a
// check finds and mends whatever a crash, a trap of asynq's or a hand in Redis has left behind.
//
// # Who sweeps
//
// Every process of a fleet runs a [Sweeper], and once a second each asks Redis for the turn, one command. One of them
// gets it and looks at all lanes, its own first: what that costs does not depend on how many processes there are.
//
// # Dead letters
//
// asynq's archive drops what goes beyond 9,999 entries (T5), so it is only a place to pass through. A consumer writes
// a letter in the script that takes the task out of its lane; what asynq's servers and tools archive is taken out of
// the archive and turned into a letter by the sweeper, in one script, every second. So each death is one letter.
//
// A letter holds the task's message, and with it the text, for it could not be replayed without; it is never logged,
// and shown only to who asks for it. Letters are dropped after 90 days, or when a lane has more than 250,000, the
// oldest first; both is checked every hour and logged. Whoever is enqueued again, in whichever lane, is not dead any
// more: the letter goes in the same script.
package upkeep

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed reap.lua
var reapLua string

//go:embed forward.lua
var forwardLua string

//go:embed expire.lua
var expireLua string

//go:embed turn.lua
var turnLua string

//go:embed retire.lua
var retireLua string

const (
	// sweepEvery is how often a process asks for the turn, turnLasts how long one lasts: a little less, so that
	// somebody gets one every second, whoever died.
	sweepEvery = time.Second
	turnLasts  = 900 * time.Millisecond
	turnKey    = "{embedfleet:sweep}:turn"
	stateKey   = "{embedfleet:sweep}:state"

	// gap is a break between two answers of Redis after which, for the time of the grace, nothing is taken back and
	// nobody is charged: while Redis was away, workers could not say that they live. youth is how long a process that
	// has just begun takes nobody back: others ask for the turn, and say that Redis was away, within that time.
	gap   = 3 * time.Second
	youth = 1200 * time.Millisecond
	grace = 3500 * time.Millisecond // leases and entries are renewed every 2 s

	// readEvery is how often a lane's active tasks and leases are compared one by one, even where their numbers
	// agree: that a task is without a lease while a lease is without a task is seen by nothing less.
	readEvery = 10 * time.Second
	trimEvery = time.Hour
)

// Options may be nil.
type Options struct {
	Logger *slog.Logger // by default nothing is logged
	Models []string     // aliases to look after first, and beside those of asynq's registry
}

// A Sweeper keeps the lanes in order. Each of its steps is one script, judged by Redis's clock.
type Sweeper struct {
	rdb     redis.UniversalClient
	log     *slog.Logger
	lanes   *queue.Lanes
	workers *registry.Workers
	named   []string

	reap, bury, carry, leave, forward, expire, turn, retire wire.Script

	client *queue.Client // puts tasks into quarantine
	dead   *Dead

	first, last time.Time // answers of Redis; Run's goroutine only
}

// New returns a sweeper; nothing happens before Run. The Redis client is the caller's.
func New(rdb redis.UniversalClient, opts *Options) *Sweeper {
	s := &Sweeper{
		rdb:     rdb,
		log:     slog.New(slog.DiscardHandler),
		lanes:   queue.NewLanes(rdb),
		workers: registry.NewWorkers(rdb),
		reap:    wire.NewScript(reapLua),
		bury:    wire.NewScript(wire.LettersLua + buryLua),
		carry:   wire.NewScript(carryLua),
		leave:   wire.NewScript(leaveLua),
		forward: wire.NewScript(forwardLua),
		expire:  wire.NewScript(expireLua),
		turn:    wire.NewScript(turnLua),
		retire:  wire.NewScript(retireLua),
		client:  queue.NewInsider(rdb),
		dead:    NewDead(rdb),
	}
	if opts != nil {
		s.named = opts.Models
		if opts.Logger != nil {
			s.log = opts.Logger
		}
	}
	return s
}

// Run sweeps until ctx ends, then returns nil. A Redis that is away is logged and tried again.
func (s *Sweeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := s.tick(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("sweeping the lanes failed", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

// A round is what a sweep is to do, and not to do.
type round struct {
	sparing bool // nobody is taken back from, or charged
	read    bool // leases and active tasks are compared one by one
	trim    bool // letters are trimmed, and old marks forgotten
}

// tick sweeps if it is this process's turn. A process to which Redis comes back after a gap says so to the fleet: who
// lived through it needs a moment to renew its leases. A process that has just begun can't know, and takes nobody back
// before the others could have said it.
func (s *Sweeper) tick(ctx context.Context) error {
	ms := time.Duration.Milliseconds
	back := 0
	if !s.last.IsZero() && time.Since(s.last) > gap {
		back = 1
	}
	answer, err := s.turn.Run(ctx, s.rdb, []string{turnKey, stateKey}, ms(turnLasts), back, ms(grace), ms(readEvery), ms(trimEvery)).Int64Slice()
	if err != nil {
		return fmt.Errorf("asking for the turn: %w", err)
	}
	now := time.Now()
	if s.last.IsZero() {
		s.first = now
	}
	s.last = now
	if len(answer) != 3 {
		return nil
	}
	young := now.Sub(s.first) < youth
	return s.sweep(ctx, round{sparing: answer[0] == 1 || young, read: answer[1] == 1, trim: answer[2] == 1})
}

// sweep looks at every lane once. One lane's fault does not keep it from the others.
func (s *Sweeper) sweep(ctx context.Context, r round) error {
	models, err := s.lanes.Models(ctx)
	if err != nil {
		return err
	}
	lanes := s.lanesOf(models)
	needs, errs, err := s.glance(ctx, lanes, r.read)
	if err != nil {
		return err
	}
	var crashed *candidates // read when there is somebody to take back
	for i, need := range needs {
		l := lanes[i]
		if need.reap && crashed == nil && !r.sparing {
			if crashed, err = s.readCandidates(ctx); err != nil {
				return fmt.Errorf("reading the calls of dead workers: %w", err)
			}
		}
		if err := l.tidy(ctx, need, crashed); err != nil {
			errs = append(errs, l.fault(err))
		}
		if r.trim {
			errs = append(errs, l.trim(ctx), l.forgetCancelled(ctx))
		}
	}
	return errors.Join(errs...)
}

// lanesOf returns the lanes of the models, those of this process's own first.
func (s *Sweeper) lanesOf(models []string) []laneSweep {
	slices.Sort(models)
	var lanes []laneSweep
	seen := map[string]bool{}
	for _, model := range slices.Concat(s.named, models) {
		if seen[model] {
			continue
		}
		seen[model] = true
		for _, lane := range tasks.Lanes {
			lanes = append(lanes, laneSweep{s, wire.KeysOf(model, lane), model, lane})
		}
	}
	return lanes
}

// A laneSweep is one lane's part of a sweep.
type laneSweep struct {
	*Sweeper
	keys  wire.Keys
	model string
	lane  tasks.Lane
}

// A need is what a lane is to be swept of.
type need struct {
	reap, forward, bury, expire, retire bool
}

// glance tells what each lane is to be swept of. Of an idle lane none of the keys is there, which one command tells;
// only the others are looked at. In a query lane tasks that wait are looked at too, since they may have expired. What
// could not be seen, for a key is of another type, is not swept and among the faults; the error is the connection's.
func (s *Sweeper) glance(ctx context.Context, lanes []laneSweep, read bool) (list []need, faults []error, err error) {
	there := make([]*redis.IntCmd, len(lanes))
	_, err = s.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, l := range lanes {
			k := l.keys
			keys := []string{k.Lease(), k.Active(), k.Scheduled(), k.Retry(), k.Archived(), k.Completed()}
			if l.lane == tasks.Query {
				keys = append(keys, k.Pending())
			}
			there[i] = pipe.Exists(ctx, keys...)
		}
		return nil
	})
	if err != nil && !answered(err) {
		return nil, nil, fmt.Errorf("looking at the lanes: %w", err)
	}
	list = make([]need, len(lanes))
	var busy []int
	for i, n := range there {
		if n.Err() != nil {
			faults = append(faults, lanes[i].fault(n.Err()))
		}
		if n.Val() > 0 {
			busy = append(busy, i)
		}
	}
	if len(busy) == 0 {
		return list, faults, nil
	}
	more, err := s.examine(ctx, lanes, busy, read, list)
	return list, append(faults, more...), err
}

// answered reports whether an error is Redis's answer to a command, and not the connection's.
func answered(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// fault is an error of one lane.
func (l laneSweep) fault(err error) error {
	return fmt.Errorf("lane %s of %s: %w", l.lane, l.model, err)
}

// examine is the closer look at lanes that have something, in one round trip for all.
func (s *Sweeper) examine(ctx context.Context, lanes []laneSweep, busy []int, read bool, list []need) (faults []error, err error) {
	type look struct {
		leases, scheduled, retry, completed *redis.ZSliceCmd // the first of each
		active, leased, archived, pendinged *redis.IntCmd
	}
	looks := make([]look, len(busy))
	pipe := s.rdb.Pipeline()
	now := pipe.Time(ctx)
	for n, i := range busy {
		k := lanes[i].keys
		looks[n] = look{
			leases:    pipe.ZRangeWithScores(ctx, k.Lease(), 0, 0),
			scheduled: pipe.ZRangeWithScores(ctx, k.Scheduled(), 0, 0),
			retry:     pipe.ZRangeWithScores(ctx, k.Retry(), 0, 0),
			completed: pipe.ZRangeWithScores(ctx, k.Completed(), 0, 0),
			active:    pipe.LLen(ctx, k.Active()),
			leased:    pipe.ZCard(ctx, k.Lease()),
			archived:  pipe.ZCard(ctx, k.Archived()),
			pendinged: pipe.LLen(ctx, k.Pending()),
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && (now.Err() != nil || !answered(err)) {
		return nil, fmt.Errorf("looking at the lanes: %w", err)
	}
	at := float64(now.Val().UnixMicro()) / 1e6
	for n, i := range busy {
		k := looks[n]
		for _, cmd := range []redis.Cmder{k.leases, k.scheduled, k.retry, k.completed, k.active, k.leased, k.archived, k.pendinged} {
			if cmd.Err() != nil {
				faults = append(faults, lanes[i].fault(cmd.Err()))
			}
		}
		list[i] = need{
			reap:    before(k.leases, at) || k.active.Val() != k.leased.Val() || read,
			forward: before(k.scheduled, at+1) || before(k.retry, at+1),
			bury:    k.archived.Val() > 0,
			expire:  lanes[i].lane == tasks.Query && k.pendinged.Val() > 0,
			retire:  before(k.completed, at),
		}
	}
	return faults, nil
}

// before reports whether the first of a sorted set is before a time.
func before(first *redis.ZSliceCmd, limit float64) bool {
	list := first.Val()
	return len(list) > 0 && list[0].Score < limit
}

// tidy does what is needed. Without candidates nobody is taken back.
func (l laneSweep) tidy(ctx context.Context, n need, crashed *candidates) error {
	var errs []error
	if n.reap && crashed != nil {
		errs = append(errs, l.reapAll(ctx, crashed))
	}
	if n.forward {
		for _, set := range []string{l.keys.Scheduled(), l.keys.Retry()} {
			errs = append(errs, l.repeat(ctx, "forwarding due tasks", l.forward, set, l.keys.Pending()))
		}
	}
	if n.bury {
		errs = append(errs, l.buryArchived(ctx))
	}
	if n.expire {
		errs = append(errs, l.expireAll(ctx))
	}
	if n.retire {
		errs = append(errs, l.repeat(ctx, "forgetting tasks that are done", l.retire, l.keys.Completed()))
	}
	return errors.Join(errs...)
}

// repeat runs a script that takes 100 tasks at most until none is left for it.
func (l laneSweep) repeat(ctx context.Context, doing string, script wire.Script, keys ...string) error {
	for {
		n, err := script.Run(ctx, l.rdb, keys, l.keys.Tasks()).Int()
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if n == 0 {
			return nil
		}
	}
}

// expireAll drops queries for which nobody waits any more, so that those of an alias which nobody serves come to
// an end. Workers drop them too, on their way.
func (l laneSweep) expireAll(ctx context.Context) error {
	keys := []string{l.keys.Pending(), l.keys.Counts(), l.keys.Cancelled()}
	n, err := l.expire.Run(ctx, l.rdb, keys, l.keys.Tasks()).Int()
	if err != nil {
		return fmt.Errorf("dropping expired queries: %w", err)
	}
	if n > 0 {
		l.log.Debug("dropped expired queries", "model", l.model, "queries", n)
	}
	return nil
}

// forgetCancelled drops the marks of tasks that are gone for a while.
func (l laneSweep) forgetCancelled(ctx context.Context) error {
	old := fmt.Sprint(time.Now().Add(-cancelKept).Unix())
	by := &redis.ZRangeBy{Min: "-inf", Max: old, Count: cancelPage}
	ids, err := l.rdb.ZRangeByScore(ctx, l.keys.Cancelled(), by).Result()
	if err != nil || len(ids) == 0 {
		return err
	}
	there := make([]*redis.IntCmd, len(ids))
	_, err = l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			there[i] = pipe.Exists(ctx, l.keys.Task(id))
		}
		return nil
	})
	if err != nil {
		return err
	}
	var gone []any
	for i, id := range ids {
		if there[i].Val() == 0 {
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return l.rdb.ZRem(ctx, l.keys.Cancelled(), gone...).Err()
}

const (
	// cancelKept is how long a cancellation is remembered after its task is gone, so that whoever waits
	// for the task learns of it.
	cancelKept = 10 * time.Minute
	// cancelPage bounds how many are looked at in a sweep.
	cancelPage = 10_000
)
