package embedder

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// warmShort is the length, in tokens, of the rows by which the cost of short texts is learned.
const warmShort = 32

// minHalf bounds what two noisy measurements may make of the cost of attention.
const minHalf = 256

// A Cost says what a text costs, as learned while warming up. A row of n tokens takes n + n*n/Half tokens' time:
// everything but attention grows with the length, attention with its square.
type Cost struct {
	Rate   float64 `json:"tokens_per_second"`     // of short rows, all runners together; 0 before the engine is warm
	Window int     `json:"window_tokens"`         // longest row; a longer text is several
	Half   float64 `json:"half_tokens,omitempty"` // 0: attention is not noticed
}

// Warm runs a short text, a batch of short rows on every runner, and one of the longest rows that a batch has room for.
// The last makes the model take the memory it will ever need for a batch, once and in one piece; the first maps its
// weights; all prove that it answers with usable vectors; and how long the batches take tells what texts cost. Call it
// before the engine is called ready.
func (e *Engine) Warm(ctx context.Context) error {
	if _, _, err := e.warm(ctx, 1, 1, 1); err != nil {
		return err
	}
	longest := min(e.set.MaxTokens, max(warmShort, e.opts.TokenBudget))
	short := min(warmShort, longest)
	fast, shortLen, err := e.warm(ctx, short, e.opts.TokenBudget/short, e.opts.Runners)
	if err != nil {
		return err
	}
	slow, longLen, err := e.warm(ctx, longest, e.opts.TokenBudget/longest, e.opts.Runners)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cost = costOf(fast, slow, shortLen, longLen)
	e.cost.Window = e.set.MaxTokens
	return nil
}

// costOf fits rate(n) = Rate/(1+n/Half) to the rates, in tokens a second, of rows of two lengths.
func costOf(fast, slow, short, long float64) Cost {
	c := Cost{Rate: fast}
	if ratio := fast / slow; long > short && ratio > 1 {
		half := max(minHalf, (long-ratio*short)/(ratio-1))
		c.Half, c.Rate = half, fast*(1+short/half)
	}
	return c
}

// warm embeds so many rows of so many tokens on each of some runners, and returns the tokens done a second and how many a
// row had: as many, if the vocabulary has a word of one letter.
func (e *Engine) warm(ctx context.Context, tokens, rows, runners int) (rate, length float64, err error) {
	text := strings.TrimSpace(strings.Repeat("a ", max(1, tokens-e.frame)))
	rows = max(1, min(e.opts.MaxTexts, rows)) * runners
	begun := time.Now()
	results, err := e.EmbedAll(ctx, slices.Repeat([]string{text}, rows))
	if err != nil {
		return 0, 0, fmt.Errorf("warming up: %w", err)
	}
	done := 0
	for _, r := range results {
		if r.Err != nil {
			return 0, 0, fmt.Errorf("warming up: %w", r.Err)
		}
		done += r.Tokens
	}
	return float64(done) / max(time.Since(begun).Seconds(), 1e-6), float64(done) / float64(rows), nil
}
