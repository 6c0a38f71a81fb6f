// Package registry says which workers there are, what they were told, and what happened to them. It owns the keys:
//
//	embedfleet:workers                  ZSET  worker id -> Unix time at which its entry lapses
//	embedfleet:workers:names            HASH  worker id -> model, state and process, for who outlives its entry
//	embedfleet:workers:watch            whose turn it is to look for lost workers
//	embedfleet:worker:<id>              HASH  what the worker says of itself, TTL [WorkerTTL]: model, state,
//	                                          host, pid, and all of it in entry, JSON of [Worker]
//	embedfleet:lost:<id>                the process that noted the worker's end, TTL 2 h
//	embedfleet:events                   STREAM what changed lately, at most [MaxEvents]: what, who, model, about, text
//	embedfleet:settings:revision        counter of the orders given to workers, see [Control]
//	embedfleet:settings:model:<alias>   HASH  orders for every worker of a model: concurrency, max_access,
//	                                          access_timeout, each "<revision> <value>"; by
//	embedfleet:settings:worker:<id>     HASH  the same for one worker, and drain; TTL 1 h, kept while it lives
package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// WorkerTTL is how long a worker is believed to live after it last said so.
	WorkerTTL = 6 * time.Second
	// announceEvery leaves room for two announcements to get lost.
	announceEvery = 2 * time.Second
	// watchEvery is how often lost workers are looked for, by one process of the fleet.
	watchEvery = 5 * time.Second
	// lastWrite bounds what a process writes on its way out.
	lastWrite = 3 * time.Second

	// lostTTL is how long it is known that somebody noted a worker's end, longer than the index keeps it.
	lostTTL = 2 * time.Hour

	workersKey = "embedfleet:workers"
	namesKey   = "embedfleet:workers:names"
	watchKey   = "embedfleet:workers:watch"
)

func workerKey(id string) string { return "embedfleet:worker:" + id }
func lostKey(id string) string   { return "embedfleet:lost:" + id }

// The states of a worker.
const (
	StateLoading  = "loading"  // the model is not there yet; tasks wait in Redis
	StateReady    = "ready"    // serving, with nothing in hand
	StateBusy     = "busy"     // serving, with tasks in hand
	StateDraining = "draining" // told to stop; finishing what is under way
	StateFailed   = "failed"   // given up, see Reason; somebody has to look
	StateZombie   = "zombie"   // has tasks in hand and makes no progress, see Reason
)

// A Worker is what a worker process says of itself. Figures that a process can't tell are zero.
type Worker struct {
	ID      string       `json:"id"` // unique per process start
	Model   string       `json:"model"`
	Space   vector.Space `json:"space,omitempty"` // empty while loading
	State   string       `json:"state"`           // one of the states above
	Since   time.Time    `json:"since"`           // of the state; busy and ready are one here
	Reason  string       `json:"reason,omitempty"`
	Host    string       `json:"host"`
	PID     int          `json:"pid"`
	Name    string       `json:"name,omitempty"`   // what its supervisor calls it, as "worker-1"
	Probes  string       `json:"probes,omitempty"` // host:port of /livez, /readyz, /statusz and /metrics on its host
	Lanes   []tasks.Lane `json:"lanes"`
	Version string       `json:"version"`    // of the program
	Started time.Time    `json:"started_at"` // of the process
	Crashes int          `json:"crashes"`    // times its supervisor had to start it again

	Device    string `json:"device,omitempty"`
	Precision string `json:"precision,omitempty"`
	Dim       int    `json:"dim,omitempty"`
	Runners   int    `json:"runners,omitempty"` // native calls at once

	Settings        // in force
	Revision  int64 `json:"settings_revision"` // of what [Control] delivered; 0 is none yet
	InUse     int   `json:"in_use"`            // tasks in hand
	Overdue   int   `json:"overdue"`           // of these, beyond their deadline
	Waiting   int   `json:"waiting_texts"`     // rows that wait inside the engine
	TextsEver int64 `json:"texts_total"`       // embedded since the start; the rate between two readings is right
	// TokensEver is the same in tokens, padding left out.
	TokensEver int64   `json:"tokens_total"`
	TokenRate  float64 `json:"tokens_per_second"` // of the last 10 s

	Memory  Memory   `json:"memory"`
	Loading *Loading `json:"loading,omitempty"` // while loading
	Held    *Held    `json:"held,omitempty"`    // while tasks are held back
	Refused string   `json:"refused,omitempty"` // why the latest settings were not taken

	// Silent is how long nothing was heard of the worker, which says so every 2 s. Given by [Workers.List].
	Silent Seconds `json:"silent_seconds"`
}

// Memory is what a process occupies, in bytes.
type Memory struct {
	Private int64 `json:"private_bytes"` // pages that no other process maps; while loading, those that none can
	Shared  int64 `json:"shared_bytes"`  // the rest, as prepared weights are
	RSS     int64 `json:"rss_bytes"`     // both
	// Proportional is Private and this process's share of Shared, which adds up over processes; 0 while loading.
	Proportional int64 `json:"proportional_bytes"`
}

// Loading says how far a start-up is.
type Loading struct {
	Stage string    `json:"stage"` // fetching, checking, preparing, loading, warming
	Since time.Time `json:"since"` // of the stage
	// Done and Total are bytes of a download, 0 in the other stages.
	Done  int64 `json:"done_bytes,omitempty"`
	Total int64 `json:"total_bytes,omitempty"`
}

// Held says since when and why tasks are held back, see the consumer's circuit breaker.
type Held struct {
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
}

// Serving reports whether the worker takes tasks.
func (w Worker) Serving() bool { return w.State == StateReady || w.State == StateBusy }

// Workers is the registry of living worker processes.
type Workers struct{ rdb redis.UniversalClient }

// NewWorkers returns a view of the registry. The Redis client is the caller's.
func NewWorkers(rdb redis.UniversalClient) *Workers { return &Workers{rdb: rdb} }

// Announce writes w to the registry every few seconds and at once whenever changed receives, until ctx
// ends; then it takes the entry out. current is called from one goroutine. It returns nil, for a Redis
// that is away is logged and tried again.
func (ws *Workers) Announce(ctx context.Context, log *slog.Logger, current func() Worker, changed <-chan struct{}) error {
	ticker := time.NewTicker(announceEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := ws.Put(ctx, current()); err != nil && ctx.Err() == nil {
			log.Warn("announcing the worker failed", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-changed:
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	if err := ws.Remove(ctx, current().ID); err != nil {
		log.Warn("taking the worker out of the registry failed", "err", err)
	}
	return nil
}

// Put writes one entry, which lapses after [WorkerTTL].
func (ws *Workers) Put(ctx context.Context, w Worker) error {
	if w.ID == "" {
		return errors.New("announcing a worker: it has no id")
	}
	fields, err := w.fields()
	if err != nil {
		return fmt.Errorf("announcing worker %s: %w", w.ID, err)
	}
	lapse := time.Now().Add(WorkerTTL)
	name := strings.Join([]string{w.Model, w.State, w.Host + ":" + strconv.Itoa(w.PID)}, " ")
	_, err = ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, workerKey(w.ID), fields)
		pipe.PExpire(ctx, workerKey(w.ID), WorkerTTL)
		pipe.HSet(ctx, namesKey, w.ID, name)
		pipe.ZAdd(ctx, workersKey, redis.Z{Score: float64(lapse.Unix()), Member: w.ID})
		return nil
	})
	if err != nil {
		return fmt.Errorf("announcing worker %s: %w", w.ID, err)
	}
	return nil
}

// Remove takes an entry out before it lapses.
func (ws *Workers) Remove(ctx context.Context, id string) error {
	_, err := ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.ZRem(ctx, workersKey, id) // first, so that who finds no entry can tell that nobody was lost
		pipe.Del(ctx, workerKey(id))
		pipe.HDel(ctx, namesKey, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing worker %s: %w", id, err)
	}
	return nil
}

// Died takes the entry of a process out that its supervisor, me, saw ending without a word: nobody need wait for
// it to lapse, or note it as lost. Its calls stay, so that who was inside one is charged.
func (ws *Workers) Died(ctx context.Context, host string, pid int, me string) error {
	list, err := ws.List(ctx)
	if err != nil {
		return err
	}
	for _, w := range list {
		if w.Host != host || w.PID != pid {
			continue
		}
		_, err := ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, lostKey(w.ID), me, lostTTL)
			pipe.Del(ctx, workerKey(w.ID))
			return nil
		})
		if err != nil {
			return fmt.Errorf("taking dead worker %s out: %w", w.ID, err)
		}
	}
	return nil
}

// List returns the living workers, sorted by model, host and process id.
func (ws *Workers) List(ctx context.Context) ([]Worker, error) {
	ids, err := ws.rdb.ZRange(ctx, workersKey, 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the worker registry: %w", err)
	}
	list, err := ws.read(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the workers: %w", err)
	}
	slices.SortFunc(list, func(a, b Worker) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Host, b.Host), cmp.Compare(a.PID, b.PID))
	})
	return list, nil
}

// An Entry is a worker that did not end in order, and whether it lives as far as is known.
type Entry struct {
	ID    string
	Lives bool
}

// Index returns the workers of the last hour that have not ended in order, by when they last said that they live.
func (ws *Workers) Index(ctx context.Context) ([]Entry, error) {
	ids, err := ws.rdb.ZRange(ctx, workersKey, 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the worker registry: %w", err)
	}
	lives := make([]*redis.IntCmd, len(ids))
	_, err = ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			lives[i] = pipe.Exists(ctx, workerKey(id))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the worker registry: %w", err)
	}
	list := make([]Entry, len(ids))
	for i, id := range ids {
		list[i] = Entry{id, lives[i].Val() > 0}
	}
	return list, nil
}

// trim takes entries out of the index that lapsed an hour ago.
func (ws *Workers) trim(ctx context.Context) error {
	old := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	ids, err := ws.rdb.ZRangeByScore(ctx, workersKey, &redis.ZRangeBy{Min: "-inf", Max: old}).Result()
	if err != nil || len(ids) == 0 {
		return err
	}
	_, err = ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.ZRemRangeByScore(ctx, workersKey, "-inf", old)
		pipe.HDel(ctx, namesKey, ids...)
		return nil
	})
	return err
}

// read returns the entries of ids that have not lapsed.
func (ws *Workers) read(ctx context.Context, ids []string) ([]Worker, error) {
	entries := make([]*redis.MapStringStringCmd, len(ids))
	lapses := make([]*redis.DurationCmd, len(ids))
	_, err := ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			entries[i], lapses[i] = pipe.HGetAll(ctx, workerKey(id)), pipe.PTTL(ctx, workerKey(id))
		}
		return nil
	})
	var list []Worker
	for i, entry := range entries {
		if len(entry.Val()) > 0 {
			w := workerOf(ids[i], entry.Val())
			w.Silent = Seconds(max(0, WorkerTTL-lapses[i].Val())) // by Redis's clock: hosts may differ
			list = append(list, w)
		}
	}
	return list, err
}

// Watch notes an [EventLost] of every worker whose entry lapses although it did not say that it ends, until
// ctx ends; then it returns nil. Any number of processes may watch: they take turns, so that what it costs grows
// with the number of workers and not with its square.
func (ws *Workers) Watch(ctx context.Context, log *slog.Logger, me string) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		mine, err := ws.rdb.SetNX(ctx, watchKey, me, watchEvery-watchEvery/10).Result()
		if err == nil && mine {
			err = ws.look(ctx, me)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("looking for lost workers failed", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

// look notes whoever is in the index without an entry.
func (ws *Workers) look(ctx context.Context, me string) error {
	index, err := ws.Index(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, w := range index {
		if !w.Lives {
			errs = append(errs, ws.lose(ctx, w.ID, me))
		}
	}
	return errors.Join(append(errs, ws.trim(ctx))...)
}

// lose notes that a worker was lost, unless that was done.
func (ws *Workers) lose(ctx context.Context, id, me string) error {
	first, err := ws.rdb.SetNX(ctx, lostKey(id), me, lostTTL).Result()
	if err != nil || !first {
		return err
	}
	if err := ws.rdb.ZScore(ctx, workersKey, id).Err(); errors.Is(err, redis.Nil) {
		return nil // it has just ended in order
	}
	name, err := ws.rdb.HGet(ctx, namesKey, id).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	model, rest, _ := strings.Cut(name, " ")
	state, process, _ := strings.Cut(rest, " ")
	text := fmt.Sprintf("%s said nothing for %v; it was %s", process, WorkerTTL, state)
	if name == "" {
		text = fmt.Sprintf("it said nothing for %v", WorkerTTL)
	}
	return NewEvents(ws.rdb).Append(ctx, Event{What: EventLost, Who: me, Model: model, About: id, Text: text})
}

// fields is the hash of w: all of it as JSON, and beside it what a person with redis-cli asks first.
func (w Worker) fields() (map[string]any, error) {
	entry, err := json.Marshal(w)
	return map[string]any{"model": w.Model, "state": w.State, "host": w.Host, "pid": w.PID, "entry": entry}, err
}

// workerOf is the inverse of fields. Of an entry it can't read only the plain fields count: the list is for
// people, and a worker of another version must not hide the rest.
func workerOf(id string, f map[string]string) Worker {
	var w Worker
	if json.Unmarshal([]byte(f["entry"]), &w) != nil {
		w = Worker{Model: f["model"], State: f["state"], Host: f["host"]}
		w.PID, _ = strconv.Atoi(f["pid"])
	}
	w.ID = id
	return w
}
