package embedder

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Warm runs a batch of the largest allowed shape on every runner, and then a single short text. The first
// makes the model take the memory it will ever need, once and in one piece, and maps its weights; both
// prove that it answers with usable vectors. Call it before the engine is called ready.
func (e *Engine) Warm(ctx context.Context) error {
	long := strings.Repeat("a ", e.set.MaxTokens)
	w, err := e.plain.whole(long)
	if err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	rows := max(1, min(e.opts.MaxTexts, e.opts.TokenBudget/len(w.ids)))
	for _, texts := range [][]string{slices.Repeat([]string{long}, rows*e.opts.Runners), {"a"}} {
		results, err := e.EmbedAll(ctx, texts)
		if err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
		for _, r := range results {
			if r.Err != nil {
				return fmt.Errorf("warming up: %w", r.Err)
			}
		}
	}
	return nil
}
