package embedder_test

import (
	"errors"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
)

func TestWarm(t *testing.T) {
	t.Parallel()
	model := embedtest.NewModel(34)
	e := open(t, model, settings, &embedder.Options{Runners: 2, TokenBudget: 102})
	if err := e.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	var rows []int
	for _, b := range model.Batches() {
		rows = append(rows, len(b))
	}
	if len(rows) != 3 || rows[0] != 3 || rows[1] != 3 || rows[2] != 1 {
		t.Errorf("batches of %v rows, want 3 rows of 34 tokens on each of 2 runners and then one", rows)
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
}

// The largest batch tells the default budget: 34 tokens a row, and twice as many rows where padding is not computed.
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
		if got := len(model.Batches()[0]); got != tt.want {
			t.Errorf("packed %v, budget %d: %d rows in the largest batch, want %d", tt.packed, tt.budget, got, tt.want)
		}
	}
}
