package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// What the worker wires together must fit.
var (
	_ tasks.Bulk = struct {
		*embedder.Engine
		*redis.Store
	}{}
	_ tasks.Bulk = struct {
		*embedder.Manager
		*redis.Store
	}{}
)

// A bulk embeds many texts as its fleet's embedder does one, the last first, two at a time.
type bulk struct {
	*storetest.Memory
	embedder *fakeEmbedder
}

func (b bulk) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return func(yield func([]vector.Embedded) bool) {
		var all []vector.Embedded
		for i, text := range slices.Backward(texts) {
			chunks, err := b.embedder.EmbedDocument(ctxs[i], text)
			all = append(all, vector.Embedded{Index: i, Chunks: chunks, Err: err})
		}
		for list := range slices.Chunk(all, 2) {
			if !yield(list) {
				return
			}
		}
	}
}

// newBulkFleet is newFleet whose handler can do tasks together.
func newBulkFleet(t *testing.T) *fleet {
	f := newFleet(t)
	f.Handler = tasks.NewHandler(testkit.Logger(t), tasks.Parts{
		Model: "minilm", Space: storetest.SpaceA, Embedder: f.embedder, Store: f.store, Answers: f.store,
		Bulk: bulk{f.store, f.embedder},
	}, &tasks.HandlerOptions{Observer: f.observed})
	return f
}

// all handles tasks together and returns what was reported of each: "done", "alone" or its error, and how often it was.
func (f *fleet) all(t *testing.T, list ...tasks.Task) (said []string) {
	t.Helper()
	said = make([]string, len(list))
	items := make([]tasks.Item, len(list))
	for i, task := range list {
		items[i] = tasks.Item{Ctx: t.Context(), Task: task}
	}
	f.HandleAll(t.Context(), items, func(r tasks.Report) {
		for _, i := range r.Done {
			if _, err := f.store.Get(t.Context(), "minilm", of(t, list[i])); err != nil {
				t.Errorf("task %d is said to be done: %v", i, err)
			}
			said[i] += "done"
		}
		for _, i := range r.Alone {
			said[i] += "alone"
		}
		for i, err := range r.Failed {
			said[i] += err.Error()
		}
	})
	return said
}

// of returns the id of a task's document.
func of(t *testing.T, task tasks.Task) string {
	t.Helper()
	p, err := tasks.DecodeDocument(task.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return p.Document.ID
}

// named is document with an id.
func named(t *testing.T, id, text string, version int64) tasks.Task {
	t.Helper()
	task, err := tasks.New("minilm", tasks.Live, vector.Document{ID: id, Text: text}, &tasks.Options{Version: version})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// TestHandleAll checks that tasks together leave what each would alone: vectors, stages and outcomes.
func TestHandleAll(t *testing.T) {
	t.Parallel()
	alone, f := newFleet(t), newBulkFleet(t)
	full := storetest.FullRecord("full", "a text", 7)
	task, err := tasks.New("minilm", tasks.Live, full.Document, &tasks.Options{Version: 7})
	if err != nil {
		t.Fatal(err)
	}
	list := []tasks.Task{task}
	for i := range 6 {
		list = append(list, named(t, fmt.Sprint("d", i), fmt.Sprint("text ", i), 1))
	}
	for _, g := range []*fleet{alone, f} {
		if err := g.Handle(t.Context(), list[3]); err != nil { // one is there already
			t.Fatal(err)
		}
	}
	for _, task := range list {
		if err := alone.Handle(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	if said := f.all(t, list...); !slices.Equal(said, slices.Repeat([]string{"done"}, 7)) {
		t.Errorf("said: %v", said)
	}
	for _, task := range list {
		got, err1 := f.store.Get(t.Context(), "minilm", of(t, task))
		want, err2 := alone.store.Get(t.Context(), "minilm", of(t, task))
		if err := errors.Join(err1, err2); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("stored is\n     %+v, %v\nwant %+v", got, err, want)
		}
	}
	for _, g := range []*fleet{alone, f} {
		slices.Sort(g.observed.stages)
		slices.Sort(g.observed.outcomes)
	}
	if !slices.Equal(f.observed.stages, alone.observed.stages) {
		t.Errorf("stages %v, want %v", f.observed.stages, alone.observed.stages)
	}
	if !slices.Equal(f.observed.outcomes, alone.observed.outcomes) {
		t.Errorf("outcomes %v, want %v", f.observed.outcomes, alone.observed.outcomes)
	}
}

// TestHandleAllNewestTextWins has all versions of a document in one go, in every order.
func TestHandleAllNewestTextWins(t *testing.T) {
	t.Parallel()
	made := []tasks.Task{document(t, "A", 1), document(t, "B", 2), document(t, "A", 3)}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		f := newBulkFleet(t)
		said := f.all(t, made[order[0]], made[order[1]], made[order[2]])
		if got := f.stored(t); got != "A" || !slices.Equal(said, []string{"done", "done", "done"}) {
			t.Errorf("order %v: stored is %q, want the newest, A; said %v", order, got, said)
		}
	}
}

// TestHandleAllLeavesToHandle is the table of what is done alone, and that it costs its neighbours nothing.
func TestHandleAllLeavesToHandle(t *testing.T) {
	t.Parallel()
	other, err := tasks.New("bge-m3", tasks.Live, doc("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	good, bad := named(t, "good", "good text", 1), named(t, "bad", "bad text", 1)
	embed := func(what func() ([]vector.Chunk, error)) func(f *fleet) {
		return func(f *fleet) {
			f.embedder.document = func(_ context.Context, text string) ([]vector.Chunk, error) {
				if text == "bad text" {
					return what()
				}
				return []vector.Chunk{storetest.Chunk(text, 0, len(text))}, nil
			}
		}
	}
	nothing := func(*fleet) {}
	for name, tt := range map[string]struct {
		task    tasks.Task
		prepare func(f *fleet)
		said    []string // of a good one, the task, a good one
	}{
		"another model": {other, nothing, []string{"done", "alone", "done"}},
		"a query":       {query(t, "x"), nothing, []string{"done", "alone", "done"}},
		"junk":          {tasks.Task{Kind: tasks.EmbedDocument, Payload: []byte("junk")}, nothing, []string{"done", "alone", "done"}},
		"unknown kind":  {tasks.Task{Kind: "embed:image"}, nothing, []string{"done", "alone", "done"}},
		"an error":      {bad, embed(func() ([]vector.Chunk, error) { return nil, errors.New("no") }), []string{"done", "alone", "done"}},
		"a verdict": {bad, embed(func() ([]vector.Chunk, error) { return nil, engineError{permanent: true} }),
			[]string{"done", "embedding the document: engine says no", "done"}},
		"no room":  {bad, embed(func() ([]vector.Chunk, error) { return nil, engineError{overloaded: true} }), []string{"done", "alone", "done"}},
		"no chunk": {bad, embed(func() ([]vector.Chunk, error) { return nil, nil }), []string{"done", "alone", "done"}},
		"a panic":  {bad, embed(func() ([]vector.Chunk, error) { panic("oh") }), []string{"alone", "alone", "alone"}},
		"a store that is away": {bad, func(f *fleet) { f.store.FailNext(storetest.NotPersisted) },
			[]string{"alone", "alone", "alone"}},
		"a store that goes away": {bad, func(f *fleet) {
			f.embedder.document = func(_ context.Context, text string) ([]vector.Chunk, error) {
				f.store.FailNext(storetest.NotPersisted) // the next write is the first two texts', of three
				return []vector.Chunk{storetest.Chunk(text, 0, len(text))}, nil
			}
		}, []string{"done", "alone", "alone"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newBulkFleet(t)
			tt.prepare(f)
			said := f.all(t, good, tt.task, named(t, "fine", "fine text", 1))
			if !slices.Equal(said, tt.said) {
				t.Errorf("said %v, want %v", said, tt.said)
			}
			told := 0
			for _, s := range said {
				if s != "alone" {
					told++
				}
			}
			if len(f.observed.outcomes) != told {
				t.Errorf("outcomes %v: those who are done alone have theirs there", f.observed.outcomes)
			}
			if _, err := f.store.Get(t.Context(), "minilm", "bad"); err == nil {
				t.Error("the bad one is stored")
			}
		})
	}
}

// TestHandleAllWithoutBulk leaves everything to Handle.
func TestHandleAllWithoutBulk(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	if said := f.all(t, named(t, "a", "text", 1), named(t, "b", "text", 1)); !slices.Equal(said, []string{"alone", "alone"}) {
		t.Errorf("said %v", said)
	}
}
