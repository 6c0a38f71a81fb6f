package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// WorkerTTL is how long a worker is believed to live after it last said so.
	WorkerTTL = 15 * time.Second
	// announceEvery leaves room for two announcements to get lost.
	announceEvery = 5 * time.Second

	workersKey = "embedfleet:workers"
)

func workerKey(id string) string { return "embedfleet:worker:" + id }

// A Worker is what a worker process says of itself.
type Worker struct {
	ID          string       `json:"id"` // unique per process start
	Model       string       `json:"model"`
	Space       vector.Space `json:"space,omitempty"` // empty while loading
	State       string       `json:"state"`           // "loading", "ready", "draining" ...
	Since       time.Time    `json:"since"`           // of the state
	Host        string       `json:"host"`
	PID         int          `json:"pid"`
	Lanes       []tasks.Lane `json:"lanes"`
	Concurrency int          `json:"concurrency"`
	Version     string       `json:"version"` // of the program
}

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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
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
	_, err = ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, workerKey(w.ID), fields)
		pipe.PExpire(ctx, workerKey(w.ID), WorkerTTL)
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
		pipe.Del(ctx, workerKey(id))
		pipe.ZRem(ctx, workersKey, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing worker %s: %w", id, err)
	}
	return nil
}

// List returns the living workers, sorted by model, host and process id. Entries that lapsed long ago
// leave the index on the way.
func (ws *Workers) List(ctx context.Context) ([]Worker, error) {
	old := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	if err := ws.rdb.ZRemRangeByScore(ctx, workersKey, "-inf", old).Err(); err != nil {
		return nil, fmt.Errorf("trimming the worker registry: %w", err)
	}
	ids, err := ws.rdb.ZRange(ctx, workersKey, 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the worker registry: %w", err)
	}
	cmds := make([]*redis.MapStringStringCmd, len(ids))
	_, err = ws.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = pipe.HGetAll(ctx, workerKey(id))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the workers: %w", err)
	}
	var list []Worker
	for i, cmd := range cmds {
		if len(cmd.Val()) > 0 { // else its TTL has passed
			list = append(list, workerOf(ids[i], cmd.Val()))
		}
	}
	slices.SortFunc(list, func(a, b Worker) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Host, b.Host), cmp.Compare(a.PID, b.PID))
	})
	return list, nil
}

// fields is the hash of w. Times are RFC 3339, lanes a JSON list.
func (w Worker) fields() (map[string]any, error) {
	lanes, err := json.Marshal(w.Lanes)
	return map[string]any{
		"model":       w.Model,
		"space":       string(w.Space),
		"state":       w.State,
		"since":       w.Since.UTC().Format(time.RFC3339Nano),
		"host":        w.Host,
		"pid":         w.PID,
		"lanes":       string(lanes),
		"concurrency": w.Concurrency,
		"version":     w.Version,
	}, err
}

// workerOf is the inverse of fields. A value it can't read stays zero: the list is for people, and a worker
// of another version must not hide the rest.
func workerOf(id string, f map[string]string) Worker {
	w := Worker{
		ID:      id,
		Model:   f["model"],
		Space:   vector.Space(f["space"]),
		State:   f["state"],
		Host:    f["host"],
		Version: f["version"],
	}
	w.Since, _ = time.Parse(time.RFC3339Nano, f["since"])
	w.PID, _ = strconv.Atoi(f["pid"])
	w.Concurrency, _ = strconv.Atoi(f["concurrency"])
	_ = json.Unmarshal([]byte(f["lanes"]), &w.Lanes)
	return w
}
