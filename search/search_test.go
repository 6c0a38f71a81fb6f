package search_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A fleet answers queries with a fake model, or does not.
type fleet struct {
	*storetest.Memory
	model   embedtest.Embedder
	silent  bool
	refused error // by the queue
	broken  error // of the store's change log
	pending map[string]tasks.Task
	spaces  []vector.Space // of the answers, in turn; none: answers don't say
	asked   int
}

func newFleet(t *testing.T, texts ...string) *fleet {
	t.Helper()
	f := &fleet{Memory: storetest.NewMemory(), pending: map[string]tasks.Task{}}
	for _, text := range texts {
		f.put(t, "s1", text)
	}
	return f
}

func (f *fleet) put(t *testing.T, space vector.Space, text string) {
	t.Helper()
	chunks, err := f.model.EmbedDocument(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Put(t.Context(), vector.Record{
		Document: vector.Document{ID: text, Text: text, Source: text[:1]}, Model: "m", Space: space,
		TextHash: vector.TextHash(text), Version: 1, Chunks: chunks,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) Enqueue(_ context.Context, task tasks.Task) error {
	f.pending[task.ID] = task
	return f.refused
}

func (f *fleet) Await(ctx context.Context, id string) (vector.Embedding, error) {
	if f.silent {
		<-ctx.Done()
		return vector.Embedding{}, ctx.Err()
	}
	q, err := tasks.DecodeQuery(f.pending[id].Payload)
	if err != nil {
		return vector.Embedding{}, err
	}
	e, err := f.model.EmbedQuery(ctx, q.Text)
	if len(f.spaces) > 0 {
		e.Space = f.spaces[f.asked%len(f.spaces)]
	}
	f.asked++
	return e, err
}

func (f *fleet) Changes(ctx context.Context, c store.Cursor) (store.Changes, error) {
	if f.broken != nil {
		return store.Changes{}, f.broken
	}
	return f.Memory.Changes(ctx, c)
}

func (f *fleet) service(t *testing.T, opts *search.Options) *search.Service {
	return search.New(testkit.Logger(t), "m", search.Parts{Queue: f, Answers: f, Documents: f}, opts)
}

func ids(r search.Result) string {
	var out string
	for _, h := range r.Hits {
		out += h.Document.ID + " "
	}
	return out
}

func TestSearchFollowsTheStore(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "alpha", "beta")
	s := f.service(t, nil)
	r, err := s.Search(t.Context(), "beta", 1, store.Filter{})
	if err != nil || ids(r) != "beta " || r.Documents != 2 || r.Space != "s1" {
		t.Errorf("%s in %d of %s, %v", ids(r), r.Documents, r.Space, err)
	}
	f.put(t, "s1", "gamma")
	filter, err := store.ParseFilter("source=g")
	if err != nil {
		t.Fatal(err)
	}
	r, err = s.Search(t.Context(), "beta", 5, filter)
	if err != nil || ids(r) != "gamma " || r.Documents != 3 {
		t.Errorf("%s in %d, %v", ids(r), r.Documents, err)
	}
}

// Vectors of two spaces are never compared: when the alias changes its space, the index begins anew.
func TestSearchChangesItsSpaceWithTheAlias(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "alpha", "beta")
	s := f.service(t, nil)
	if _, err := s.Search(t.Context(), "alpha", 5, store.Filter{}); err != nil {
		t.Fatal(err)
	}
	if err := f.ClaimSpace(t.Context(), "m", "s2", store.ReEmbed); err != nil {
		t.Fatal(err)
	}
	r, err := s.Search(t.Context(), "alpha", 5, store.Filter{})
	if err != nil || len(r.Hits) != 0 || r.Space != "s2" {
		t.Errorf("after the change: %s of %s, %v", ids(r), r.Space, err)
	}
}

// While an alias changes its space, workers of both may answer: a vector of the wrong one is asked for again,
// and if there is no other, the search fails instead of finding nonsense.
func TestAnswersOfAnotherSpaceAreAskedForAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "alpha")
	f.spaces = []vector.Space{"s0", "s0", "s1"}
	r, err := f.service(t, nil).Search(t.Context(), "alpha", 1, store.Filter{})
	if err != nil || ids(r) != "alpha " || f.asked != 3 {
		t.Errorf("%s after %d answers, %v", ids(r), f.asked, err)
	}
	f.spaces = []vector.Space{"s0"}
	if r, err := f.service(t, nil).Search(t.Context(), "alpha", 1, store.Filter{}); err == nil || !strings.Contains(err.Error(), "s0") || len(r.Hits) > 0 {
		t.Errorf("only the other space answers: %v, %v", ids(r), err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "alpha")
		f.silent = true
		begun := time.Now()
		_, err := f.service(t, &search.Options{Timeout: 3 * time.Second}).Search(t.Context(), "alpha", 1, store.Filter{})
		if !errors.Is(err, search.ErrNoAnswer) || time.Since(begun) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.service(t, nil).Search(ctx, "alpha", 1, store.Filter{}); errors.Is(err, search.ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's own deadline: %v", err)
		}
	})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	fault := errors.New("the fault")
	f := newFleet(t, "alpha")
	s := f.service(t, nil)
	var invalid *tasks.InvalidError
	if _, err := s.Search(t.Context(), " ", 1, store.Filter{}); !errors.As(err, &invalid) || len(f.pending) != 0 {
		t.Errorf("an empty text: %v, %d enqueued", err, len(f.pending))
	}
	if _, err := s.Search(t.Context(), "alpha", 0, store.Filter{}); err == nil {
		t.Error("k of 0 is no error")
	}
	f.refused = fault
	if _, err := s.Search(t.Context(), "alpha", 1, store.Filter{}); !errors.Is(err, fault) {
		t.Errorf("a queue that is away: %v", err)
	}
	f.refused, f.broken = nil, fault
	r, err := s.Search(t.Context(), "alpha", 1, store.Filter{})
	if err != nil || ids(r) != "alpha " {
		t.Errorf("a store that is away behind a filled index: %s, %v", ids(r), err)
	}
	if _, err := f.service(t, nil).Search(t.Context(), "alpha", 1, store.Filter{}); !errors.Is(err, fault) {
		t.Errorf("a store that is away behind an empty index: %v", err)
	}
}
