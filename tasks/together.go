package tasks

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// An Item is one of several tasks that are handled together, and the context that its own fate ends.
type Item struct {
	Ctx  context.Context //nolint:containedctx // it belongs to the task, and is here no longer than HandleAll
	Task Task
}

// A Report says what became of some of the items that were handled together, by their indexes.
type Report struct {
	Done   []int         // may be acknowledged
	Alone  []int         // are for Handle, from the start
	Failed map[int]error // have a permanent verdict, the one that Handle would come to
}

// HandleAll does documents together, as [Handler.Handle] does each: one look into the store for all, one goroutine that
// waits for their vectors, one write for those that the engine finished together. Where a text costs the model a few
// milliseconds, what a goroutine and its waits cost for each is worth saving.
//
// It reports tasks as soon as it may. Those with which anything is not in order are left to Handle, but for texts of which
// the model has found that they are at fault: that takes company (see the engine's search). Every task is reported once before
// HandleAll returns, always from its own goroutine. ctx is that of all items.
func (h *Handler) HandleAll(ctx context.Context, items []Item, report func(Report)) {
	t := &together{Handler: h, items: items, report: report, open: len(items), reported: make([]bool, len(items))}
	defer func() {
		if v := recover(); v != nil {
			h.log.Warn("tasks are done alone, together they panicked", "tasks", t.open, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		t.rest()
	}()
	t.run(ctx)
}

// together is one call of HandleAll.
type together struct {
	*Handler
	items    []Item
	report   func(Report)
	reported []bool
	open     int // not reported

	recs    []vector.Record
	index   []int // of their items
	start   time.Time
	storing time.Duration // in which nobody waited for vectors
}

func (t *together) run(ctx context.Context) {
	t.start = time.Now()
	if t.parts.Bulk == nil {
		return
	}
	t.decode()
	if len(t.recs) == 0 || !t.lookup(ctx) {
		return
	}
	ctxs, texts := make([]context.Context, 0, len(t.recs)), make([]string, 0, len(t.recs))
	for i, rec := range t.recs {
		ctxs = append(ctxs, t.items[t.index[i]].Ctx)
		texts = append(texts, rec.Document.Text)
	}
	begun := time.Now()
	for list := range t.parts.Bulk.EmbedDocuments(ctxs, texts) {
		t.store(ctx, list, time.Since(begun)-t.storing)
	}
}

// decode makes records of the items. What is no document for this model is done alone.
func (t *together) decode() {
	var alone []int
	for i, item := range t.items {
		if item.Task.Kind != EmbedDocument {
			alone = append(alone, i)
			continue
		}
		rec, err := t.record(item.Task)
		if err != nil {
			alone = append(alone, i)
			continue
		}
		t.recs, t.index = append(t.recs, rec), append(t.index, i)
	}
	t.tell(Report{Alone: alone})
}

// lookup reports which records need no embedding and leaves the others. It returns false if nothing is known.
func (t *together) lookup(ctx context.Context) bool {
	begun := time.Now()
	current, err := t.parts.Bulk.RefreshMany(ctx, t.recs)
	took := time.Since(begun)
	if err != nil {
		return false
	}
	var done []int
	n := 0
	for i, rec := range t.recs {
		t.observer.Stage(StageLookup, took)
		if current[i] {
			done = append(done, t.index[i])
			t.ended(t.index[i], CodeDuplicate, nil)
			continue
		}
		t.recs[n], t.index[n] = rec, t.index[i]
		n++
	}
	t.recs, t.index = t.recs[:n], t.index[:n]
	t.tell(Report{Done: done})
	return n > 0
}

// store stores what has been embedded and reports it.
func (t *together) store(ctx context.Context, list []vector.Embedded, took time.Duration) {
	recs, index := make([]vector.Record, 0, len(list)), make([]int, 0, len(list))
	var r Report
	for _, em := range list {
		rec, i := t.recs[em.Index], t.index[em.Index]
		if em.Err != nil || checkChunks(em.Chunks, len(rec.Document.Text)) != nil {
			t.refuse(&r, i, em.Err)
			continue
		}
		t.observer.Stage(StageEmbed, took)
		rec.Chunks = em.Chunks
		recs, index = append(recs, rec), append(index, i)
	}
	if len(recs) > 0 {
		begun := time.Now()
		stored, errs := t.parts.Bulk.PutMany(ctx, recs)
		took := time.Since(begun)
		t.storing += took
		for n, i := range index {
			if errs[n] != nil {
				r.Alone = append(r.Alone, i)
				continue
			}
			code := CodeStored
			if !stored[n] {
				code = CodeSuperseded
			}
			t.observer.Stage(StageStore, took)
			t.ended(i, code, nil)
			r.Done = append(r.Done, i)
		}
	}
	t.tell(r)
}

// refuse adds a text without vectors to a report; err may be nil.
func (t *together) refuse(r *Report, i int, err error) {
	if err == nil || Classify(err) != Permanent {
		r.Alone = append(r.Alone, i)
		return
	}
	err = fmt.Errorf("embedding the document: %w", err)
	t.ended(i, "", err)
	if r.Failed == nil {
		r.Failed = map[int]error{}
	}
	r.Failed[i] = err
}

// ended tells observer and log how a task ended.
func (t *together) ended(i int, code string, err error) {
	t.Handler.report(t.items[i].Ctx, t.items[i].Task, code, time.Since(t.start), err)
}

// tell reports tasks.
func (t *together) tell(r Report) {
	n := 0
	for _, list := range [][]int{r.Done, r.Alone, slices.Collect(maps.Keys(r.Failed))} {
		for _, i := range list {
			t.reported[i] = true
			n++
		}
	}
	if n > 0 {
		t.open -= n
		t.report(r)
	}
}

// rest reports what is left.
func (t *together) rest() {
	var alone []int
	for i, reported := range t.reported {
		if !reported {
			alone = append(alone, i)
		}
	}
	t.tell(Report{Alone: alone})
}
