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
	f.must(t, task)
	e, err := f.await(t, task.ID)
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

// TestHandleQueryFails checks who is told what, alone and among others: what went wrong for good is answered, and so is
// done; else there is no answer yet.
func TestHandleQueryFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		payload string // "" for a good one
		embed   func() ([]vector.Chunk, error)
		want    string // outcome and code
		answer  string // "" for none
	}{
		"empty text":    {`{"v":1,"model":"minilm","text":" "}`, nil, "done refused", "text: has no character"},
		"another model": {`{"v":1,"model":"other","text":"x"}`, nil, "done refused", `for model "other"`},
		"junk":          {`junk`, nil, "done refused", "not JSON"},
		"newer payload": {`{"v":3}`, nil, "newer unknown_version", ""},
		"permanent":     {"", func() ([]vector.Chunk, error) { return nil, engineError{permanent: true} }, "done refused", "engine says no"},
		"panic":         {"", func() ([]vector.Chunk, error) { panic("oh") }, "done refused", "handler panicked: oh"},
		"no vector":     {"", func() ([]vector.Chunk, error) { return nil, nil }, "done refused", "0 vectors for a query"},
		"two vectors":   {"", func() ([]vector.Chunk, error) { return make([]vector.Chunk, 2), nil }, "done refused", "2 vectors for a query"},
		"overloaded":    {"", func() ([]vector.Chunk, error) { return nil, engineError{overloaded: true} }, "overloaded overloaded", ""},
		"cancelled":     {"", func() ([]vector.Chunk, error) { return nil, context.Canceled }, "cancelled cancelled", ""},
		"revoked":       {"", func() ([]vector.Chunk, error) { return nil, endError{revoked: true} }, "revoked revoked", ""},
		"retry":         {"", func() ([]vector.Chunk, error) { return nil, errors.New("model hiccup") }, "retry retry", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, at := range places {
				f, task := newFleet(t), query(t, "x")
				if tt.payload != "" {
					task.Payload = []byte(tt.payload)
				}
				f.embedder.query = only("x", func(context.Context, string) ([]vector.Chunk, error) { return tt.embed() })
				outcome, err := f.amid(t, task, at)
				if want := "embed:query " + tt.want; outcome != want || (err == nil) != (tt.answer != "") {
					t.Errorf("at %d: outcome %q, %v, want %q", at, outcome, err, want)
				}
				checkAnswer(t, f, task.ID, tt.answer)
			}
		})
	}
}

// await fetches an answer that is there.
func (f *fleet) await(t *testing.T, id string) (vector.Embedding, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return f.store.Await(ctx, id)
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
// since somebody waits for either. Those whose answers were delivered meanwhile are done.
func TestHandleQueryAnswerFails(t *testing.T) {
	t.Parallel()
	for _, fault := range []storetest.Fault{storetest.NotPersisted, storetest.Persisted} {
		for _, payload := range []string{"", "junk"} {
			for _, beside := range []int{0, 3} {
				f, list := newFleet(t), []tasks.Task{query(t, "x")}
				if payload != "" {
					list[0].Payload = []byte(payload)
				}
				for range beside {
					list = append(list, query(t, "y"))
				}
				at := 0 // refused before anything is embedded
				if payload == "" {
					at = len(list) - 1 // the last is embedded and answered first
				}
				f.store.FailNext(fault)
				for i, err := range f.handle(t, list...) {
					if i != at && err != nil {
						t.Errorf("%s: neighbour %d: %v", fault, i, err)
					}
					if i == at && (!errors.Is(err, storetest.ErrInjected) || tasks.Classify(err) != tasks.Retry) {
						t.Errorf("%s: %v, want the injected fault and a retry", fault, err)
					}
				}
				f.must(t, list[at]) // the second time
				for i, task := range list {
					_, err := f.await(t, task.ID)
					if refused := (*store.RefusedError)(nil); errors.As(err, &refused) != (payload != "" && i == at) {
						t.Errorf("%s: answer %d: %v", fault, i, err)
					}
				}
			}
		}
	}
}

// TestAnswersOutliveAContext lets the first of two queries be given up when their vectors are there.
func TestAnswersOutliveAContext(t *testing.T) {
	t.Parallel()
	f, list := newFleet(t), []tasks.Task{query(t, "x"), query(t, "y")}
	gone, leave := context.WithCancel(t.Context())
	defer leave()
	f.embedder.query = func(_ context.Context, text string) ([]vector.Chunk, error) {
		leave()
		return whole(text), nil
	}
	f.HandleBatch(t.Context(), []tasks.Item{{Ctx: gone, Task: list[0]}, {Ctx: gone, Task: list[1]}}, func([]tasks.Result) {})
	for _, task := range list {
		if _, err := f.await(t, task.ID); err != nil {
			t.Error(err)
		}
	}
}

// TestHandleExpiredQuery comes to a query after its asker has left.
func TestHandleExpiredQuery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, late := newFleet(t), query(t, "x")
		time.Sleep(tasks.QueryTimeout + time.Second)
		f.must(t, late, query(t, "y"))
		if want := []string{"embed:query done answered", "embed:query done expired"}; !slices.Equal(f.outcomes(), want) || !slices.Equal(f.embedder.texts, []string{"y"}) {
			t.Errorf("outcomes %q, embedded %q, want %q and only y", f.outcomes(), f.embedder.texts, want)
		}
		checkAnswer(t, f, late.ID, "")
	})
}
