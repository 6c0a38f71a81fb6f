package tasks_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestHandleQuery(t *testing.T) {
	t.Parallel()
	f, task := newFleet(t), query(t, "find this")
	if err := f.Handle(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	e, err := f.store.Await(t.Context(), task.ID)
	want := storetest.Chunk("find this", 0, 9).Embedding
	want.Space = storetest.SpaceA
	if err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("answer %+v, %v, want %+v", e, err, want)
	}
	if want := []tasks.Stage{tasks.StageDecode, tasks.StageEmbed, tasks.StageAnswer}; !slices.Equal(f.observed.stages, want) {
		t.Errorf("stages %v, want %v", f.observed.stages, want)
	}
	if got, want := f.outcome(t), "embed:query done answered"; got != want {
		t.Errorf("outcome %q, want %q", got, want)
	}
}

// TestHandleQueryFails checks who is told what: an error for good is answered, another is not yet.
func TestHandleQueryFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		payload string // "" for a good one
		embed   func() error
		want    string // outcome and code
		answer  string // "" for none
	}{
		"empty text":    {`{"v":1,"model":"minilm","text":" "}`, nil, "permanent invalid_empty", "text: has no character"},
		"another model": {`{"v":1,"model":"other","text":"x"}`, nil, "permanent wrong_model", `for model "other"`},
		"junk":          {`junk`, nil, "permanent bad_payload", "not JSON"},
		"newer payload": {`{"v":3}`, nil, "retry unknown_version", ""},
		"permanent":     {"", func() error { return engineError{permanent: true} }, "permanent permanent", "engine says no"},
		"panic":         {"", func() error { panic("oh") }, "permanent panic", "handler panicked: oh"},
		"overloaded":    {"", func() error { return engineError{overloaded: true} }, "overloaded overloaded", ""},
		"cancelled":     {"", func() error { return context.Canceled }, "cancelled cancelled", ""},
		"retry":         {"", func() error { return errors.New("model hiccup") }, "retry retry", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, task := newFleet(t), query(t, "x")
			if tt.payload != "" {
				task.Payload = []byte(tt.payload)
			}
			f.embedder.query = func(context.Context, string) (vector.Embedding, error) {
				return vector.Embedding{}, tt.embed()
			}
			if err := f.Handle(t.Context(), task); err == nil {
				t.Error("Handle returned nil")
			}
			if got, want := f.outcome(t), "embed:query "+tt.want; got != want {
				t.Errorf("outcome %q, want %q", got, want)
			}
			checkAnswer(t, f, task.ID, tt.answer)
		})
	}
}

// checkAnswer looks for a refusal that says want, or for no answer.
func checkAnswer(t *testing.T, f *fleet, id, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := f.store.Await(ctx, id)
	var refused *store.RefusedError
	switch {
	case want == "" && !errors.Is(err, context.DeadlineExceeded):
		t.Errorf("answer %v, want none yet", err)
	case want != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Message, want)):
		t.Errorf("answer %v, want a refusal that says %q", err, want)
	}
}

// TestHandleQueryAnswerFails breaks the delivery: the query is asked again, also if it is to be refused,
// since somebody waits for either.
func TestHandleQueryAnswerFails(t *testing.T) {
	t.Parallel()
	for _, fault := range []storetest.Fault{storetest.NotPersisted, storetest.Persisted} {
		for _, payload := range []string{"", "junk"} {
			f, task := newFleet(t), query(t, "x")
			if payload != "" {
				task.Payload = []byte(payload)
			}
			f.store.FailNext(fault)
			err := f.Handle(t.Context(), task)
			if !errors.Is(err, storetest.ErrInjected) || tasks.Classify(err) != tasks.Retry {
				t.Errorf("%s: %v, want the injected fault and a retry", fault, err)
			}
			if err := f.Handle(t.Context(), task); (err == nil) != (payload == "") {
				t.Errorf("%s: the second time: %v", fault, err)
			}
			_, err = f.store.Await(t.Context(), task.ID)
			if refused := (*store.RefusedError)(nil); errors.As(err, &refused) != (payload != "") {
				t.Errorf("%s: answer %v", fault, err)
			}
		}
	}
}

// TestHandleExpiredQuery comes to a query after its asker has left.
func TestHandleExpiredQuery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, task := newFleet(t), query(t, "x")
		time.Sleep(tasks.QueryTimeout + time.Second)
		if err := f.Handle(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		if got, want := f.outcome(t), "embed:query done expired"; got != want || len(f.embedder.texts) != 0 {
			t.Errorf("outcome %q, embedded %q, want %q and nothing", got, f.embedder.texts, want)
		}
	})
}
