package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// What the worker wires together must fit.
var (
	_ tasks.Store    = (*redis.Store)(nil)
	_ tasks.Answers  = (*redis.Store)(nil)
	_ tasks.Embedder = (*embedder.Engine)(nil)
	_ tasks.Embedder = (*embedder.Manager)(nil)
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A fakeEmbedder answers with what its functions say, by default with a vector of the text. Of many texts it embeds the
// last first, two at a time.
type fakeEmbedder struct {
	document func(ctx context.Context, text string) ([]vector.Chunk, error)
	query    func(ctx context.Context, text string) ([]vector.Chunk, error)

	mu    sync.Mutex
	texts []string // all that were embedded
}

func (f *fakeEmbedder) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return f.embed(ctxs, texts, f.document)
}

func (f *fakeEmbedder) EmbedQueries(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return f.embed(ctxs, texts, f.query)
}

func (f *fakeEmbedder) EmbedAs(_ string, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return f.embed(ctxs, texts, f.query)
}

type embedFunc = func(ctx context.Context, text string) ([]vector.Chunk, error)

func (f *fakeEmbedder) embed(ctxs []context.Context, texts []string, one embedFunc) iter.Seq[[]vector.Embedded] {
	return func(yield func([]vector.Embedded) bool) {
		var list []vector.Embedded
		for i, text := range slices.Backward(texts) {
			f.mu.Lock()
			f.texts = append(f.texts, text)
			f.mu.Unlock()
			em := vector.Embedded{Index: i}
			if one == nil {
				em.Chunks = whole(text)
			} else {
				em.Chunks, em.Err = one(ctxs[i], text)
			}
			if list = append(list, em); len(list) < 2 && i > 0 {
				continue
			}
			if !yield(list) {
				return
			}
			list = nil
		}
	}
}

// whole returns the one chunk of a text.
func whole(text string) []vector.Chunk { return []vector.Chunk{storetest.Chunk(text, 0, len(text))} }

// only returns a function that does f for one text, and embeds all others.
func only(text string, f embedFunc) embedFunc {
	return func(ctx context.Context, t string) ([]vector.Chunk, error) {
		if t == text {
			return f(ctx, t)
		}
		return whole(t), nil
	}
}

// A record of what an observer was told.
type observed struct {
	mu       sync.Mutex
	stages   []tasks.Stage
	outcomes []string
}

func (o *observed) Stage(ctx context.Context, s tasks.Stage, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Value(itemKey{}) == nil {
		s += " of nobody"
	}
	o.stages = append(o.stages, s)
}

// itemKey marks the context of an item.
type itemKey struct{}

func (o *observed) Outcome(k tasks.Kind, out tasks.Outcome, code string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcomes = append(o.outcomes, fmt.Sprintf("%s %s %s", k, out, code))
}

// A fleet is a handler with everything around it.
type fleet struct {
	*tasks.Handler
	store    *storetest.Memory
	embedder *fakeEmbedder
	observed *observed
}

func newFleet(t *testing.T) *fleet { return newFleetWith(t, nil) }

// newFleetWith lets change change what the handler works with.
func newFleetWith(t *testing.T, change func(*tasks.Parts)) *fleet {
	f := &fleet{store: storetest.NewMemory(), embedder: &fakeEmbedder{}, observed: &observed{}}
	parts := tasks.Parts{Model: "minilm", Space: storetest.SpaceA, Embedder: f.embedder, Store: f.store, Answers: f.store}
	if change != nil {
		change(&parts)
	}
	f.Handler = tasks.NewHandler(testkit.Logger(t), parts, &tasks.HandlerOptions{Observer: f.observed})
	return f
}

// handle handles tasks together, and returns what was reported of each. It checks that each is reported once, and that a
// document that is said to be done can be read in that moment.
func (f *fleet) handle(t *testing.T, list ...tasks.Task) []error {
	t.Helper()
	errs, reported := make([]error, len(list)), make([]int, len(list))
	items := make([]tasks.Item, len(list))
	for i, task := range list {
		items[i] = tasks.Item{Ctx: context.WithValue(t.Context(), itemKey{}, i), Task: task}
	}
	f.HandleBatch(t.Context(), items, func(results []tasks.Result) {
		if len(results) == 0 {
			t.Error("a report of nothing")
		}
		for _, r := range results {
			reported[r.Index]++
			errs[r.Index] = r.Err
			if p, err := tasks.DecodeDocument(list[r.Index].Payload); r.Err == nil && err == nil {
				if _, err := f.store.Get(t.Context(), "minilm", p.Document.ID); err != nil {
					t.Errorf("task %d is said to be done: %v", r.Index, err)
				}
			}
		}
	})
	for i, n := range reported {
		if n != 1 {
			t.Errorf("task %d of %d was reported %d times", i, len(list), n)
		}
	}
	return errs
}

// must is handle for tasks that must all be done.
func (f *fleet) must(t *testing.T, list ...tasks.Task) {
	t.Helper()
	for i, err := range f.handle(t, list...) {
		if err != nil {
			t.Fatalf("task %d: %v", i, err)
		}
	}
}

// outcomes returns all that were observed, sorted.
func (f *fleet) outcomes() []string { return slices.Sorted(slices.Values(f.observed.outcomes)) }

// outcome hands over the last outcome that was observed.
func (f *fleet) outcome(t *testing.T) string {
	t.Helper()
	if len(f.observed.outcomes) == 0 {
		t.Fatal("no outcome was observed")
	}
	return f.observed.outcomes[len(f.observed.outcomes)-1]
}

// document returns a task for the document "d".
func document(t *testing.T, text string, version int64) tasks.Task {
	t.Helper()
	return named(t, "d", text, version)
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

func query(t *testing.T, text string) tasks.Task {
	t.Helper()
	task, err := tasks.NewQuery("minilm", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// stored returns the text of the document "d", "" if there is none.
func (f *fleet) stored(t *testing.T) string {
	t.Helper()
	rec, err := f.store.Get(t.Context(), "minilm", "d")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return rec.Document.Text
}

func TestHandleDocument(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	full := storetest.FullRecord("d", "a text", 7)
	task, err := tasks.New("minilm", tasks.Live, full.Document, &tasks.Options{Version: 7})
	if err != nil {
		t.Fatal(err)
	}
	f.must(t, task)
	full.Chunks = []vector.Chunk{storetest.Chunk("a text", 0, 6)}
	if got, err := f.store.Get(t.Context(), "minilm", "d"); err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("stored is\n     %+v, %v\nwant %+v", got, err, full)
	}
	want := []tasks.Stage{tasks.StageDecode, tasks.StageLookup, tasks.StageEmbed, tasks.StageStore}
	if !slices.Equal(f.observed.stages, want) {
		t.Errorf("stages %v, want %v", f.observed.stages, want)
	}
	if got, want := f.outcome(t), "embed:document done stored"; got != want {
		t.Errorf("outcome %q, want %q", got, want)
	}
}

// TestHandleTwice delivers a task again after it was done, as happens when an acknowledgement is lost.
func TestHandleTwice(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for range 2 {
		f.must(t, document(t, "a text", 1))
	}
	if n := len(f.embedder.texts); n != 1 {
		t.Errorf("embedded %d times, want once", n)
	}
	if got, want := f.outcome(t), "embed:document done duplicate"; got != want {
		t.Errorf("outcome %q, want %q", got, want)
	}
}

// TestNewestTextWins runs the tasks of one document in every order, one by one and together.
func TestNewestTextWins(t *testing.T) {
	t.Parallel()
	made := []tasks.Task{document(t, "A", 1), document(t, "B", 2), document(t, "A", 3)}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for size := 1; size <= 3; size++ {
			f := newFleet(t)
			var list []tasks.Task
			for _, i := range order {
				list = append(list, made[i])
			}
			for some := range slices.Chunk(list, size) {
				f.must(t, some...)
			}
			if got := f.stored(t); got != "A" {
				t.Errorf("order %v, %d at a time: stored is %q, want the newest, A", order, size, got)
			}
		}
	}
}

// TestSuperseded lets a newer text be stored while an older one is being embedded.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	newer := document(t, "newer", 2)
	f.embedder.document = only("older", func(_ context.Context, text string) ([]vector.Chunk, error) {
		f.must(t, newer)
		return whole(text), nil
	})
	f.must(t, document(t, "older", 1))
	if got := f.stored(t); got != "newer" {
		t.Errorf("stored is %q, want newer", got)
	}
	if got, want := f.outcome(t), "embed:document done superseded"; got != want {
		t.Errorf("outcome %q, want %q", got, want)
	}
}

// TestHandleBreaksEveryWrite breaks each write of the path in both ways, of one task and of many; they are delivered
// again, and must end as if nothing had happened.
func TestHandleBreaksEveryWrite(t *testing.T) {
	t.Parallel()
	for _, fault := range []storetest.Fault{storetest.NotPersisted, storetest.Persisted} {
		for _, at := range []string{"lookup", "store"} {
			for _, n := range []int{1, 3} {
				t.Run(fmt.Sprintf("%s %s %d", at, fault, n), func(t *testing.T) {
					t.Parallel()
					testBrokenWrite(t, at, fault, n)
				})
			}
		}
	}
}

func testBrokenWrite(t *testing.T, at string, fault storetest.Fault, n int) {
	f, list := newFleet(t), []tasks.Task{document(t, "a text", 1), named(t, "e", "b text", 1), named(t, "f", "c text", 1)}[:n]
	if at == "lookup" {
		f.store.FailNext(fault)
	} else {
		fail := sync.OnceFunc(func() { f.store.FailNext(fault) }) // the next write is PutMany, of the first two texts
		f.embedder.document = func(_ context.Context, text string) ([]vector.Chunk, error) {
			fail()
			return whole(text), nil
		}
	}
	for i, err := range f.handle(t, list...) {
		if at == "store" && n == 3 && i == 0 { // embedded after the fault
			if err != nil {
				t.Errorf("task %d: %v", i, err)
			}
		} else if !errors.Is(err, storetest.ErrInjected) || tasks.Classify(err) != tasks.Retry {
			t.Errorf("task %d: %v (%s), want the injected fault and a retry", i, err, tasks.Classify(err))
		}
	}
	f.must(t, list...) // the second time
	stats, err := f.store.Stats(t.Context(), "minilm")
	many := int64(n)
	want := store.Stats{Documents: many, Chunks: many, Tokens: 6 * many, TextsTotal: many, TokensTotal: 6 * many}
	if err != nil || stats[storetest.SpaceA] != want || f.stored(t) != "a text" {
		t.Errorf("stored is %q, stats %+v, %v, want each text once: %+v", f.stored(t), stats, err, want)
	}
}

// TestHandleAnotherSpace is a worker that was left behind when its alias got another model.
func TestHandleAnotherSpace(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	if err := f.store.ClaimSpace(t.Context(), "minilm", storetest.SpaceB, store.Keep); err != nil {
		t.Fatal(err)
	}
	err := f.handle(t, document(t, "x", 1))[0]
	if got, want := f.outcome(t), "embed:document retry wrong_space"; got != want || err == nil {
		t.Errorf("outcome %q, %v, want %q: another worker can do it", got, err, want)
	}
}

// TestLogHasNoText checks that neither a good nor a bad text ends up in a log.
func TestLogHasNoText(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	log := slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f := newFleet(t)
	f.Handler = tasks.NewHandler(log, tasks.Parts{
		Model: "minilm", Space: storetest.SpaceA, Embedder: f.embedder, Store: f.store, Answers: f.store,
	}, nil)
	bad := func(payload string) tasks.Task {
		task := document(t, "x", 1)
		task.Payload = []byte(payload)
		return task
	}
	errs := f.handle(t,
		bad(`{"v":1,"model":"minilm","version":1,"document":{"id":"d","text":"secret\u0000"}}`),
		bad(`{"v":1,"model":"minilm","version":1,"document":{"id":"d","text":"secret" secret}}`),
		document(t, "a secret", 1), query(t, "a secret"))
	if errs[0] == nil || errs[1] == nil || errs[2] != nil || errs[3] != nil {
		t.Errorf("reported: %v", errs)
	}
	if got := b.String(); strings.Contains(got, "secret") || strings.Count(got, "task failed") != 2 || strings.Count(got, "task done") != 2 {
		t.Errorf("log is\n%s\nwant two tasks done, two failed, and no text", got)
	}
}
