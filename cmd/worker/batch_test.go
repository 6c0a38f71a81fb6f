package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/internal/trace/tracetest"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// TestDocumentsAreHandledTogether checks that a worker hands what it leased together to its model as one group, whatever
// its flags say; and that bad input fails alone.
func TestDocumentsAreHandledTogether(t *testing.T) {
	for name, change := range map[string]func(*config){
		"as it comes":            nil,
		"an operator's deadline": func(c *config) { c.deadline = time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			x := newTrial(t, testkit.RedisServer(t), "s1", change)
			x.fake.Errors = map[string]error{"bad": embedder.ErrEmpty}
			receipts := x.enqueue("one", "two", "three", "a bad one")
			x.gate <- nil
			failures, err := x.fleet.Queue.Wait(t.Context(), receipts, nil)
			if err != nil || len(failures) != 1 || failures[0].ID != receipts[3].ID {
				t.Errorf("failures %+v, %v, want the bad one", failures, err)
			}
			if got := x.fake.together(); !slices.Equal(got, []int{4}) {
				t.Errorf("the model was handed groups of %v documents, want one of 4", got)
			}
			x.finds("two", 3)
			x.stop()
			if err := x.end(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func (m *fakeModel) together() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.groups)
}

// TestEachTaskHasSpans checks that with a collector tasks go the same way as without, together, and that each has spans
// of its own of the stages that it went through.
func TestEachTaskHasSpans(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", nil)
	tracer, spans := tracetest.New()
	x.worker.tracer = tracer // before the load, which waits for the gate
	x.fake.Errors = map[string]error{"bad": embedder.ErrEmpty}
	receipts := x.enqueue("one", "two", "three", "a bad one")
	x.gate <- nil
	if _, err := x.fleet.Queue.Wait(t.Context(), receipts, nil); err != nil {
		t.Fatal(err)
	}
	if got := x.fake.together(); !slices.Equal(got, []int{4}) {
		t.Errorf("the model was handed groups of %v documents, want one of 4", got)
	}
	x.finds("two", 3)
	x.stop()
	if err := x.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	stages := map[string][]string{} // by the span they are in
	for _, s := range spans.Spans() {
		stages[s.Parent] = append(stages[s.Parent], s.Name)
	}
	traces := map[string]bool{}
	for i, r := range receipts {
		want, code := []string{"decode", "embed", "lookup", "store"}, ""
		if i == 3 {
			want, code = want[:3], tasks.Code(embedder.ErrEmpty)
		}
		s := spanOf(spans, r.ID)
		slices.Sort(stages[s.ID])
		if s.Name != "task embed:document" || s.Error != code || !slices.Equal(stages[s.ID], want) {
			t.Errorf("task %d has the span %+v with %v in it, want %v and the error %q", i, s, stages[s.ID], want, code)
		}
		traces[s.Trace] = true
	}
	if len(traces) != len(receipts) {
		t.Errorf("%d traces of %d tasks that nobody had traced", len(traces), len(receipts))
	}
	query, ok := spans.Find("task embed:query")
	slices.Sort(stages[query.ID])
	if !ok || query.Attributes["lane"] != "query" || !slices.Equal(stages[query.ID], []string{"answer", "decode", "embed"}) {
		t.Errorf("the query has the span %+v with %v in it", query, stages[query.ID])
	}
}

func spanOf(spans *tracetest.Recorder, task string) (found tracetest.Span) {
	for _, s := range spans.Spans() {
		if s.Attributes["task"] == task {
			found = s
		}
	}
	return found
}

// TestTaskTimeout checks that the time which the model spends on one text is bounded by the flag, and that a text which
// does not come to an end costs its neighbours nothing.
func TestTaskTimeout(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", func(c *config) { c.deadline = time.Second })
	receipts := x.enqueue("one", "dawdle for ever", "two")
	x.gate <- nil
	for _, i := range []int{0, 2} {
		if failures, err := x.fleet.Queue.Wait(t.Context(), receipts[i:i+1], nil); err != nil || len(failures) > 0 {
			t.Errorf("a neighbour: %v, %v", failures, err)
		}
	}
	x.until("the text is set aside", func() bool {
		_, body := x.get("/metrics")
		return strings.Contains(body, `embed_tasks_total{code="timeout",kind="embed:document",outcome="retry"}`)
	})
	x.until("it is charged", func() bool {
		fields := x.redis.Client().HGetAll(t.Context(), "asynq:{embed:quote:live}:t:"+receipts[1].ID).Val()
		return fields["state"] == "retry" && fields["code"] == "timeout" && strings.Contains(fields["msg"], "the model worked on it for 1s")
	})
	x.stop()
	if err := x.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestAhead checks that a worker has in hand what it needs so many seconds for by the rate that it knows, and no more.
func TestAhead(t *testing.T) {
	const documents = 24 // less than --concurrency
	for _, tt := range []struct {
		ahead time.Duration
		want  int // in hand
	}{
		{2 * time.Second, 2},
		{time.Hour, documents},
	} {
		t.Run(tt.ahead.String(), func(t *testing.T) {
			x := newTrial(t, testkit.RedisServer(t), "s1", func(c *config) { c.ahead = tt.ahead })
			texts := make([]string, documents)
			for i := range texts {
				texts[i] = fmt.Sprintf("stall %02d", i)
			}
			// Texts cost alike here, so the worker takes one when there is room for half a one: just below two make two.
			x.fake.cost = embedder.Cost{Rate: 0.9 * float64(tasks.EstimateTokens(texts[0]))}
			x.enqueue(texts...)
			x.gate <- nil
			inHand := func() int { return x.status().Worker.InUse }
			x.until("as many are in hand", func() bool { return inHand() == tt.want })
			for range 20 {
				if n := inHand(); n != tt.want {
					t.Fatalf("%d in hand, want %d", n, tt.want)
				}
				time.Sleep(50 * time.Millisecond)
			}
			close(x.fake.stalled)
			x.until("all are done", func() bool {
				counts, err := x.fleet.Store.Stats(t.Context(), "quote")
				return err == nil && counts["s1"].Documents == documents
			})
			x.stop()
			if err := x.end(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestAStuckWorkerGivesBack checks that a worker which is told to stop while its model does not come back gives the task
// back uncharged after its grace, says so, and that another does it.
func TestAStuckWorkerGivesBack(t *testing.T) {
	redis := testkit.RedisServer(t)
	x := newTrial(t, redis, "s1", func(c *config) { c.grace = time.Second })
	x.gate <- nil
	x.until("ready", func() bool { return x.status().Worker.Serving() })
	receipts := x.enqueue("stall for ever")
	x.until("it is inside", func() bool {
		calls := redis.Client().HVals(t.Context(), "embedfleet:calls:"+x.worker.id).Val()
		return len(calls) == 1 && calls[0] == "embed:quote:live/"+receipts[0].ID
	})
	x.stop()
	x.until("it is back", func() bool {
		live := x.lane(tasks.Live)
		return live.Pending == 1 && live.Active+live.Retry+live.Dead == 0
	})
	if code, _ := x.get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz with a handler inside: %d", code)
	}
	if err := x.end(); err == nil || !strings.Contains(err.Error(), "still inside") {
		t.Errorf("ended with %v, want to hear that a handler is inside", err)
	}
	other := newTrial(t, redis, "s1", nil)
	close(other.fake.stalled)
	other.gate <- nil
	if failures, err := other.fleet.Queue.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Errorf("waiting: %v, %v", failures, err)
	}
	close(x.fake.stalled) // in vain
	other.stop()
	if err := other.end(); err != nil {
		t.Error(err)
	}
}

// lane returns how one lane is.
func (x *trial) lane(name tasks.Lane) queue.LaneStatus {
	x.t.Helper()
	lanes, err := x.fleet.Lanes.Status(x.t.Context(), "quote")
	if err != nil {
		x.t.Fatal(err)
	}
	return lanes[slices.IndexFunc(lanes, func(l queue.LaneStatus) bool { return l.Lane == name })]
}

// TestPulseOfABatch checks that what is reported is progress if something became of it, and that nobody stays inside.
func TestPulseOfABatch(t *testing.T) {
	t.Parallel()
	var pulse monitoring.Pulse
	var inside []int
	h := withPulse{handlerFunc(func(_ []tasks.Item, report func([]tasks.Result)) {
		inside = append(inside, pulse.Inside())
		report([]tasks.Result{{Index: 0}, {Index: 2, Err: tasks.AsPermanent(embedder.ErrEmpty)}})
		inside = append(inside, pulse.Inside())
		report([]tasks.Result{{Index: 1, Err: context.DeadlineExceeded}})
		inside = append(inside, pulse.Inside())
		panic("the queue is to deal with it")
	}), &pulse}
	reported := 0
	func() {
		defer func() { _ = recover() }()
		h.HandleBatch(t.Context(), make([]tasks.Item, 4), func(rs []tasks.Result) { reported += len(rs) })
	}()
	if !slices.Equal(inside, []int{4, 2, 1}) || pulse.Inside() != 0 || reported != 3 {
		t.Errorf("inside %v and then %d, %d reported", inside, pulse.Inside(), reported)
	}
}

type handlerFunc func(items []tasks.Item, report func([]tasks.Result))

func (f handlerFunc) HandleBatch(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
	f(items, report)
}
