package main

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A bulkFake embeds many texts as the fake does one, and counts them.
type bulkFake struct {
	*fakeModel
	texts atomic.Int32
}

func (m *bulkFake) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return func(yield func([]vector.Embedded) bool) {
		list := make([]vector.Embedded, len(texts))
		for i, text := range texts {
			m.texts.Add(1)
			list[i].Index = i
			list[i].Chunks, list[i].Err = m.EmbedDocument(ctxs[i], text)
		}
		yield(list)
	}
}

// TestDocumentsAreHandledTogether checks that a worker handles what it leases together, unless each task is to have spans
// or a deadline of the operator's; and that bad input fails as it does alone.
func TestDocumentsAreHandledTogether(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*config)
		traced bool
		want   int32
	}{
		"as it comes":            {nil, false, 4},
		"an operator's deadline": {func(c *config) { c.deadline = time.Minute }, false, 0},
		"traced":                 {nil, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTrial(t, testkit.RedisServer(t), "s1", tt.change)
			if tt.traced {
				tracer, err := trace.Open(t.Context(), "worker", trace.Options{Collector: "http://127.0.0.1:1", Percent: 100, Logger: testkit.Logger(t)})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = tracer.Close() })
				x.worker.tracer = tracer
			}
			many := &bulkFake{fakeModel: x.fake}
			x.fake.bulk, x.fake.Errors = many, map[string]error{"bad": embedder.ErrEmpty}
			receipts := x.enqueue("one", "two", "three", "a bad one")
			x.gate <- nil
			failures, err := x.fleet.Queue.Wait(t.Context(), receipts, nil)
			if err != nil || len(failures) != 1 || failures[0].ID != receipts[3].ID {
				t.Errorf("failures %+v, %v, want the bad one", failures, err)
			}
			if n := many.texts.Load(); n != tt.want {
				t.Errorf("%d texts were embedded together, want %d", n, tt.want)
			}
			x.finds("two", 3)
			x.stop()
			if err := x.end(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestPulseOfTasksTogether checks that what is reported done is progress, and that nobody stays inside.
func TestPulseOfTasksTogether(t *testing.T) {
	t.Parallel()
	var pulse monitoring.Pulse
	var inside []int
	h := feltTogether{togetherFunc(func(report func(tasks.Report)) {
		inside = append(inside, pulse.Inside())
		report(tasks.Report{Done: []int{0, 1}})
		inside = append(inside, pulse.Inside())
		report(tasks.Report{Alone: []int{2}})
		inside = append(inside, pulse.Inside())
	}), &pulse}
	var done, alone int
	h.HandleAll(t.Context(), make([]tasks.Item, 3), func(r tasks.Report) { done, alone = done+len(r.Done), alone+len(r.Alone) })
	if len(inside) != 3 || inside[0] != 3 || inside[1] != 1 || inside[2] != 0 || done != 2 || alone != 1 {
		t.Errorf("inside %v, %d done, %d alone", inside, done, alone)
	}
}

type togetherFunc func(report func(tasks.Report))

func (f togetherFunc) HandleAll(_ context.Context, _ []tasks.Item, report func(tasks.Report)) {
	f(report)
}

var _ queue.Together = togetherFunc(nil)
