// Package fleet opens what a process without a model needs to see and feed the fleet: the queue, the store,
// the registry and a search service, all on one Redis. It is wiring that several commands share.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A Fleet is the view of one Redis.
type Fleet struct {
	Queue   *queue.Client
	Store   *storeredis.Store
	Lanes   *queue.Lanes
	Workers *registry.Workers
	Dead    *upkeep.Dead
	Control *registry.Control
	Events  *registry.Events

	rdb    redis.UniversalClient
	served serving
	asked  asked
}

// Open connects to Redis and checks that it answers. The caller closes the fleet.
func Open(ctx context.Context, conn queue.Conn) (*Fleet, error) {
	rdb := conn.Client()
	if err := rdb.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("reaching %v: %w", conn, err), rdb.Close())
	}
	return New(rdb), nil
}

// New is Open over a client that there is, whether Redis answers or not. Closing the fleet closes the client.
func New(rdb redis.UniversalClient) *Fleet {
	workers := registry.NewWorkers(rdb)
	return &Fleet{
		Queue:   queue.NewClient(rdb, nil),
		Store:   storeredis.New(rdb),
		Lanes:   queue.NewLanes(rdb),
		Workers: workers,
		Dead:    upkeep.NewDead(rdb),
		Control: registry.NewControl(rdb),
		Events:  registry.NewEvents(rdb),
		rdb:     rdb,
		served:  serving{workers: workers},
		asked:   asked{open: map[string]bool{}},
	}
}

// Fsck looks for inconsistencies of the queue.
func (f *Fleet) Fsck(ctx context.Context, opts *upkeep.FsckOptions) ([]upkeep.Finding, error) {
	return upkeep.Fsck(ctx, f.rdb, opts)
}

// Limit bounds what the fleet's producers may have waiting.
func (f *Fleet) Limit(limits queue.Limits) { f.Produce(&queue.ClientOptions{Limits: limits}) }

// Produce says how the fleet's producers enqueue.
func (f *Fleet) Produce(opts *queue.ClientOptions) { f.Queue = queue.NewClient(f.rdb, opts) }

// Forget removes all that the queue holds of an alias, see [queue.Lanes.Forget]. It refuses with an error that wraps
// [queue.ErrInUse] while workers serve it.
func (f *Fleet) Forget(ctx context.Context, alias string) (int, error) {
	workers, err := f.Workers.List(ctx)
	if err != nil {
		return 0, err
	}
	serving := 0
	for _, w := range workers {
		if w.Model == alias && w.State != registry.StateFailed {
			serving++
		}
	}
	if serving > 0 {
		return 0, fmt.Errorf("forgetting alias %s: %w: %d workers serve it; drain them first", alias, queue.ErrInUse, serving)
	}
	return f.Lanes.Forget(ctx, alias)
}

// Close waits until queries that nobody waits for are cancelled, and ends the connection.
func (f *Fleet) Close() error {
	f.asked.close()
	return f.rdb.Close()
}

// Model returns alias, or if it is empty the one model that there is: the one that living workers serve, or
// without workers the one whose lanes hold tasks or whose documents are stored. A lane that somebody named
// once by mistake does not count. With none or several the error says what to do.
func (f *Fleet) Model(ctx context.Context, alias string) (string, error) {
	if alias != "" {
		return alias, tasks.CheckModel(alias)
	}
	names, err := f.Models(ctx)
	if err != nil {
		return "", err
	}
	switch len(names) {
	case 0:
		return "", errors.New("no worker has registered, nothing waits and no model was named: name it by --model")
	case 1:
		return names[0], nil
	default:
		return "", fmt.Errorf("there are several models (%s): name one by --model", strings.Join(names, ", "))
	}
}

// Models returns the aliases that living workers serve, sorted, or without workers those whose lanes hold tasks or whose
// documents are stored.
func (f *Fleet) Models(ctx context.Context) ([]string, error) {
	workers, err := f.Workers.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, w := range workers {
		names = append(names, w.Model)
	}
	if len(names) == 0 {
		if names, err = f.used(ctx); err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// used returns the models whose lanes hold something, or which write documents.
func (f *Fleet) used(ctx context.Context) ([]string, error) {
	lanes, err := f.Lanes.Status(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range lanes {
		space, err := f.Store.Space(ctx, l.Model)
		if err != nil {
			return nil, err
		}
		if space != "" || l.Lane != tasks.Query && l.Pending+l.Active+l.Scheduled+l.Retry > 0 {
			names = append(names, l.Model)
		}
	}
	return names, nil
}

// Search returns a service over the documents of alias.
func (f *Fleet) Search(log *slog.Logger, alias string, opts *search.Options) *search.Service {
	return search.New(log, alias, search.Parts{Queue: one{f}, Answers: answers{f}, Documents: f.Store}, opts)
}

// A Status is a snapshot of the fleet, in JSON form.
type Status struct {
	Lanes   []Lane            `json:"lanes"`
	Workers []registry.Worker `json:"workers"`
	Spaces  []Space           `json:"spaces"`
}

// A Lane is one lane of one model.
type Lane struct {
	Model         string     `json:"model"`
	Lane          tasks.Lane `json:"lane"`
	Pending       int64      `json:"pending"`
	Active        int64      `json:"active"`
	Scheduled     int64      `json:"scheduled"`
	Retry         int64      `json:"retry"`
	Dead          int64      `json:"dead"`
	Paused        bool       `json:"paused"`
	OldestSeconds float64    `json:"oldest_seconds"`
	RetryDue      int64      `json:"retry_due"`
	Crashes       int64      `json:"crashes"`
	Duplicates    int64      `json:"duplicates_avoided"`
	Tokens        int64      `json:"tokens_waiting"` // an estimate
}

// A Space is what the store holds of one model in one space.
type Space struct {
	Model     string       `json:"model"`
	Space     vector.Space `json:"space"`
	Current   bool         `json:"current"` // the space the alias writes now
	Documents int64        `json:"documents"`
	Chunks    int64        `json:"chunks"`
	Tokens    int64        `json:"tokens"`
}

// Status reads lanes, workers and counts. Alias may be empty; naming it shows its lanes even if the queue
// registry lost them.
func (f *Fleet) Status(ctx context.Context, alias string) (Status, error) {
	var named []string
	if alias != "" {
		named = append(named, alias)
	}
	lanes, err := f.Lanes.Status(ctx, named...)
	if err != nil {
		return Status{}, err
	}
	s := Status{Lanes: []Lane{}, Workers: []registry.Worker{}, Spaces: []Space{}}
	var models []string
	for _, l := range lanes {
		models = append(models, l.Model)
		s.Lanes = append(s.Lanes, Lane{
			Model: l.Model, Lane: l.Lane, Pending: l.Pending, Active: l.Active, Scheduled: l.Scheduled,
			Retry: l.Retry, Dead: l.Dead, Paused: l.Paused, OldestSeconds: l.OldestPending.Round(time.Millisecond).Seconds(),
			RetryDue: l.RetryDue, Crashes: l.Crashes, Duplicates: l.Duplicates, Tokens: l.Tokens,
		})
	}
	workers, err := f.Workers.List(ctx)
	if err != nil {
		return s, err
	}
	s.Workers = append(s.Workers, workers...)
	for _, model := range slices.Compact(models) {
		spaces, err := f.spaces(ctx, model)
		if err != nil {
			return s, err
		}
		s.Spaces = append(s.Spaces, spaces...)
	}
	return s, nil
}

func (f *Fleet) spaces(ctx context.Context, model string) ([]Space, error) {
	current, err := f.Store.Space(ctx, model)
	if err != nil {
		return nil, err
	}
	counts, err := f.Store.Stats(ctx, model)
	if err != nil {
		return nil, err
	}
	var out []Space
	for space, n := range counts {
		out = append(out, newSpace(model, space, n, space == current))
	}
	slices.SortFunc(out, func(a, b Space) int { return strings.Compare(string(a.Space), string(b.Space)) })
	return out, nil
}

func newSpace(model string, space vector.Space, n store.Stats, current bool) Space {
	return Space{Model: model, Space: space, Current: current, Documents: n.Documents, Chunks: n.Chunks, Tokens: n.Tokens}
}
