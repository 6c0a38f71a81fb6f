// Package search turns a search text into hits: a worker gives the text's vector over the query lane, an
// in-memory index the nearest documents. It knows neither Redis nor models; both are behind its seams.
package search

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// maxAsks is how often a search text is embedded until its vector is of the right space.
const maxAsks = 10

// DefaultTimeout is how long a search waits for a worker.
const DefaultTimeout = 30 * time.Second

// ErrNoAnswer is wrapped when no worker answered in time: none runs, or all are loading or busy.
var ErrNoAnswer = errors.New("no worker answered")

// A Queue takes one task. It returns nil once a worker is sure to get it.
type Queue interface {
	Enqueue(ctx context.Context, t tasks.Task) error
}

// Answers brings the outcome of a query task. Await returns when it is there, or with ctx's error.
type Answers interface {
	Await(ctx context.Context, id string) (vector.Embedding, error)
}

// Documents is the store as a search sees it: the space an alias writes now ("" if it never wrote), and
// the change log that the index follows.
type Documents interface {
	store.Source
	Space(ctx context.Context, alias string) (vector.Space, error)
}

// Options may be nil.
type Options struct {
	Timeout time.Duration // for a worker's answer, in whole seconds; 0 means DefaultTimeout
	Index   *store.IndexOptions
}

// A Service searches the documents of one alias. It keeps their vectors in memory between searches and
// follows what changed. It is safe for concurrent use.
type Service struct {
	log     *slog.Logger
	model   string
	queue   Queue
	answers Answers
	docs    Documents
	opts    Options

	mu    sync.Mutex // guards the two below, not the index itself
	space vector.Space
	index *store.Index
}

// Parts are what a service works with. All are needed.
type Parts struct {
	Queue     Queue
	Answers   Answers
	Documents Documents
}

// New returns a service for the documents of alias.
func New(log *slog.Logger, alias string, p Parts, opts *Options) *Service {
	s := &Service{log: log, model: alias, queue: p.Queue, answers: p.Answers, docs: p.Documents}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Timeout <= 0 {
		s.opts.Timeout = DefaultTimeout
	}
	return s
}

// A Result is the answer to a search.
type Result struct {
	Hits      []store.Hit
	Space     vector.Space
	Documents int           // that were searched
	Embedding time.Duration // until the worker's answer
	Scan      time.Duration // to follow the store and to look at every vector
}

// Search returns the k documents nearest to text among those that pass the filter. A text that can't be
// embedded is refused with the error of tasks.NewQuery or of the worker; without a worker the error wraps
// [ErrNoAnswer]; a filter by a field that no document has is a [*store.FilterError].
func (s *Service) Search(ctx context.Context, text string, k int, filter store.Filter) (Result, error) {
	begun := time.Now()
	embedding, space, err := s.inSpace(ctx, text)
	if err != nil {
		return Result{}, err
	}
	r := Result{Embedding: time.Since(begun)}
	begun = time.Now()
	index, err := s.current(ctx, space)
	if err != nil {
		return r, err
	}
	if r.Hits, err = index.Search(ctx, store.Query{Vector: embedding.Vector, K: k, Filter: filter}); err != nil {
		return r, fmt.Errorf("searching: %w", err)
	}
	if len(r.Hits) == 0 {
		if err := index.CheckFilter(filter); err != nil {
			return r, err
		}
	}
	r.Documents, _ = index.Len()
	r.Space, r.Scan = space, time.Since(begun)
	return r, nil
}

// inSpace has text embedded in the space that the alias writes now. While workers of two spaces serve one
// alias, any of them may answer; a vector of the other space would find nonsense, so it is asked for again.
func (s *Service) inSpace(ctx context.Context, text string) (vector.Embedding, vector.Space, error) {
	for tries := 1; ; tries++ {
		embedding, err := s.ask(ctx, text)
		if err != nil {
			return embedding, "", err
		}
		space, err := s.docs.Space(ctx, s.model)
		if err != nil {
			return embedding, "", fmt.Errorf("reading the space of %q: %w", s.model, err)
		}
		if embedding.Space == "" || space == "" || embedding.Space == space {
			return embedding, space, nil
		}
		if tries == maxAsks {
			return embedding, "", fmt.Errorf("embedding the search text: %d answers are of space %s, model %q writes %s: stop the workers of the old model",
				tries, embedding.Space.Short(), s.model, space.Short())
		}
	}
}

// ask has a worker embed text.
func (s *Service) ask(ctx context.Context, text string) (vector.Embedding, error) {
	task, err := tasks.NewQuery(s.model, text, &tasks.Options{Timeout: s.opts.Timeout})
	if err != nil {
		return vector.Embedding{}, fmt.Errorf("checking the search text: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	if err := s.queue.Enqueue(waiting, task); err != nil {
		return vector.Embedding{}, fmt.Errorf("enqueuing the search text: %w", err)
	}
	embedding, err := s.answers.Await(waiting, task.ID)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("%w within %v: is a worker of model %q running and ready?", ErrNoAnswer, s.opts.Timeout, s.model)
	}
	if err != nil {
		return embedding, fmt.Errorf("embedding the search text: %w", err)
	}
	return embedding, nil
}

// current returns an index of space, up to date with the store. What the index could not take from the
// store is logged; unless that left it empty, the rest is searched, since an old answer is worth more than
// none.
func (s *Service) current(ctx context.Context, space vector.Space) (*store.Index, error) {
	s.mu.Lock()
	if s.index == nil || s.space != space {
		s.space, s.index = space, store.NewIndex(s.model, space, s.opts.Index)
	}
	index := s.index
	s.mu.Unlock()
	if _, err := index.Sync(ctx, s.docs); err != nil {
		if documents, _ := index.Len(); documents == 0 {
			return nil, fmt.Errorf("following the store: %w", err)
		}
		s.log.WarnContext(ctx, "index is behind the store", "model", s.model, "err", err)
	}
	return index, nil
}
