package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// engineError is an error of an embedder that takes part in Classify.
type engineError struct{ permanent, overloaded bool }

func (engineError) Error() string      { return "engine says no" }
func (e engineError) Permanent() bool  { return e.permanent }
func (e engineError) Overloaded() bool { return e.overloaded }

// amid handles a task together with others, which must be done as if it weren't there, and returns what was reported of it
// and its outcome. At is its index.
func (f *fleet) amid(t *testing.T, task tasks.Task, at int) (outcome string, err error) {
	t.Helper()
	others := []tasks.Task{query(t, "good query"), named(t, "good", "good text", 1), named(t, "fine", "fine text", 1)}
	want := []string{"embed:document done stored", "embed:document done stored", "embed:query done answered"}
	if at < 0 {
		others, want, at = nil, nil, 0 // alone
	}
	list := slices.Insert(slices.Clone(others), at, task)
	errs := f.handle(t, list...)
	for i, e := range errs {
		if i != at && e != nil {
			t.Errorf("neighbour %d: %v", i, e)
		}
	}
	if others != nil {
		if _, err := f.await(t, others[0].ID); err != nil {
			t.Errorf("the neighbour's answer: %v", err)
		}
	}
	rest := f.outcomes()
	for _, w := range want {
		if i := slices.Index(rest, w); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
		}
	}
	if len(rest) != 1 {
		t.Fatalf("outcomes %v, want the neighbours' and one", f.outcomes())
	}
	return rest[0], errs[at]
}

// places are where a task may stand: alone, or where among others.
var places = []int{-1, 0, 1, 2, 3}

// TestDocumentOutcomes is the table of everything that can go wrong around the model. Neighbours never notice.
func TestDocumentOutcomes(t *testing.T) {
	t.Parallel()
	fails := func(err error) embedFunc {
		return func(context.Context, string) ([]vector.Chunk, error) { return nil, err }
	}
	returns := func(chunks ...vector.Chunk) embedFunc {
		return func(context.Context, string) ([]vector.Chunk, error) { return chunks, nil }
	}
	panics := func(v any) embedFunc {
		return func(context.Context, string) ([]vector.Chunk, error) { panic(v) }
	}
	chunk := func(start, end, dim int) vector.Chunk {
		return vector.Chunk{Start: start, End: end, Embedding: vector.Embedding{Vector: make(vector.Vector, dim)}}
	}
	for name, tt := range map[string]struct {
		embed embedFunc
		want  string // outcome and code
		err   string
	}{
		"permanent":       {fails(engineError{permanent: true}), "permanent permanent", "embedding the document: engine says no"},
		"overloaded":      {fails(engineError{overloaded: true}), "overloaded overloaded", "engine says no"},
		"neither":         {fails(engineError{}), "retry retry", "engine says no"},
		"revoked":         {fails(endError{revoked: true}), "revoked revoked", "nobody wants it"},
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
			for _, at := range places {
				f := newFleet(t)
				f.embedder.document = only("a text", tt.embed)
				outcome, err := f.amid(t, document(t, "a text", 1), at)
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("at %d: %v, want %q", at, err, tt.err)
				}
				if want := "embed:document " + tt.want; outcome != want {
					t.Errorf("at %d: outcome %q, want %q", at, outcome, want)
				}
				if got := f.stored(t); got != "" {
					t.Errorf("at %d: stored %q", at, got)
				}
			}
		})
	}
}

// TestStrangers hands over tasks that are not for this worker, or for none, or for a newer one.
func TestStrangers(t *testing.T) {
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
		"newer payload":   {tasks.Task{Kind: tasks.EmbedDocument, Payload: []byte(`{"v":9,"new":1}`)}, "embed:document newer unknown_version", "version 9"},
		"junk":            {tasks.Task{Kind: tasks.EmbedDocument, Payload: []byte("junk")}, "embed:document permanent bad_payload", "not JSON"},
		"unknown kind":    {tasks.Task{Kind: "embed:image"}, "unknown permanent permanent", `kind "embed:image", want "embed:document" or "embed:query"`},
		"query's payload": {tasks.Task{Kind: tasks.EmbedDocument, Payload: query(t, "x").Payload}, "embed:document permanent bad_payload", "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, at := range places {
				f := newFleet(t)
				outcome, err := f.amid(t, tt.task, at)
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("at %d: %v, want %q", at, err, tt.err)
				}
				if outcome != tt.want {
					t.Errorf("at %d: outcome %q, want %q", at, outcome, tt.want)
				}
				if slices.Contains(f.embedder.texts, "x") {
					t.Error("it was embedded")
				}
			}
		})
	}
}

// TestTogetherAsAlone does a day's mixture of tasks in batches of every size: reports, stages, outcomes, vectors and
// answers are those of batches of one.
func TestTogetherAsAlone(t *testing.T) {
	t.Parallel()
	list := mixture(t)
	var want *day
	for _, size := range []int{1, 2, 3, 5, len(list)} {
		got := live(t, list, size)
		if want == nil {
			want = got
			if want.said[0] != "" || want.said[len(list)-1] == "" {
				t.Errorf("the first and the last task: %q", want.said)
			}
		}
		for what, pair := range map[string][2]any{
			"reports": {got.said, want.said}, "stages": {got.stages, want.stages}, "outcomes": {got.outcomes, want.outcomes},
			"answers": {got.answers, want.answers}, "documents": {got.docs, want.docs}, "stats": {got.stats, want.stats},
		} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Errorf("%d at a time: %s\n     %v\nwant %v", size, what, pair[0], pair[1])
			}
		}
	}
}

// mixture is tasks of all sorts. No two are of the same document, so that order does not matter.
func mixture(t *testing.T) []tasks.Task {
	t.Helper()
	full, err := tasks.New("minilm", tasks.Live, storetest.FullRecord("full", "a text", 7).Document, &tasks.Options{Version: 7})
	if err != nil {
		t.Fatal(err)
	}
	junk, newer, late := query(t, "x"), query(t, "x"), query(t, "x")
	junk.Payload, newer.Payload = []byte("junk"), []byte(`{"v":2}`)
	late.Payload = []byte(`{"v":1,"model":"minilm","text":"x","expires_at":"2020-01-01T00:00:00Z"}`)
	list := []tasks.Task{
		full, named(t, "there", "text there", 1), query(t, "find"), named(t, "d1", "poison", 1), named(t, "d2", "text 2", 1),
		junk, newer, late, query(t, "panic"), named(t, "d3", "text 3", 1), named(t, "d4", "busy", 1), query(t, "poison"),
		named(t, "d5", "text 5", 1), query(t, "find too"), query(t, "busy"), named(t, "d6", "panic", 1), named(t, "d7", "text 7", 1),
		{ID: "k", Kind: "embed:image"}, {ID: "n", Kind: tasks.EmbedDocument, Payload: []byte(`{"v":3}`)},
	}
	for i := range list {
		list[i].ID = fmt.Sprint("task ", i)
	}
	return list
}

// A day is what tasks have left.
type day struct {
	said, stages, outcomes []string
	answers                map[string]string
	docs                   map[string]vector.Record
	stats                  map[vector.Space]store.Stats
}

// live handles tasks, so many at a time.
func live(t *testing.T, list []tasks.Task, size int) *day {
	f := newFleet(t)
	f.must(t, list[1])
	f.observed.stages, f.observed.outcomes = nil, nil
	moody := func(_ context.Context, text string) ([]vector.Chunk, error) {
		switch text {
		case "panic":
			panic("oh")
		case "poison":
			return nil, engineError{permanent: true}
		case "busy":
			return nil, engineError{overloaded: true}
		}
		return whole(text), nil
	}
	f.embedder.document, f.embedder.query = moody, moody
	d := &day{answers: map[string]string{}, docs: map[string]vector.Record{}}
	for some := range slices.Chunk(list, size) {
		for _, err := range f.handle(t, some...) {
			said := ""
			if err != nil {
				said = string(tasks.Classify(err)) + ": " + err.Error()
			}
			d.said = append(d.said, said)
		}
	}
	d.outcomes = f.outcomes()
	// What shares a batch with a panic goes through some stages twice.
	d.stages = slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, s := range f.observed.stages {
			yield(string(s))
		}
	}))
	for _, task := range list {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		e, err := f.store.Await(ctx, task.ID)
		cancel()
		d.answers[task.ID] = fmt.Sprint(e, err)
	}
	for _, id := range []string{"full", "there", "d1", "d2", "d3", "d4", "d5", "d6", "d7"} {
		rec, err := f.store.Get(t.Context(), "minilm", id)
		if err == nil {
			d.docs[id] = rec
		}
	}
	if len(d.docs) != 6 {
		t.Errorf("%d at a time: %d documents are stored, want 6", size, len(d.docs))
	}
	var err error
	if d.stats, err = f.store.Stats(t.Context(), "minilm"); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOneLookupOneWrite counts what tasks together cost.
func TestOneLookupOneWrite(t *testing.T) {
	t.Parallel()
	var c *counting
	f := newFleetWith(t, func(p *tasks.Parts) {
		c = &counting{Store: p.Store, Answers: p.Answers}
		p.Store, p.Answers = c, c
	})
	var list []tasks.Task
	for i := range 6 {
		list = append(list, named(t, fmt.Sprint("d", i), "text", 1), query(t, "a query"))
	}
	f.must(t, list...)
	if want := (counting{Store: c.Store, Answers: c.Answers, refreshes: 1, puts: 3, answers: 3}); *c != want {
		t.Errorf("%d lookups, %d writes, %d deliveries, want one lookup, and one of the others for each two texts, which came together",
			c.refreshes, c.puts, c.answers)
	}
	if !slices.Equal(f.embedder.texts[:6], slices.Repeat([]string{"a query"}, 6)) {
		t.Errorf("embedded %q, want queries first: somebody waits", f.embedder.texts)
	}
}

// counting counts calls.
type counting struct {
	tasks.Store
	tasks.Answers
	refreshes, puts, answers int
}

func (c *counting) RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error) {
	c.refreshes++
	return c.Store.RefreshMany(ctx, recs)
}

func (c *counting) PutMany(ctx context.Context, recs []vector.Record) ([]bool, []error) {
	c.puts++
	return c.Store.PutMany(ctx, recs)
}

func (c *counting) AnswerMany(ctx context.Context, list []vector.Answer) []error {
	c.answers++
	return c.Answers.AnswerMany(ctx, list)
}

// panicky panics in one method if a record or an answer is of the bad one.
type panicky struct {
	tasks.Store
	tasks.Answers
	in, bad string
}

func (p panicky) check(in, id string) {
	if in == p.in && id == p.bad {
		panic("store panics for " + id)
	}
}

func (p panicky) RefreshMany(ctx context.Context, recs []vector.Record) ([]bool, error) {
	for _, rec := range recs {
		p.check("RefreshMany", rec.Document.ID)
	}
	return p.Store.RefreshMany(ctx, recs)
}

func (p panicky) PutMany(ctx context.Context, recs []vector.Record) ([]bool, []error) {
	for _, rec := range recs {
		p.check("PutMany", rec.Document.ID)
	}
	return p.Store.PutMany(ctx, recs)
}

func (p panicky) AnswerMany(ctx context.Context, list []vector.Answer) []error {
	for _, a := range list {
		if a.Failure != nil && a.ID == p.bad {
			p.check("refusal", a.ID)
		}
		p.check("AnswerMany", a.ID)
	}
	return p.Answers.AnswerMany(ctx, list)
}

// TestPanicsOfTheStore checks that a panic costs only the task that causes it, wherever it happens.
func TestPanicsOfTheStore(t *testing.T) {
	t.Parallel()
	junk := query(t, "x")
	junk.Payload = []byte("junk")
	asked := query(t, "x")
	for name, tt := range map[string]struct {
		in, bad string
		task    tasks.Task
		want    string
	}{
		"lookup":           {"RefreshMany", "d", document(t, "x", 1), "embed:document permanent panic"},
		"store":            {"PutMany", "d", document(t, "x", 1), "embed:document permanent panic"},
		"answer":           {"AnswerMany", asked.ID, asked, "embed:query permanent panic"},
		"answer to a junk": {"refusal", junk.ID, junk, "embed:query permanent panic"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, at := range places {
				f := newFleetWith(t, func(p *tasks.Parts) {
					bad := panicky{p.Store, p.Answers, tt.in, tt.bad}
					p.Store, p.Answers = bad, bad
				})
				outcome, err := f.amid(t, tt.task, at)
				if p := (*tasks.PanicError)(nil); outcome != tt.want || !errors.As(err, &p) || !strings.Contains(string(p.Stack), "panicky") {
					t.Errorf("at %d: outcome %q, %v, want %q and where it happened", at, outcome, err, tt.want)
				}
			}
		})
	}
}

// TestOutcomesDespiteAPanic checks that what is known when something panics is neither lost nor counted twice.
func TestOutcomesDespiteAPanic(t *testing.T) {
	t.Parallel()
	f := newFleetWith(t, func(p *tasks.Parts) {
		bad := panicky{p.Store, p.Answers, "PutMany", "bad"}
		p.Store, p.Answers = bad, bad
	})
	f.embedder.document = only("wrong", func(context.Context, string) ([]vector.Chunk, error) { return nil, nil })
	// The last two are embedded together, and one is judged before the other's write panics.
	errs := f.handle(t, named(t, "good", "good", 1), named(t, "wrong", "wrong", 1), named(t, "bad", "bad", 1))
	if errs[0] != nil || tasks.Code(errs[1]) != "bad_vectors" || tasks.Code(errs[2]) != "panic" {
		t.Errorf("reported: %v", errs)
	}
	want := []string{"embed:document done stored", "embed:document permanent bad_vectors", "embed:document permanent panic"}
	if got := f.outcomes(); !slices.Equal(got, want) {
		t.Errorf("outcomes %q, want %q", got, want)
	}
}

// TestBatchOfNothing checks that it is none.
func TestBatchOfNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.must(t)
	if len(f.observed.outcomes)+len(f.observed.stages)+len(f.embedder.texts) != 0 {
		t.Errorf("something happened: %+v", f.observed)
	}
}
