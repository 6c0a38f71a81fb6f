package tasks

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Parts are what a handler works with. All but Bulk are needed.
type Parts struct {
	Model    string       // alias of the one model the process serves
	Space    vector.Space // that model's
	Embedder Embedder
	Store    Store
	Answers  Answers
	Bulk     Bulk // nil: all tasks are done alone
}

// HandlerOptions may be nil.
type HandlerOptions struct {
	Observer Observer // by default nobody is told
}

// unknownKind stands for every kind that is none of ours.
const unknownKind Kind = "unknown"

// A Handler does tasks. It has no state of its own and is safe for concurrent use.
type Handler struct {
	log      *slog.Logger
	parts    Parts
	observer Observer
}

// NewHandler returns a handler that embeds with p.Embedder and stores into p.Store.
func NewHandler(log *slog.Logger, p Parts, opts *HandlerOptions) *Handler {
	h := &Handler{log: log, parts: p, observer: discard{}}
	if opts != nil && opts.Observer != nil {
		h.observer = opts.Observer
	}
	return h
}

// Handle does t and returns nil when it may be acknowledged: the document's vectors are readable, or need
// not be stored, or the query's answer is delivered. Everything before may happen twice, and twice leaves
// the same state as once. What the queue does with an error is up to [Classify].
//
// A query that fails for good is answered with its error, so that nobody waits for nothing; one that is
// going to be retried is not. Handle never panics: see [PanicError].
func (h *Handler) Handle(ctx context.Context, t Task) (err error) {
	start, code := time.Now(), ""
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		h.report(ctx, t, code, time.Since(start), err)
	}()
	switch kind := t.Kind; kind {
	case EmbedDocument:
		code, err = h.document(ctx, t)
	case EmbedQuery:
		code, err = h.query(ctx, t)
	default:
		t.Kind = unknownKind // of a bounded set, for the observer
		err = AsPermanent(fmt.Errorf("task is of kind %q, want %q or %q", kind, EmbedDocument, EmbedQuery))
	}
	return err
}

// document takes one text through the house; the code says what became of it.
func (h *Handler) document(ctx context.Context, t Task) (code string, err error) {
	rec, err := h.record(t)
	if err != nil {
		return "", err
	}
	var current bool
	err = h.stage(StageLookup, func() (err error) {
		current, err = h.parts.Store.Refresh(ctx, rec)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("looking up the document: %w", err)
	}
	if current {
		return CodeDuplicate, nil
	}
	err = h.stage(StageEmbed, func() (err error) {
		rec.Chunks, err = h.parts.Embedder.EmbedDocument(ctx, rec.Document.Text)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("embedding the document: %w", err)
	}
	if err := checkChunks(rec.Chunks, len(rec.Document.Text)); err != nil {
		return "", err
	}
	return h.put(ctx, rec)
}

// record decodes t into what will be stored, chunks apart.
func (h *Handler) record(t Task) (rec vector.Record, err error) {
	err = h.stage(StageDecode, func() error {
		p, err := DecodeDocument(t.Payload)
		if err != nil {
			return err
		}
		rec = vector.Record{
			Document: p.Document,
			Model:    p.Model,
			Space:    h.parts.Space,
			TextHash: vector.TextHash(p.Document.Text),
			Version:  p.Version,
		}
		return h.checkModel(p.Model)
	})
	return rec, err
}

// put stores rec. A record the store did not want is done too: its text is not the newest any more.
func (h *Handler) put(ctx context.Context, rec vector.Record) (code string, err error) {
	var stored bool
	err = h.stage(StageStore, func() (err error) {
		stored, err = h.parts.Store.Put(ctx, rec)
		return err
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("storing the vectors: %w", err)
	case !stored:
		return CodeSuperseded, nil
	default:
		return CodeStored, nil
	}
}

// query embeds a search text and delivers its vector, or the error that will not go away.
func (h *Handler) query(ctx context.Context, t Task) (code string, err error) {
	e, expired, err := h.embedQuery(ctx, t)
	switch {
	case expired:
		return CodeExpired, nil
	case err != nil && Classify(err) != Permanent:
		return "", err
	}
	e.Space = h.parts.Space
	delivery := h.stage(StageAnswer, func() error { return h.parts.Answers.Answer(ctx, t.ID, e, err) })
	if delivery != nil { // worth a retry even for a refusal, since somebody waits for it
		return "", fmt.Errorf("answering the query: %w", delivery)
	}
	if err != nil {
		return "", err
	}
	return CodeAnswered, nil
}

// embedQuery decodes and embeds. A panic is turned into an error here already, so that it is answered.
func (h *Handler) embedQuery(ctx context.Context, t Task) (e vector.Embedding, expired bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	var p QueryPayload
	err = h.stage(StageDecode, func() (err error) {
		if p, err = DecodeQuery(t.Payload); err != nil {
			return err
		}
		return h.checkModel(p.Model)
	})
	if err != nil {
		return e, false, err
	}
	if !p.ExpiresAt.IsZero() && time.Now().After(p.ExpiresAt) {
		return e, true, nil
	}
	err = h.stage(StageEmbed, func() (err error) {
		if p.Prompt != "" {
			e, err = h.parts.Embedder.EmbedAs(ctx, p.Prompt, p.Text)
			return err
		}
		e, err = h.parts.Embedder.EmbedQuery(ctx, p.Text)
		return err
	})
	if err != nil {
		return e, false, fmt.Errorf("embedding the query: %w", err)
	}
	return e, false, nil
}

func (h *Handler) checkModel(alias string) error {
	if alias != h.parts.Model {
		return &ModelError{Task: alias, Worker: h.parts.Model}
	}
	return nil
}

// stage runs f and tells the observer how long it took.
func (h *Handler) stage(s Stage, f func() error) error {
	start := time.Now()
	defer func() { h.observer.Stage(s, time.Since(start)) }()
	return f()
}

// report tells the observer and the log how t ended.
func (h *Handler) report(ctx context.Context, t Task, code string, took time.Duration, err error) {
	outcome := Classify(err)
	if err == nil {
		h.observer.Outcome(t.Kind, outcome, code)
		if h.log.Enabled(ctx, slog.LevelDebug) { // else it isn't worth writing down what it was
			h.log.DebugContext(ctx, "task done", "task", t.ID, "kind", string(t.Kind), "model", t.Model, "dur", took, "code", code)
		}
		return
	}
	log := h.log.With("task", t.ID, "kind", string(t.Kind), "model", t.Model, "dur", took)
	h.observer.Outcome(t.Kind, outcome, Code(err))
	level := slog.LevelWarn
	if outcome == Overloaded || outcome == Cancelled { // not a failure, and many at a time
		level = slog.LevelDebug
	}
	log = log.With("outcome", string(outcome), "err", err)
	if stack := stackOf(err); stack != "" {
		log = log.With("stack", stack)
	}
	log.Log(ctx, level, "task failed")
}
