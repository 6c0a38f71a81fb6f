package embedder

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// portion is how many bytes of text are made into rows before the runners get them: so little that they don't wait
// long for the first, so much that the first batch is a full one.
const portion = 64 << 10

// A group is several texts of one caller on their way.
type group struct {
	engine  *Engine
	lane    lane
	split   func(text string) ([]window, error) // a text becomes rows
	ctxs    []context.Context                   // beside calls; no longer than the caller's loop
	calls   []*call                             // by index; nil for a text that is not inside
	windows [][]window                          // beside calls
	stops   []func() bool                       // beside calls: end the watch on a context
	done    []*call                             // and not yielded yet; guarded by the engine's lock
	left    int                                 // calls that are not yielded
	news    chan struct{}                       // of one: done has some
}

// EmbedDocuments embeds documents as [Engine.EmbedDocument] does, each under the context beside it, and yields the outcomes
// as they come, those of one batch together, each text's once. One goroutine, woken once a batch, so waits for all of
// them. Texts whose loop is left early are given up. What waits is bounded by the caller: there is always room.
func (e *Engine) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return e.embedGroup(&group{engine: e, lane: documents, split: e.chunk.split}, ctxs, texts)
}

// EmbedQueries does the same for search texts, each of which has one chunk, ahead of documents.
func (e *Engine) EmbedQueries(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	split := func(text string) ([]window, error) {
		w, err := e.query.whole(text)
		return []window{w}, err
	}
	return e.embedGroup(&group{engine: e, lane: queries, split: split}, ctxs, texts)
}

// EmbedAs does the same for texts under the prompt of documents ("document") or under none ("none"), one row each, in the
// documents' lane. Tokens beyond the model's limit are cut off.
func (e *Engine) EmbedAs(prompt string, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	split := func(text string) ([]window, error) {
		enc := e.plain
		switch prompt {
		case "document":
			enc = e.passage
		case "none":
		default:
			return nil, fmt.Errorf("embedding under prompt %q: want document or none", prompt)
		}
		w, err := enc.whole(text)
		return []window{w}, err
	}
	return e.embedGroup(&group{engine: e, lane: documents, split: split}, ctxs, texts)
}

func (e *Engine) embedGroup(g *group, ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	return func(yield func([]vector.Embedded) bool) {
		n := len(texts)
		g.ctxs, g.calls, g.windows, g.stops = ctxs, make([]*call, n), make([][]window, n), make([]func() bool, n)
		g.news = make(chan struct{}, 1)
		defer g.end()
		if refused := g.enter(texts); len(refused) > 0 && !yield(refused) {
			return
		}
		for g.left > 0 {
			<-g.news
			if list := g.take(); len(list) > 0 && !yield(list) {
				return
			}
		}
	}
}

// enter makes rows of the texts, hands them to the runners, and returns those that were refused.
func (g *group) enter(texts []string) (refused []vector.Embedded) {
	var made []*call
	bytes := 0
	for i, text := range texts {
		windows, err := g.engine.tokenize(func() ([]window, error) { return g.split(text) })
		if err != nil {
			refused = append(refused, vector.Embedded{Index: i, Err: err})
			continue
		}
		c := newCall(g.ctxs[i], g.lane, windows, time.Now())
		c.group, c.index = g, i
		g.windows[i] = windows
		made = append(made, c)
		if bytes += len(text); bytes >= portion {
			refused = append(refused, g.admit(made)...)
			made, bytes = made[:0], 0
		}
	}
	return append(refused, g.admit(made)...)
}

// admit admits calls, and returns those that are refused.
func (g *group) admit(made []*call) (refused []vector.Embedded) {
	e := g.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range made {
		if err := e.enterLocked(c); err != nil {
			refused = append(refused, vector.Embedded{Index: c.index, Err: err})
			continue
		}
		g.left++
		g.calls[c.index] = c
		g.stops[c.index] = context.AfterFunc(c.caller, func() { e.leave(c, left(c.caller)) })
	}
	e.wake.Broadcast()
	return refused
}

// add takes note of a call that has ended. The caller holds the engine's lock.
func (g *group) add(c *call) {
	g.done = append(g.done, c)
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// take returns what has ended since the last time, and counts it out.
func (g *group) take() []vector.Embedded {
	g.engine.mu.Lock()
	done := g.done
	g.done = nil
	g.engine.mu.Unlock()
	list := make([]vector.Embedded, len(done))
	for i, c := range done {
		list[i] = vector.Embedded{Index: c.index, Err: c.err}
		if c.err == nil {
			list[i].Chunks = chunksOf(g.windows[c.index], c.vectors)
		}
		g.stops[c.index]()
		g.calls[c.index], g.windows[c.index] = nil, nil
	}
	g.left -= len(done)
	g.engine.exit(len(done))
	return list
}

// end gives up what is not yielded.
func (g *group) end() {
	if g.left == 0 {
		return
	}
	for i, c := range g.calls {
		if c != nil {
			g.stops[i]()
			g.engine.leave(c, errAbandoned)
		}
	}
	g.engine.exit(g.left)
}
