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
	Workers *queue.Workers
	Dead    *queue.Dead

	rdb redis.UniversalClient
}

// Open connects to Redis and checks that it answers. The caller closes the fleet.
func Open(ctx context.Context, conn queue.Conn) (*Fleet, error) {
	rdb := conn.Client()
	if err := rdb.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("reaching %v: %w", conn, err), rdb.Close())
	}
	return &Fleet{
		Queue:   queue.NewClient(rdb, nil),
		Store:   storeredis.New(rdb),
		Lanes:   queue.NewLanes(rdb),
		Workers: queue.NewWorkers(rdb),
		Dead:    queue.NewDead(rdb),
		rdb:     rdb,
	}, nil
}

// Close ends the connection.
func (f *Fleet) Close() error { return f.rdb.Close() }

// Model returns alias, or if it is empty the one model that workers serve or lanes are named after. With
// none or several the error says what to do.
func (f *Fleet) Model(ctx context.Context, alias string) (string, error) {
	if alias != "" {
		return alias, tasks.CheckModel(alias)
	}
	names, err := f.Lanes.Models(ctx)
	if err != nil {
		return "", err
	}
	workers, err := f.Workers.List(ctx)
	if err != nil {
		return "", err
	}
	for _, w := range workers {
		names = append(names, w.Model)
	}
	slices.Sort(names)
	switch names = slices.Compact(names); len(names) {
	case 0:
		return "", errors.New("no worker has registered yet and no model was named: name it by --model")
	case 1:
		return names[0], nil
	default:
		return "", fmt.Errorf("several models are served (%s): name one by --model", strings.Join(names, ", "))
	}
}

// Search returns a service over the documents of alias.
func (f *Fleet) Search(log *slog.Logger, alias string, opts *search.Options) *search.Service {
	return search.New(log, alias, search.Parts{Queue: one{f.Queue}, Answers: f.Store, Documents: f.Store}, opts)
}

// one hands single tasks to a client that takes many.
type one struct{ client *queue.Client }

func (o one) Enqueue(ctx context.Context, t tasks.Task) error {
	receipts, err := o.client.Enqueue(ctx, []tasks.Task{t})
	if err != nil {
		return err
	}
	return receipts[0].Err
}

// Documents looks up the documents of one alias.
func (f *Fleet) Documents(alias string) Documents { return Documents{f.Store, alias} }

// Documents is a store with the alias filled in.
type Documents struct {
	store *storeredis.Store
	alias string
}

// Get returns the record of a document; the error wraps store.ErrNotFound if there is none.
func (d Documents) Get(ctx context.Context, id string) (vector.Record, error) {
	return d.store.Get(ctx, d.alias, id)
}

// A Status is a snapshot of the fleet, in JSON form.
type Status struct {
	Lanes   []Lane         `json:"lanes"`
	Workers []queue.Worker `json:"workers"`
	Spaces  []Space        `json:"spaces"`
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
	s := Status{Lanes: []Lane{}, Workers: []queue.Worker{}, Spaces: []Space{}}
	var models []string
	for _, l := range lanes {
		models = append(models, l.Model)
		s.Lanes = append(s.Lanes, Lane{
			Model: l.Model, Lane: l.Lane, Pending: l.Pending, Active: l.Active, Scheduled: l.Scheduled,
			Retry: l.Retry, Dead: l.Dead, Paused: l.Paused, OldestSeconds: l.OldestPending.Round(time.Millisecond).Seconds(),
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
