package tasks

import (
	"log/slog"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Parts are what a handler works with. All are needed.
type Parts struct {
	Model    string       // alias of the one model the process serves
	Space    vector.Space // that model's
	Embedder Embedder
	Store    Store
	Answers  Answers
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

// record decodes a document's task into what will be stored, chunks apart.
func (h *Handler) record(t Task) (vector.Record, error) {
	p, err := DecodeDocument(t.Payload)
	if err != nil {
		return vector.Record{}, err
	}
	return vector.Record{
		Document: p.Document,
		Model:    p.Model,
		Space:    h.parts.Space,
		TextHash: vector.TextHash(p.Document.Text),
		Version:  p.Version,
	}, h.checkModel(p.Model)
}

// search decodes a query's task.
func (h *Handler) search(t Task) (q QueryPayload, expired bool, err error) {
	p, err := DecodeQuery(t.Payload)
	if err != nil {
		return p, false, err
	}
	if err := h.checkModel(p.Model); err != nil {
		return p, false, err
	}
	return p, !p.ExpiresAt.IsZero() && time.Now().After(p.ExpiresAt), nil
}

func (h *Handler) checkModel(alias string) error {
	if alias != h.parts.Model {
		return &ModelError{Task: alias, Worker: h.parts.Model}
	}
	return nil
}

// ended tells the observer and the log how a task ended that began at start. code is of one that is done.
func (h *Handler) ended(item Item, start time.Time, code string, err error) {
	t, ctx, took, outcome := item.Task, item.Ctx, time.Since(start), Classify(err)
	kind := t.Kind
	if kind != EmbedDocument && kind != EmbedQuery {
		kind = unknownKind // of a bounded set, for the observer
	}
	if err == nil {
		h.observer.Outcome(kind, outcome, code)
		if h.log.Enabled(ctx, slog.LevelDebug) { // else it isn't worth writing down what it was
			h.log.DebugContext(ctx, "task done", "task", t.ID, "kind", string(kind), "model", t.Model, "dur", took, "code", code)
		}
		return
	}
	h.observer.Outcome(kind, outcome, Code(err))
	level := slog.LevelWarn
	if outcome == Overloaded || outcome == Cancelled { // not a failure, and many at a time
		level = slog.LevelDebug
	}
	log := h.log.With("task", t.ID, "kind", string(kind), "model", t.Model, "dur", took, "outcome", string(outcome), "err", err)
	if stack := stackOf(err); stack != "" {
		log = log.With("stack", stack)
	}
	log.Log(ctx, level, "task failed")
}
