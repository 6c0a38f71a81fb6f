// Package storetest is what any store must do, as tests ([Run], [RunFaults]), and a store in memory that
// passes them, for tests of the rooms that only use one. It knows no database.
package storetest

import (
	"context"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// A Store is everything a full store offers. No consumer needs all of it; each declares the few methods it
// uses.
type Store interface {
	Writer
	Reader
	Spaces
	Answers
}

// A Writer is what workers and producers write with. See package store/redis for the contract of each
// method.
type Writer interface {
	Putter
	Refresher
	Delete(ctx context.Context, alias, id string, version int64) (bool, error)
}

// A Putter stores what was embedded.
type Putter interface {
	Put(ctx context.Context, rec vector.Record) (bool, error)
	PutMany(ctx context.Context, recs []vector.Record) ([]bool, []error)
}

// A Refresher tells what needs no embedding.
type Refresher interface {
	Refresh(ctx context.Context, rec vector.Record) (bool, error)
	RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error)
}

// A Reader is what searches and reports read with.
type Reader interface {
	Get(ctx context.Context, alias, id string) (vector.Record, error)
	Changes(ctx context.Context, c store.Cursor) (store.Changes, error)
	Stats(ctx context.Context, alias string) (map[vector.Space]store.Stats, error)
}

// Spaces is the space-of-record of each alias.
type Spaces interface {
	ClaimSpace(ctx context.Context, alias string, space vector.Space, mode store.ClaimMode) error
	Space(ctx context.Context, alias string) (vector.Space, error)
}

// Answers carries outcomes of queries.
type Answers interface {
	Answer(ctx context.Context, id string, e vector.Embedding, failure error) error
	AnswerMany(ctx context.Context, list []vector.Answer) []error
	Await(ctx context.Context, id string) (vector.Embedding, error)
}
