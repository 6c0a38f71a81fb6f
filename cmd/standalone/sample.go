package main

import (
	"context"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/samples"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	shown = 3 // hits of each example search

	// readsKorean is the most tokens per character of Korean text that a model made for Korean needs; they
	// lie between 0.4 and 0.8, while one that falls back to single letters or bytes needs 2 and more.
	readsKorean = 1.2
)

// runSample enqueues the sample documents, shows their progress and the rate, and runs the example searches.
func (a *app) runSample(ctx context.Context) error {
	docs, err := samples.Documents()
	if err != nil {
		return err
	}
	list := make([]tasks.Task, len(docs))
	for i, doc := range docs {
		// A version of long ago: what a user wrote under the same id since then stays.
		if list[i], err = tasks.New(a.alias, tasks.Live, doc, &tasks.Options{Version: 1}); err != nil {
			return fmt.Errorf("sample %s: %w", doc.ID, err)
		}
	}
	before, err := a.totals(ctx)
	if err != nil {
		return err
	}
	a.say("sample", "%d documents: a day of Korean filings (DART, 2022-01-03), news, English sentences and notes", len(docs))
	begun := time.Now()
	receipts, err := a.fleet.Queue.Enqueue(ctx, list)
	if err != nil {
		return err
	}
	bar := term.NewProgress(a.err, "embedding", len(list))
	failures, err := a.fleet.Queue.Wait(ctx, receipts, func(p queue.Progress) { bar.Set(p.Done + p.Failed) })
	bar.Done()
	if err != nil {
		return err
	}
	took := time.Since(begun)
	if len(failures) > 0 {
		return fmt.Errorf("%d of %d sample documents failed, the first with: %s", len(failures), len(docs), failures[0].Cause)
	}
	after, err := a.totals(ctx)
	if err != nil {
		return err
	}
	a.sayRate(len(docs), after.TextsTotal-before.TextsTotal, after.TokensTotal-before.TokensTotal, took)
	return a.runSearches(ctx, docs)
}

func (a *app) sayRate(documents int, texts, tokens int64, took time.Duration) {
	if texts == 0 {
		a.say("embedded", "nothing: all %d were stored by an earlier run (%s holds them)", documents, a.data)
		return
	}
	seconds := took.Seconds()
	a.say("embedded", "%d documents of %d tokens in %.1f s: %.0f texts/s, %.0f tokens/s",
		texts, tokens, seconds, float64(texts)/seconds, float64(tokens)/seconds)
}

// totals returns what was ever written under the alias, in any space.
func (a *app) totals(ctx context.Context) (store.Stats, error) {
	spaces, err := a.fleet.Store.Stats(ctx, a.alias)
	var sum store.Stats
	for _, s := range spaces {
		sum.TextsTotal += s.TextsTotal
		sum.TokensTotal += s.TokensTotal
	}
	return sum, err
}

// runSearches shows the example searches of the language that the model reads.
func (a *app) runSearches(ctx context.Context, docs []vector.Document) error {
	language, err := a.language(ctx, docs)
	if err != nil {
		return err
	}
	for _, q := range samples.Queries(language) {
		result, err := a.search.Search(ctx, q.Text, shown, store.Filter{})
		if err != nil {
			return fmt.Errorf("searching %q: %w", q.Text, err)
		}
		fmt.Fprintf(a.out, "\nsearch   %q in %d documents: embedded in %.0f ms, scanned in %.1f ms\n",
			q.Text, result.Documents, 1e3*result.Embedding.Seconds(), 1e3*result.Scan.Seconds())
		if err := term.Hits(a.out, gateway.NewSearchAnswer(result).Hits); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.out)
	return nil
}

// language says which examples suit the model, by how many tokens it made of a few Korean documents: the
// stored vectors tell, and no process but the worker has to read the tokenizer.
func (a *app) language(ctx context.Context, docs []vector.Document) (samples.Language, error) {
	var characters, tokens int
	for _, doc := range docs[:20] { // the Korean ones come first
		rec, err := a.fleet.Store.Get(ctx, a.alias, doc.ID)
		if err != nil {
			return "", err
		}
		characters += len([]rune(rec.Document.Text))
		tokens += rec.Tokens()
	}
	if float64(tokens) < readsKorean*float64(characters) {
		return samples.Ko, nil
	}
	return samples.En, nil
}
