package embedder_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

// words is a tokenizer that makes nothing of spaces, as those of real models do.
type words struct{ embedtest.Tokenizer }

func (w words) Encode(dst []int32, text string, most int) (ids []int32, truncated bool) {
	return w.Tokenizer.Encode(dst, strings.ReplaceAll(text, " ", ""), most)
}

func openWords(t *testing.T, model embedder.Model, window int, opts *embedder.Options) *embedder.Engine {
	t.Helper()
	opts.Logger = testkit.Logger(t)
	e, err := embedder.NewEngine(model, words{}, embedder.Settings{MaxTokens: window, Unit: true}, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return e
}

// TestWarm checks what is run: a short text, short rows and the longest ones on every runner, each batch full, as far as
// rows, texts and the budget allow.
func TestWarm(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		window int
		opts   embedder.Options
		want   [][2]int // rows and tokens a row of each batch
	}{
		"two runners":    {64, embedder.Options{Runners: 2, TokenBudget: 128}, [][2]int{{1, 3}, {4, 32}, {4, 32}, {2, 64}, {2, 64}}},
		"few texts":      {64, embedder.Options{Runners: 1, TokenBudget: 128, MaxTexts: 2}, [][2]int{{1, 3}, {2, 32}, {2, 64}}},
		"a short window": {16, embedder.Options{Runners: 1, TokenBudget: 64}, [][2]int{{1, 3}, {4, 16}, {4, 16}}},
		"a small budget": {512, embedder.Options{Runners: 1, TokenBudget: 100}, [][2]int{{1, 3}, {3, 32}, {1, 100}}},
		"a tiny budget":  {512, embedder.Options{Runners: 1, TokenBudget: 8}, [][2]int{{1, 3}, {1, 32}, {1, 32}}},
		"a huge window":  {8192, embedder.Options{Runners: 1, TokenBudget: 512}, [][2]int{{1, 3}, {16, 32}, {1, 512}}},
		"query runners":  {64, embedder.Options{Runners: 1, QueryRunners: 3, TokenBudget: 128}, [][2]int{{1, 3}, {4, 32}, {2, 64}}},
		"lingering":      {64, embedder.Options{Runners: 1, TokenBudget: 128, Linger: 1}, [][2]int{{1, 3}, {4, 32}, {2, 64}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model := embedtest.NewModel(tt.window)
			e := openWords(t, model, tt.window, &tt.opts)
			if cost := e.Stats().Cost; cost != (embedder.Cost{}) {
				t.Errorf("a cost before anything was run: %+v", cost)
			}
			if err := e.Warm(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got [][2]int
			for _, texts := range model.Batches() {
				got = append(got, [2]int{len(texts), len(texts[0]) + 2})
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("rows and their tokens: %v, want %v", got, tt.want)
			}
			if c := e.Stats().Cost; c.Rate <= 0 || c.Window != tt.window || c.Half < 0 {
				t.Errorf("learned %+v", c)
			}
		})
	}
}

// slow is a model of which a row of n tokens takes n + n*n/half tokens' time, one at a time.
type slow struct {
	*embedtest.Model
	rate, half float64
}

func (s slow) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	tokens := 0.0
	for _, row := range b.Rows {
		n := float64(len(row))
		tokens += n + n*n/s.half
	}
	time.Sleep(time.Duration(tokens / s.rate * float64(time.Second)))
	return s.Model.Run(ctx, b)
}

// TestWarmLearnsTheCost from a model whose cost is known: what two runners do together counts.
func TestWarmLearnsTheCost(t *testing.T) {
	t.Parallel()
	for _, half := range []float64{400, 3000, math.Inf(1)} {
		for _, runners := range []int{1, 2} {
			synctest.Test(t, func(t *testing.T) {
				model := slow{embedtest.NewModel(512), 1000, half}
				e := openWords(t, model, 512, &embedder.Options{Runners: runners, TokenBudget: 1024})
				if err := e.Warm(t.Context()); err != nil {
					t.Fatal(err)
				}
				got, want := e.Stats().Cost, embedder.Cost{Rate: 1000 * float64(runners), Window: 512, Half: half}
				if math.IsInf(half, 1) {
					want.Half = 0
				}
				if math.Abs(got.Rate/want.Rate-1) > 0.01 || got.Window != want.Window || math.Abs(got.Half-want.Half) > 0.05*want.Half {
					t.Errorf("%d runners: learned %+v, want %+v", runners, got, want)
				}
			})
		}
	}
}

func TestWarmFails(t *testing.T) {
	t.Parallel()
	faulty := embedtest.NewFaulty(embedtest.NewModel(34))
	broken := errors.New("no kernel for this operator")
	faulty.FailFor("", broken)
	e := open(t, faulty, settings, nil)
	if err := e.Warm(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Warm = %v, want the model's error", err)
	}
	if c := e.Stats().Cost; c != (embedder.Cost{}) {
		t.Errorf("learned %+v from nothing", c)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Warm(over); !errors.Is(err, context.Canceled) {
		t.Errorf("Warm = %v, want that it was given up", err)
	}
}

// A batch of the longest rows tells the default budget: 34 tokens a row, and twice as many rows where padding is not computed.
func TestDefaultBudget(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		packed       bool
		budget, want int
	}{
		{false, 0, 512 / 34},
		{true, 0, 1024 / 34},
		{true, 340, 10},
	} {
		set := settings
		set.Packed = tt.packed
		model := embedtest.NewModel(34)
		e := open(t, model, set, &embedder.Options{Runners: 1, TokenBudget: tt.budget})
		if err := e.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(model.Batches()[2]); got != tt.want {
			t.Errorf("packed %v, budget %d: %d rows in the largest batch, want %d", tt.packed, tt.budget, got, tt.want)
		}
	}
}
