package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// A write is one way to change a store. It starts from what before leaves.
type write struct {
	method string // of Store
	name   string
	before func(ctx context.Context, s Store) error
	do     func(ctx context.Context, s Store) error
}

// writes has a row, or more, for every method of Store that writes.
var writes = []write{
	{"Put", "a new document", nothing, putting(FullRecord("d", "text", Version))},
	{"Put", "a newer text", putting(Record("d", "older", Version-1)), putting(FullRecord("d", "text", Version))},
	{"Put", "another space", takenOver, puttingB},
	{"PutMany", "two documents", putting(Record("d", "older", Version-1)), puttingMany},
	{"Refresh", "a newer version", putting(Record("d", "text", Version-1)), refreshing},
	{"RefreshMany", "a newer version", putting(Record("d", "text", Version-1)), refreshingMany},
	{"Delete", "a document", putting(Record("d", "text", Version)), deleting},
	{"ClaimSpace", "the first", nothing, claiming(SpaceA, store.Keep)},
	{"ClaimSpace", "taking over", putting(Record("d", "text", Version)), claiming(SpaceB, store.ReEmbed)},
	{"Answer", "a query", nothing, answering},
	{"AnswerMany", "a query", nothing, answeringMany},
	{"AnswerMany", "a query that has an answer", answering, answeringMany},
}

// reads are the methods of Store that change nothing. Await does, but its loss is the asker's alone.
var reads = []string{"Get", "Changes", "Stats", "Space", "Await"}

// RunFaults breaks every write of a store in both ways and then repeats it, as a task that is delivered
// again does: a write that was not persisted must have left no trace, and the repeated one must leave the
// state that one write alone leaves. Open returns an empty store and a function that makes its next write
// fail.
func RunFaults(t *testing.T, open func(t *testing.T) (Store, func(Fault))) {
	t.Run("every method has a row", func(t *testing.T) { testRows(t, reflect.TypeFor[Store]()) })
	for _, w := range writes {
		for _, fault := range []Fault{NotPersisted, Persisted} {
			t.Run(w.method+" "+w.name+" "+string(fault), func(t *testing.T) {
				t.Parallel()
				healthy, _ := open(t)
				broken, failNext := open(t)
				testFault(t, w, fault, healthy, broken, failNext)
			})
		}
	}
}

func testFault(t *testing.T, w write, fault Fault, healthy, broken Store, failNext func(Fault)) {
	for _, s := range []Store{healthy, broken} {
		if err := w.before(t.Context(), s); err != nil {
			t.Fatalf("preparing: %v", err)
		}
	}
	before := stateOf(t, broken)
	if err := w.do(t.Context(), healthy); err != nil {
		t.Fatalf("unbroken write: %v", err)
	}
	want := stateOf(t, healthy)

	failNext(fault)
	if err := w.do(t.Context(), broken); !errors.Is(err, ErrInjected) {
		t.Fatalf("broken write: %v, want the injected fault", err)
	}
	if fault == NotPersisted {
		before.equal(t, stateOf(t, broken))
	} else {
		want.equal(t, stateOf(t, broken))
	}
	if err := w.do(t.Context(), broken); err != nil {
		t.Fatalf("repeated write: %v", err)
	}
	want.equal(t, stateOf(t, broken))
	if w.method == "Answer" || w.method == "AnswerMany" {
		testOneAnswer(t, broken)
	}
}

// testRows fails when a method was added to a store that is neither a read nor broken by RunFaults.
func testRows(t *testing.T, typ reflect.Type) {
	for m := range typ.Methods() {
		has := slices.ContainsFunc(writes, func(w write) bool { return w.method == m.Name })
		if has == slices.Contains(reads, m.Name) {
			t.Errorf("method %s must be in the table of writes, or among the reads", m.Name)
		}
	}
}

// testOneAnswer checks that the answer is there once, whatever happened before.
func testOneAnswer(t *testing.T, s Store) {
	if _, err := s.Await(t.Context(), "q"); err != nil {
		t.Errorf("Await: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if e, err := s.Await(ctx, "q"); err == nil {
		t.Errorf("second Await = %+v, want nothing", e)
	}
}

func nothing(context.Context, Store) error { return nil }

func puttingMany(ctx context.Context, s Store) error {
	_, errs := s.PutMany(ctx, []vector.Record{FullRecord("d", "text", Version), Record("e", "text", Version)})
	return errors.Join(errs...)
}

func putting(rec vector.Record) func(context.Context, Store) error {
	return func(ctx context.Context, s Store) error {
		_, err := s.Put(ctx, rec)
		return err
	}
}

// takenOver leaves a document of an old space.
func takenOver(ctx context.Context, s Store) error {
	if _, err := s.Put(ctx, Record("d", "text", Version)); err != nil {
		return err
	}
	return s.ClaimSpace(ctx, "minilm", SpaceB, store.ReEmbed)
}

func puttingB(ctx context.Context, s Store) error {
	rec := Record("d", "text", Version)
	rec.Space = SpaceB
	_, err := s.Put(ctx, rec)
	return err
}

func refreshing(ctx context.Context, s Store) error {
	_, err := s.Refresh(ctx, FullRecord("d", "text", Version))
	return err
}

func refreshingMany(ctx context.Context, s Store) error {
	_, err := s.RefreshMany(ctx, []vector.Record{FullRecord("d", "text", Version)})
	return err
}

func deleting(ctx context.Context, s Store) error {
	_, err := s.Delete(ctx, "minilm", "d", 0)
	return err
}

func claiming(space vector.Space, mode store.ClaimMode) func(context.Context, Store) error {
	return func(ctx context.Context, s Store) error { return s.ClaimSpace(ctx, "minilm", space, mode) }
}

func answering(ctx context.Context, s Store) error {
	return s.Answer(ctx, "q", vector.Embedding{Vector: vector.Vector{1}, Tokens: 1}, nil)
}

func answeringMany(ctx context.Context, s Store) error {
	return errors.Join(s.AnswerMany(ctx, []vector.Answer{{ID: "q", Embedding: vector.Embedding{Vector: vector.Vector{2}, Tokens: 2}}})...)
}

// A state is all that can be read of alias "minilm", in both spaces.
type state struct {
	space   vector.Space
	stats   map[vector.Space]store.Stats
	changes [2]store.Changes
}

func stateOf(t *testing.T, s Store) state {
	t.Helper()
	space, err := s.Space(t.Context(), "minilm")
	if err != nil {
		t.Fatalf("Space: %v", err)
	}
	st := state{space: space, stats: stats(t, s)}
	for i, space := range []vector.Space{SpaceA, SpaceB} {
		c := store.Cursor{Model: "minilm", Space: space, Limit: 1000}
		if st.changes[i], err = s.Changes(t.Context(), c); err != nil {
			t.Fatalf("Changes: %v", err)
		}
	}
	return st
}

func (st state) equal(t *testing.T, got state) {
	t.Helper()
	if got.String() != st.String() {
		t.Errorf("state is\n     %s\nwant %s", got, st)
	}
}

// String shows all of a state, records by value, which the pointers of changes would not.
func (st state) String() string {
	b := fmt.Appendf(nil, "space %s, stats %+v", st.space.Short(), st.stats)
	for _, c := range st.changes {
		b = fmt.Appendf(b, "; changes to %d", c.Last)
		for _, item := range c.Items {
			b = fmt.Appendf(b, "; %d %s %v", item.Seq, item.ID, item.Err)
			if item.Record != nil {
				b = fmt.Appendf(b, " %+v", *item.Record)
			}
		}
	}
	return string(b)
}
