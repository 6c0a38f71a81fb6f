package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// What the worker wires together must fit.
var (
	_ tasks.Store   = (*redis.Store)(nil)
	_ tasks.Answers = (*redis.Store)(nil)
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A fakeEmbedder answers with what its functions say, by default with a vector of the text.
type fakeEmbedder struct {
	document func(ctx context.Context, text string) ([]vector.Chunk, error)
	query    func(ctx context.Context, text string) (vector.Embedding, error)

	mu    sync.Mutex
	texts []string // all that were embedded
}

func (f *fakeEmbedder) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	f.seen(text)
	if f.document != nil {
		return f.document(ctx, text)
	}
	return []vector.Chunk{storetest.Chunk(text, 0, len(text))}, nil
}

func (f *fakeEmbedder) EmbedQuery(ctx context.Context, text string) (vector.Embedding, error) {
	f.seen(text)
	if f.query != nil {
		return f.query(ctx, text)
	}
	return storetest.Chunk(text, 0, len(text)).Embedding, nil
}

func (f *fakeEmbedder) EmbedAs(ctx context.Context, prompt, text string) (vector.Embedding, error) {
	return f.EmbedQuery(ctx, prompt+": "+text)
}

func (f *fakeEmbedder) seen(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts = append(f.texts, text)
}

// A record of what an observer was told.
type observed struct {
	mu       sync.Mutex
	stages   []tasks.Stage
	outcomes []string
}

func (o *observed) Stage(s tasks.Stage, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stages = append(o.stages, s)
}

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

func newFleet(t *testing.T) *fleet {
	f := &fleet{store: storetest.NewMemory(), embedder: &fakeEmbedder{}, observed: &observed{}}
	f.Handler = tasks.NewHandler(testkit.Logger(t), tasks.Parts{
		Model: "minilm", Space: storetest.SpaceA, Embedder: f.embedder, Store: f.store, Answers: f.store,
	}, &tasks.HandlerOptions{Observer: f.observed})
	return f
}

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
	task, err := tasks.New("minilm", tasks.Live, vector.Document{ID: "d", Text: text}, &tasks.Options{Version: version})
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
	if err := f.Handle(t.Context(), task); err != nil {
		t.Fatal(err)
	}
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
		if err := f.Handle(t.Context(), document(t, "a text", 1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.embedder.texts); n != 1 {
		t.Errorf("embedded %d times, want once", n)
	}
	if got, want := f.outcome(t), "embed:document done duplicate"; got != want {
		t.Errorf("outcome %q, want %q", got, want)
	}
}

// TestNewestTextWins runs the tasks of one document in every order.
func TestNewestTextWins(t *testing.T) {
	t.Parallel()
	made := []tasks.Task{document(t, "A", 1), document(t, "B", 2), document(t, "A", 3)}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		f := newFleet(t)
		for _, i := range order {
			if err := f.Handle(t.Context(), made[i]); err != nil {
				t.Fatal(err)
			}
		}
		if got := f.stored(t); got != "A" {
			t.Errorf("order %v: stored is %q, want the newest, A", order, got)
		}
	}
}

// TestSuperseded lets a newer text be stored while an older one is being embedded.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	newer := document(t, "newer", 2)
	f.embedder.document = func(ctx context.Context, text string) ([]vector.Chunk, error) {
		if text == "older" {
			if err := f.Handle(ctx, newer); err != nil {
				t.Error(err)
			}
		}
		return []vector.Chunk{storetest.Chunk(text, 0, len(text))}, nil
	}
	if err := f.Handle(t.Context(), document(t, "older", 1)); err != nil {
		t.Fatal(err)
	}
	if got := f.stored(t); got != "newer" {
		t.Errorf("stored is %q, want newer", got)
	}
	if got, want := f.outcome(t), "embed:document done superseded"; got != want {
		t.Errorf("outcome %q, want %q", got, want)
	}
}

// TestHandleBreaksEveryWrite breaks each write of the path in both ways; the task is delivered again, and
// must end as if nothing had happened.
func TestHandleBreaksEveryWrite(t *testing.T) {
	t.Parallel()
	for _, fault := range []storetest.Fault{storetest.NotPersisted, storetest.Persisted} {
		for _, at := range []string{"lookup", "store"} {
			t.Run(at+" "+string(fault), func(t *testing.T) {
				t.Parallel()
				testBrokenWrite(t, at, fault)
			})
		}
	}
}

func testBrokenWrite(t *testing.T, at string, fault storetest.Fault) {
	f, task := newFleet(t), document(t, "a text", 1)
	if at == "lookup" {
		f.store.FailNext(fault)
	} else {
		f.embedder.document = func(_ context.Context, text string) ([]vector.Chunk, error) {
			f.embedder.document = nil
			f.store.FailNext(fault) // the next write is Put
			return []vector.Chunk{storetest.Chunk(text, 0, len(text))}, nil
		}
	}
	err := f.Handle(t.Context(), task)
	if !errors.Is(err, storetest.ErrInjected) || tasks.Classify(err) != tasks.Retry {
		t.Fatalf("Handle: %v (%s), want the injected fault and a retry", err, tasks.Classify(err))
	}
	if err := f.Handle(t.Context(), task); err != nil {
		t.Fatalf("the second time: %v", err)
	}
	stats, err := f.store.Stats(t.Context(), "minilm")
	want := store.Stats{Documents: 1, Chunks: 1, Tokens: 6, TextsTotal: 1, TokensTotal: 6}
	if err != nil || stats[storetest.SpaceA] != want || f.stored(t) != "a text" {
		t.Errorf("stored is %q, stats %+v, %v, want the text once: %+v", f.stored(t), stats, err, want)
	}
}

// engineError is an error of an embedder that takes part in Classify.
type engineError struct{ permanent, overloaded bool }

func (engineError) Error() string      { return "engine says no" }
func (e engineError) Permanent() bool  { return e.permanent }
func (e engineError) Overloaded() bool { return e.overloaded }

// TestHandleOutcomes is the table of everything that can go wrong around the model.
func TestHandleOutcomes(t *testing.T) {
	t.Parallel()
	fails := func(err error) func(context.Context, string) ([]vector.Chunk, error) {
		return func(context.Context, string) ([]vector.Chunk, error) { return nil, err }
	}
	returns := func(chunks ...vector.Chunk) func(context.Context, string) ([]vector.Chunk, error) {
		return func(context.Context, string) ([]vector.Chunk, error) { return chunks, nil }
	}
	panics := func(v any) func(context.Context, string) ([]vector.Chunk, error) {
		return func(context.Context, string) ([]vector.Chunk, error) { panic(v) }
	}
	chunk := func(start, end, dim int) vector.Chunk {
		return vector.Chunk{Start: start, End: end, Embedding: vector.Embedding{Vector: make(vector.Vector, dim)}}
	}
	for name, tt := range map[string]struct {
		embed func(context.Context, string) ([]vector.Chunk, error)
		want  string // outcome and code
		err   string
	}{
		"permanent":       {fails(engineError{permanent: true}), "permanent permanent", "embedding the document: engine says no"},
		"overloaded":      {fails(engineError{overloaded: true}), "overloaded overloaded", "engine says no"},
		"neither":         {fails(engineError{}), "retry retry", "engine says no"},
		"deadline":        {fails(context.DeadlineExceeded), "retry retry", "deadline"},
		"cancelled":       {fails(context.Canceled), "cancelled cancelled", "canceled"},
		"panic":           {panics("oh"), "permanent panic", "handler panicked: oh"},
		"nil panic":       {panics(nil), "permanent panic", "handler panicked"},
		"no chunk":        {returns(), "permanent bad_vectors", "returned no chunk"},
		"no dimension":    {returns(chunk(0, 1, 0)), "permanent bad_vectors", "chunk 0 has 0 dimensions"},
		"two dimensions":  {returns(chunk(0, 1, 8), chunk(0, 1, 7)), "permanent bad_vectors", "chunk 1 has 7 dimensions, chunk 0 has 8"},
		"beyond the text": {returns(chunk(0, 7, 8)), "permanent bad_vectors", "spans bytes 0 to 7 of a text of 6"},
		"backwards":       {returns(chunk(3, 3, 8)), "permanent bad_vectors", "spans bytes 3 to 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.embedder.document = tt.embed
			err := f.Handle(t.Context(), document(t, "a text", 1))
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Handle: %v, want %q", err, tt.err)
			}
			if got, want := f.outcome(t), "embed:document "+tt.want; got != want {
				t.Errorf("outcome %q, want %q", got, want)
			}
			if got := f.stored(t); got != "" {
				t.Errorf("stored %q", got)
			}
		})
	}
}

// TestHandleStrangers hands over tasks that are not for this worker, or for none.
func TestHandleStrangers(t *testing.T) {
	t.Parallel()
	other, err := tasks.New("bge-m3", tasks.Live, doc("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		task tasks.Task
		want string
		err  string
	}{
		"another model":   {other, "embed:document permanent wrong_model", `task is for model "bge-m3", this worker serves "minilm"`},
		"newer payload":   {tasks.Task{Kind: tasks.EmbedDocument, Payload: []byte(`{"v":9}`)}, "embed:document retry unknown_version", "version 9"},
		"junk":            {tasks.Task{Kind: tasks.EmbedDocument, Payload: []byte("junk")}, "embed:document permanent bad_payload", "not JSON"},
		"unknown kind":    {tasks.Task{Kind: "embed:image"}, "unknown permanent permanent", `kind "embed:image", want "embed:document" or "embed:query"`},
		"query's payload": {tasks.Task{Kind: tasks.EmbedDocument, Payload: query(t, "x").Payload}, "embed:document permanent bad_payload", "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			if err := f.Handle(t.Context(), tt.task); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Handle: %v, want %q", err, tt.err)
			}
			if got := f.outcome(t); got != tt.want {
				t.Errorf("outcome %q, want %q", got, tt.want)
			}
			if len(f.embedder.texts) != 0 {
				t.Error("something was embedded")
			}
		})
	}
}

// TestHandleAnotherSpace is a worker that was left behind when its alias got another model.
func TestHandleAnotherSpace(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	if err := f.store.ClaimSpace(t.Context(), "minilm", storetest.SpaceB, store.Keep); err != nil {
		t.Fatal(err)
	}
	err := f.Handle(t.Context(), document(t, "x", 1))
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
	h := tasks.NewHandler(log, tasks.Parts{
		Model: "minilm", Space: storetest.SpaceA, Embedder: f.embedder, Store: f.store, Answers: f.store,
	}, nil)
	bad := document(t, "x", 1)
	for _, payload := range []string{
		`{"v":1,"model":"minilm","version":1,"document":{"id":"d","text":"secret\u0000"}}`,
		`{"v":1,"model":"minilm","version":1,"document":{"id":"d","text":"secret" secret}}`,
	} {
		bad.Payload = []byte(payload)
		if err := h.Handle(t.Context(), bad); err == nil {
			t.Error("a bad payload was handled")
		}
	}
	for _, task := range []tasks.Task{document(t, "a secret", 1), query(t, "a secret")} {
		if err := h.Handle(t.Context(), task); err != nil {
			t.Error(err)
		}
	}
	if got := b.String(); strings.Contains(got, "secret") || strings.Count(got, "task failed") != 2 || strings.Count(got, "task done") != 2 {
		t.Errorf("log is\n%s\nwant two tasks done, two failed, and no text", got)
	}
}
