package embedder

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/embedfleet/embedfleet/vector"
	"golang.org/x/sync/errgroup"
)

// A Result is the outcome of one text of many.
type Result struct {
	vector.Embedding
	Err error // nil, or why this text has no vector
}

// EmbedAll embeds texts as they are, without a prompt, and returns their results in the same order. All of
// them form one generation, whatever their number, so nobody is faster: it is for work off line, and
// passes by the bounds on what may wait. The error is that of ctx or of a closed engine; what concerns one
// text is in its result.
func (e *Engine) EmbedAll(ctx context.Context, texts []string) ([]Result, error) {
	return e.embedAll(ctx, e.plain, texts)
}

// EmbedAllAs is EmbedAll with a prompt before each text. A prompt that leaves no room for a text is an error.
func (e *Engine) EmbedAllAs(ctx context.Context, prompt string, texts []string) ([]Result, error) {
	enc, err := newEncoder(e.plain.tok, e.set, prompt)
	if err != nil {
		return nil, err
	}
	return e.embedAll(ctx, enc, texts)
}

func (e *Engine) embedAll(ctx context.Context, enc encoder, texts []string) ([]Result, error) {
	results := make([]Result, len(texts))
	calls, err := e.tokenizeAll(ctx, enc, texts, results)
	if err != nil {
		return nil, err
	}
	if err := e.enterAll(calls); err != nil {
		return nil, err
	}
	defer e.exit(1)
	for i, c := range calls {
		if c == nil {
			continue // refused by the tokenizer
		}
		select {
		case <-c.done:
			results[i].Vector, results[i].Err = c.vectors[0], c.err
		case <-ctx.Done():
			for _, c := range calls[i:] {
				if c != nil {
					e.leave(c, left(ctx))
				}
			}
			return nil, fmt.Errorf("embedding text %d of %d: %w", i+1, len(texts), context.Cause(ctx))
		}
	}
	return results, nil
}

// tokenizeAll makes the call of each text on all cores; a text without one has its error in results.
func (e *Engine) tokenizeAll(ctx context.Context, enc encoder, texts []string, results []Result) ([]*call, error) {
	calls := make([]*call, len(texts))
	g, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for i := w; i < len(texts); i += workers {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				windows, err := e.tokenize(func() ([]window, error) {
					win, err := enc.whole(texts[i])
					return []window{win}, err
				})
				if err != nil {
					results[i].Err = err
					continue
				}
				results[i].Embedding = windows[0].embedding(nil)
				calls[i] = newCall(ctx, documents, windows, time.Now())
			}
			return nil
		})
	}
	return calls, g.Wait()
}

// enterAll admits all calls at once, so that they are sorted together.
func (e *Engine) enterAll(calls []*call) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed != nil {
		return ErrClosed
	}
	e.inside++
	for _, c := range calls {
		if c != nil {
			e.pending.add(c)
		}
	}
	e.wake.Broadcast()
	return nil
}
