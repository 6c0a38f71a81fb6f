package embedder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// An Engine embeds texts with a model that is loaded. It is safe for concurrent use.
//
// Errors of the methods that embed: [ErrEmpty], [ErrTooLong], an [OverloadError], [ErrClosed], the cause of
// a context that ended, an error of the model (worth a retry), or a verdict about the text (permanent): the
// model fails for it alone, or its vector is unusable.
// A caller whose context ends returns at once; a native call is stopped when all callers of its batch left.
type Engine struct {
	model   Model
	set     Settings
	opts    Options
	chunk   *chunker // makes rows of documents
	passage encoder  // of a document that is to be one row
	query   encoder  // of search texts
	plain   encoder  // of texts as they are
	probe   []int32  // a row that no model fails for, if it works; nil if there is none
	frame   int      // tokens of an empty text
	runners sync.WaitGroup
	stop    context.CancelCauseFunc // ends the runners' context: running batches are terminated

	mu      sync.Mutex
	wake    *sync.Cond // something arrived, or the engine closes; runners wait on it
	pending pending
	inside  int           // callers between enter and exit
	drained chan struct{} // made by Close, closed when nobody is inside
	divided int64         // batches that failed and were searched
	rate    float64       // tokens per second of one runner, smoothed; 0 before the first batch
	cost    Cost          // zero before the engine is warm
	closed  chan struct{} // made by the first Close, closed when it has ended
	err     error         // of the first Close
}

// NewEngine makes an engine and starts its runners; [Engine.Close] ends them and closes the model. Nil
// options are the defaults.
func NewEngine(model Model, tok Tokenizer, set Settings, options *Options) (*Engine, error) {
	opts := options.withDefaults()
	if set.Packed && (options == nil || options.TokenBudget == 0) {
		opts.TokenBudget = defaultPackedBudget
	}
	if err := set.validate(); err != nil {
		return nil, fmt.Errorf("engine settings: %w", err)
	}
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("engine options: %w", err)
	}
	document, err1 := newEncoder(tok, set, set.DocumentPrompt)
	query, err2 := newEncoder(tok, set, set.QueryPrompt)
	plain, err3 := newEncoder(tok, set, "")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("engine settings: %w", err)
	}
	ctx, stop := context.WithCancelCause(context.Background())
	e := &Engine{
		model: model, set: set, opts: opts, stop: stop,
		chunk: newChunker(document, opts), passage: document, query: query, plain: plain,
		pending: pending{lim: limits{tokens: opts.TokenBudget, texts: opts.MaxTexts, packed: set.Packed}, runners: opts.Runners},
	}
	if w, err := plain.whole("a"); err == nil {
		e.probe, e.frame = w.ids, len(w.ids)-1
	}
	e.wake = sync.NewCond(&e.mu)
	for range opts.Runners {
		e.runners.Go(func() { e.run(ctx, e.anything) })
	}
	for range opts.QueryRunners {
		e.runners.Go(func() { e.run(ctx, e.onlyQueries) })
	}
	return e, nil
}

// Settings returns what the engine was made with.
func (e *Engine) Settings() Settings { return e.set }

// Dim is the dimension of every vector.
func (e *Engine) Dim() int { return e.model.Dim() }

// EmbedDocument embeds a document, cut into chunks where it is longer than the model reads. Chunks come in
// the order of the text and together cover it; their Start and End are bytes of text.
func (e *Engine) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	windows, err := e.tokenize(func() ([]window, error) { return e.chunk.split(text) })
	if err != nil {
		return nil, err
	}
	vectors, err := e.embed(ctx, documents, windows)
	if err != nil {
		return nil, err
	}
	return chunksOf(windows, vectors), nil
}

// chunksOf puts the vectors of a document's windows beside them.
func chunksOf(windows []window, vectors []vector.Vector) []vector.Chunk {
	chunks := make([]vector.Chunk, len(windows))
	for i, w := range windows {
		chunks[i] = vector.Chunk{Start: w.start, End: w.end, Embedding: w.embedding(vectors[i])}
	}
	return chunks
}

// EmbedQuery embeds a search text, ahead of documents. Tokens beyond the model's limit are cut off.
func (e *Engine) EmbedQuery(ctx context.Context, text string) (vector.Embedding, error) {
	return e.embedOne(ctx, queries, e.query, text)
}

// EmbedText embeds a text as it is, without a prompt, in the documents' lane. Tokens beyond the model's
// limit are cut off.
func (e *Engine) EmbedText(ctx context.Context, text string) (vector.Embedding, error) {
	return e.embedOne(ctx, documents, e.plain, text)
}

func (e *Engine) embedOne(ctx context.Context, l lane, enc encoder, text string) (vector.Embedding, error) {
	windows, err := e.tokenize(func() ([]window, error) {
		w, err := enc.whole(text)
		return []window{w}, err
	})
	if err != nil {
		return vector.Embedding{}, err
	}
	vectors, err := e.embed(ctx, l, windows)
	if err != nil {
		return vector.Embedding{}, err
	}
	return windows[0].embedding(vectors[0]), nil
}

// tokenize runs f, which makes the rows of one call, and reports what it took.
func (e *Engine) tokenize(f func() ([]window, error)) ([]window, error) {
	start := time.Now()
	windows, err := f()
	if err != nil {
		return nil, err
	}
	tokens := 0
	for _, w := range windows {
		tokens += len(w.ids)
	}
	e.opts.Observer.Tokenized(time.Since(start), len(windows), tokens)
	return windows, nil
}

// embed hands rows to the runners and waits for all their vectors, or for ctx.
func (e *Engine) embed(ctx context.Context, l lane, windows []window) ([]vector.Vector, error) {
	c := newCall(ctx, l, windows, time.Now())
	if err := e.enter(c); err != nil {
		return nil, err
	}
	defer e.exit(1)
	select {
	case <-c.done:
	case <-ctx.Done():
		e.leave(c, left(ctx))
	}
	return c.vectors, c.err
}

// left is the error of a caller whose context has ended.
func left(ctx context.Context) error {
	return fmt.Errorf("waiting for a vector: %w", context.Cause(ctx))
}

// enter admits a call to the pending set.
func (e *Engine) enter(c *call) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(c); err != nil {
		return err
	}
	e.wake.Broadcast()
	return nil
}

// enterLocked admits a call and wakes nobody. A context that has ended is refused first, so that a late caller
// costs nothing.
func (e *Engine) enterLocked(c *call) error {
	if c.caller.Err() != nil {
		return context.Cause(c.caller)
	}
	if e.closed != nil {
		return ErrClosed
	}
	if c.group == nil {
		if err := e.roomLocked(); err != nil {
			return err
		}
	}
	e.inside++
	e.pending.add(c)
	return nil
}

// roomLocked refuses when too much waits already.
func (e *Engine) roomLocked() error {
	over := &OverloadError{RetryAfter: e.backlogLocked()}
	switch p := &e.pending; {
	case p.texts >= e.opts.MaxWaitingTexts:
		over.What, over.Count, over.Limit = "texts waiting", p.texts, e.opts.MaxWaitingTexts
	case p.tokens >= e.opts.MaxWaitingTokens:
		over.What, over.Count, over.Limit = "tokens waiting", p.tokens, e.opts.MaxWaitingTokens
	default:
		return nil
	}
	return over
}

// backlogLocked estimates how long the runners need for all that waits, 0 before the first batch.
func (e *Engine) backlogLocked() time.Duration {
	if e.rate == 0 {
		return 0
	}
	s := float64(e.pending.tokens) / (e.rate * float64(e.opts.Runners))
	return min(time.Duration(s*float64(time.Second)).Round(time.Millisecond), 10*time.Minute)
}

// exit counts n callers out.
func (e *Engine) exit(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inside -= n
	if e.inside == 0 && e.drained != nil {
		close(e.drained)
		e.drained = nil
	}
}

// leave gives a call up, which then ends with err; nothing if it has been answered. Its waiting rows are dropped when
// their turn comes; a batch in which nobody is left is told to stop.
func (e *Engine) leave(c *call, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !c.over {
		c.fail(err)
	}
}

// Close refuses new callers, waits for those inside until ctx ends, then stops the batches under way and
// refuses what waits, with [ErrClosed]. It returns when the last native call has come back and the model is
// closed, also when ctx has ended long before: memory is never freed under a running call. Calling it again
// waits for the first and returns the same.
func (e *Engine) Close(ctx context.Context) error {
	drained, first := e.refuse()
	if !first {
		<-e.closed
		return e.err
	}
	select {
	case <-drained:
	case <-ctx.Done():
		e.opts.Logger.Warn("stopping batches under way", "cause", context.Cause(ctx))
	}
	e.stop(ErrClosed)
	e.mu.Lock()
	e.wake.Broadcast()
	e.mu.Unlock()
	e.runners.Wait()
	e.err = e.model.Close()
	close(e.closed)
	return e.err
}

// refuse shuts the door. The channel is closed when nobody is inside; first is false on a second call.
func (e *Engine) refuse() (drained <-chan struct{}, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed != nil {
		return nil, false
	}
	e.closed = make(chan struct{})
	ch := make(chan struct{})
	if e.inside == 0 {
		close(ch)
	} else {
		e.drained = ch
	}
	return ch, true
}

// EngineStats is a snapshot of the engine, taken under one lock.
type EngineStats struct {
	WaitingTexts    int     `json:"waiting_texts"`
	WaitingTokens   int     `json:"waiting_tokens"`
	Running         int     `json:"running"`           // batches inside the model
	Inside          int     `json:"inside"`            // callers
	Divided         int64   `json:"divided"`           // batches that failed and were searched for the text that made them
	TokensPerSecond float64 `json:"tokens_per_second"` // of one runner, smoothed
	Backlog         Seconds `json:"backlog_seconds"`   // estimated time for all that waits
	Cost            Cost    `json:"cost"`
}

// Stats returns the figures of the moment.
func (e *Engine) Stats() EngineStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return EngineStats{
		WaitingTexts: e.pending.texts, WaitingTokens: e.pending.tokens, Running: e.pending.busy,
		Inside: e.inside, Divided: e.divided, TokensPerSecond: e.rate, Backlog: Seconds(e.backlogLocked()), Cost: e.cost,
	}
}
