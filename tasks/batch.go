package tasks

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// An Item is one task of a batch, and the context that its own fate ends.
type Item struct {
	Ctx  context.Context //nolint:containedctx // it belongs to the task, and is here no longer than HandleBatch
	Task Task
}

// A Result says what became of an item: nil when it may be acknowledged, else an error for [Classify].
type Result struct {
	Index int // of the item
	Err   error
}

// HandleBatch does tasks: one look into the store for all documents, one goroutine that waits for their vectors, one
// write for those that the engine finished together. Every item is reported once, as soon as what became of it is
// known and always from HandleBatch's own goroutine: a document whose vectors are readable or need not be stored, a
// query whose answer is delivered. Everything before may happen twice, and twice leaves the same state as once.
//
// A query that fails for good is answered with its error and so is done; one that is going to be retried is not
// answered. A panic costs nobody but the item that panics alone too: see [PanicError]. ctx is that of all items.
func (h *Handler) HandleBatch(ctx context.Context, items []Item, report func([]Result)) {
	open, cause := h.tryBatch(ctx, items, report)
	for _, i := range open {
		if len(items) > 1 {
			h.HandleBatch(ctx, items[i:i+1], func(rs []Result) { report([]Result{{i, rs[0].Err}}) })
			continue
		}
		var err error = cause
		if items[i].Task.Kind == EmbedQuery {
			err = h.refuse(items[i], cause)
		}
		h.ended(items[i], time.Now(), CodeRefused, err)
		report([]Result{{i, err}})
	}
}

// tryBatch returns the items that are not reported because something panicked.
func (h *Handler) tryBatch(ctx context.Context, items []Item, report func([]Result)) (open []int, cause *PanicError) {
	b := &batch{Handler: h, items: items, report: report, start: time.Now(), reported: make([]bool, len(items))}
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		cause = &PanicError{Value: v, Stack: debug.Stack()}
		b.tell() // what is known already: its outcome has been counted
		for i, reported := range b.reported {
			if !reported {
				open = append(open, i)
			}
		}
		h.log.Error("handling tasks panicked", "tasks", len(items), "open", len(open), "panic", fmt.Sprint(v), "stack", string(cause.Stack))
	}()
	b.run(ctx)
	return nil, nil
}

// A batch is one call of HandleBatch.
type batch struct {
	*Handler
	items    []Item
	report   func([]Result)
	reported []bool
	start    time.Time
	results  []Result // not told yet

	recs    []vector.Record
	docs    []int // their items
	storing time.Duration
}

func (b *batch) run(ctx context.Context) {
	queries := b.decode()
	b.tell()
	for _, prompt := range []string{"", AsDocument, AsIs} { // first, since somebody waits
		if asked := queries[prompt]; asked != nil {
			b.queries(prompt, asked)
		}
	}
	if len(b.recs) > 0 {
		b.documents(ctx)
	}
}

// result notes what became of an item. code is of one that is done.
func (b *batch) result(i int, code string, err error) {
	b.ended(b.items[i], b.start, code, err)
	b.results = append(b.results, Result{i, err})
}

// tell reports what has been noted.
func (b *batch) tell() {
	for _, r := range b.results {
		b.reported[r.Index] = true
	}
	if list := b.results; len(list) > 0 {
		b.results = nil
		b.report(list)
	}
}

// stage tells the observer of a stage of one item.
func (b *batch) stage(i int, s Stage, took time.Duration) { b.observer.Stage(b.items[i].Ctx, s, took) }

// asked are queries under one prompt: their items and texts.
type asked struct {
	items []int
	texts []string
}

// decode makes records of documents, and returns the queries by their prompts.
func (b *batch) decode() map[string]*asked {
	queries := map[string]*asked{}
	for i, item := range b.items {
		begun := time.Now()
		switch kind := item.Task.Kind; kind {
		case EmbedDocument:
			rec, err := b.record(item.Task)
			b.stage(i, StageDecode, time.Since(begun))
			if err != nil {
				b.result(i, "", err)
				continue
			}
			b.recs, b.docs = append(b.recs, rec), append(b.docs, i)
		case EmbedQuery:
			q, expired, err := b.search(item.Task)
			b.stage(i, StageDecode, time.Since(begun))
			switch {
			case expired:
				b.result(i, CodeExpired, nil)
			case err != nil:
				b.failed(i, err)
			default:
				if queries[q.Prompt] == nil {
					queries[q.Prompt] = &asked{}
				}
				a := queries[q.Prompt]
				a.items, a.texts = append(a.items, i), append(a.texts, q.Text)
			}
		default:
			b.result(i, "", AsPermanent(fmt.Errorf("task is of kind %q, want %q or %q", kind, EmbedDocument, EmbedQuery)))
		}
	}
	return queries
}

// documents looks up, embeds and stores.
func (b *batch) documents(ctx context.Context) {
	b.lookup(ctx)
	b.tell()
	if len(b.recs) == 0 {
		return
	}
	ctxs, texts := make([]context.Context, len(b.recs)), make([]string, len(b.recs))
	for n, rec := range b.recs {
		ctxs[n], texts[n] = b.items[b.docs[n]].Ctx, rec.Document.Text //nolint:fatcontext // each its own
	}
	begun := time.Now()
	for list := range b.parts.Embedder.EmbedDocuments(ctxs, texts) {
		b.store(ctx, list, time.Since(begun)-b.storing)
		b.tell()
	}
}

// lookup takes out which records need no embedding.
func (b *batch) lookup(ctx context.Context) {
	begun := time.Now()
	current, err := b.parts.Store.RefreshMany(ctx, b.recs)
	took, n := time.Since(begun), 0
	for k, rec := range b.recs {
		i := b.docs[k]
		b.stage(i, StageLookup, took)
		switch {
		case err != nil:
			b.result(i, "", fmt.Errorf("looking up the document: %w", err))
		case current[k]:
			b.result(i, CodeDuplicate, nil)
		default:
			b.recs[n], b.docs[n] = rec, i
			n++
		}
	}
	b.recs, b.docs = b.recs[:n], b.docs[:n]
}

// store stores what has been embedded.
func (b *batch) store(ctx context.Context, list []vector.Embedded, took time.Duration) {
	recs, docs := make([]vector.Record, 0, len(list)), make([]int, 0, len(list))
	for _, em := range list {
		rec, i := b.recs[em.Index], b.docs[em.Index]
		b.stage(i, StageEmbed, took)
		err := em.Err
		if err == nil {
			err = checkChunks(em.Chunks, len(rec.Document.Text))
		}
		if err != nil {
			b.result(i, "", fmt.Errorf("embedding the document: %w", err))
			continue
		}
		rec.Chunks = em.Chunks
		recs, docs = append(recs, rec), append(docs, i)
	}
	if len(recs) == 0 {
		return
	}
	begun := time.Now()
	stored, errs := b.parts.Store.PutMany(ctx, recs)
	wrote := time.Since(begun)
	b.storing += wrote
	for n, i := range docs {
		b.stage(i, StageStore, wrote)
		switch {
		case errs[n] != nil:
			b.result(i, "", fmt.Errorf("storing the vectors: %w", errs[n]))
		case !stored[n]: // its text is not the newest any more
			b.result(i, CodeSuperseded, nil)
		default:
			b.result(i, CodeStored, nil)
		}
	}
}

// queries embeds search texts under one prompt, "" for their own, and delivers their vectors.
func (b *batch) queries(prompt string, a *asked) {
	items := a.items
	ctxs := make([]context.Context, len(items))
	for n, i := range items {
		ctxs[n] = b.items[i].Ctx //nolint:fatcontext // each its own
	}
	begun := time.Now()
	var answering time.Duration
	outcomes := b.parts.Embedder.EmbedQueries(ctxs, a.texts)
	if prompt != "" {
		outcomes = b.parts.Embedder.EmbedAs(prompt, ctxs, a.texts)
	}
	for list := range outcomes {
		took := time.Since(begun) - answering
		answered := time.Now()
		b.answer(items, list, took)
		answering += time.Since(answered)
		b.tell()
	}
}

// answer delivers what has been embedded.
func (b *batch) answer(items []int, list []vector.Embedded, took time.Duration) {
	var answers []vector.Answer
	var of []int
	for _, em := range list {
		i := items[em.Index]
		b.stage(i, StageEmbed, took)
		if em.Err == nil && len(em.Chunks) != 1 {
			em.Err = AsPermanent(fmt.Errorf("the embedder gave %d vectors for a query, want 1", len(em.Chunks)))
		}
		if em.Err != nil {
			b.failed(i, fmt.Errorf("embedding the query: %w", em.Err))
			continue
		}
		e := em.Chunks[0].Embedding
		e.Space = b.parts.Space
		answers, of = append(answers, vector.Answer{ID: b.items[i].Task.ID, Embedding: e}), append(of, i)
	}
	if len(answers) == 0 {
		return
	}
	begun := time.Now()
	// They share a call, which the end of one's context must not undo for the others: their vectors are there.
	errs := b.parts.Answers.AnswerMany(context.WithoutCancel(b.items[of[0]].Ctx), answers)
	delivery := time.Since(begun)
	for n, i := range of {
		b.stage(i, StageAnswer, delivery)
		if errs[n] != nil {
			b.result(i, "", fmt.Errorf("answering the query: %w", errs[n]))
			continue
		}
		b.result(i, CodeAnswered, nil)
	}
}

// failed ends a query that has no vector: one that is at fault is answered with why.
func (b *batch) failed(i int, err error) {
	if Classify(err) != Permanent {
		b.result(i, "", err)
		return
	}
	begun := time.Now()
	delivery := b.refuse(b.items[i], err)
	b.stage(i, StageAnswer, time.Since(begun))
	b.result(i, CodeRefused, delivery)
}

// refuse answers a query with an error. What it returns is worth a retry even for a refusal, since somebody waits;
// unless delivering panics, which may be why there is something to refuse.
func (h *Handler) refuse(item Item, err error) (failed error) {
	defer func() {
		if v := recover(); v != nil {
			failed = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	answer := vector.Answer{ID: item.Task.ID, Embedding: vector.Embedding{Space: h.parts.Space}, Failure: err}
	errs := h.parts.Answers.AnswerMany(context.WithoutCancel(item.Ctx), []vector.Answer{answer})
	if delivery := errors.Join(errs...); delivery != nil {
		return fmt.Errorf("answering the query: %w", delivery)
	}
	return nil
}
