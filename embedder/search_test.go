package embedder_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/vector"
)

// oneBatch makes every text of a test share one native call.
func oneBatch() *embedder.Options {
	return &embedder.Options{Runners: 1, QueryRunners: -1, TokenBudget: 64 * 34, MaxTexts: 64}
}

// batchOf returns n texts of equal length, with the word bad in those named.
func batchOf(n int, bad ...int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf("good %02d", i)
	}
	for _, i := range bad {
		texts[i] = strings.Replace(texts[i], "good", "bad!", 1)
	}
	return texts
}

// TestSearchFindsTheBadText puts one bad text at places of a batch of 64, then two at several distances:
// the others get their vectors, the bad ones a verdict that is theirs alone, and the calls are bounded.
func TestSearchFindsTheBadText(t *testing.T) {
	t.Parallel()
	step := 3 // coprime to 64: left and right halves take turns on every level
	if testing.Short() {
		step = 13
	}
	var cases [][]int
	for i := 0; i < 64; i += step {
		cases = append(cases, []int{i})
		if i > 0 {
			cases = append(cases, []int{0, i}, []int{i, 63 - i})
		}
	}
	for _, bad := range cases {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		broken := errors.New("no kernel for this shape")
		faulty.FailFor("bad!", broken)
		e := open(t, faulty, settings, oneBatch())
		texts := batchOf(64, bad...)
		got, err := e.EmbedAll(t.Context(), texts)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if strings.HasPrefix(text, "bad!") {
				if !errors.Is(got[i].Err, broken) || !permanent(got[i].Err) || !strings.Contains(got[i].Err.Error(), "this text alone") {
					t.Errorf("bad %v: text %d: %v, want a verdict of its own", bad, i, got[i].Err)
				}
			} else if got[i].Err != nil || embedtest.Quote(got[i].Vector) != text {
				t.Errorf("bad %v: text %d: %v, it did nothing wrong", bad, i, got[i].Err)
			}
		}
		// The batch; a call or two on each of the 6 levels for each bad text; the row that proves the engine.
		if n, most := faulty.Runs(), 1+2*6*len(bad)+1; n > most {
			t.Errorf("bad %v: %d native calls, want at most %d", bad, n, most)
		}
		if s := e.Stats(); s.Divided != 1 {
			t.Errorf("bad %v: %d batches divided, want 1", bad, s.Divided)
		}
	}
}

// TestSearchOfABrokenEngine checks that a fault of the engine, which every text meets, is noticed after the
// batch, its halves and the row that proves it, blames no text, and leaves the engine as it was.
func TestSearchOfABrokenEngine(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 64} {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		broken := errors.New("device lost")
		faulty.FailFor("", broken)
		e := open(t, faulty, settings, oneBatch())
		got, err := e.EmbedAll(t.Context(), batchOf(n))
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if !errors.Is(got[i].Err, broken) || permanent(got[i].Err) {
				t.Errorf("%d texts: text %d: %v, want the engine's error, to be retried", n, i, got[i].Err)
			}
		}
		if runs := faulty.Runs(); runs > 4 {
			t.Errorf("%d texts: %d native calls for an engine that is broken, want at most 4", n, runs)
		}
	}
}

// TestSearchIsBounded lets half of the texts be bad, alternately: the worst case. Nobody who is innocent is
// blamed, and the calls stay within the bound for every size.
func TestSearchIsBounded(t *testing.T) {
	t.Parallel()
	for n := 2; n <= 64; n++ {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		faulty.FailFor("bad!", errors.New("no kernel for this shape"))
		e := open(t, faulty, settings, oneBatch())
		var bad []int
		for i := 0; i < n; i += 2 {
			bad = append(bad, i)
		}
		texts := batchOf(n, bad...)
		got, err := e.EmbedAll(t.Context(), texts)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if strings.HasPrefix(text, "good") && permanent(got[i].Err) {
				t.Errorf("%d texts: text %d is innocent: %v", n, i, got[i].Err)
			}
		}
		if runs, most := faulty.Runs(), 1+4*bits.Len(uint(n-1))+1; runs > most {
			t.Errorf("%d texts: %d native calls, want at most %d", n, runs, most)
		}
	}
}

// TestSearchOfAPassingFault checks that a fault which is gone when the halves are run costs nobody anything.
func TestSearchOfAPassingFault(t *testing.T) {
	t.Parallel()
	faulty := embedtest.NewFaulty(embedtest.NewModel(34))
	faulty.FailOn(1, errors.New("once"))
	e := open(t, faulty, settings, oneBatch())
	got, err := e.EmbedAll(t.Context(), batchOf(64))
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].Err != nil {
			t.Errorf("text %d: %v", i, got[i].Err)
		}
	}
	if n := faulty.Runs(); n != 3 {
		t.Errorf("%d native calls, want the batch and its halves", n)
	}
}

// miscounting gives a vector too few where a text says so.
func miscounting(vs []vector.Vector) []vector.Vector {
	for _, v := range vs {
		if strings.Contains(embedtest.Quote(v), "bad!") {
			return vs[1:]
		}
	}
	return vs
}

// TestSearchOfAWrongCount checks that vectors which can't be assigned to texts are given to nobody, and that
// the text at fault is found all the same.
func TestSearchOfAWrongCount(t *testing.T) {
	t.Parallel()
	e := open(t, twisted{embedtest.NewModel(34), miscounting}, settings, oneBatch())
	texts := batchOf(8, 3)
	got, err := e.EmbedAll(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		if i == 3 {
			if !permanent(got[i].Err) || !strings.Contains(got[i].Err.Error(), "0 vectors for 1 texts") {
				t.Errorf("text 3: %v, want its own verdict", got[i].Err)
			}
		} else if got[i].Err != nil || embedtest.Quote(got[i].Vector) != text {
			t.Errorf("text %d: %q, %v; want its vector", i, embedtest.Quote(got[i].Vector), got[i].Err)
		}
	}
}

// TestSearchStops ends a search in its middle: by its callers leaving, and by the engine closing. Nobody
// hangs, and no verdict is given.
func TestSearchStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		faulty.FailFor("bad!", errors.New("no kernel for this shape"))
		firstHalf, _ := faulty.BlockOn(3) // the second half of the batch, which is good
		e := open(t, faulty, settings, oneBatch())
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := e.EmbedAll(ctx, batchOf(8, 0))
			left <- err
		}()
		<-firstHalf
		leave()
		synctest.Wait()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller who left: %v", err)
		}
		if s := e.Stats(); s.Running != 0 || faulty.Runs() != 3 {
			t.Errorf("%d batches running after %d native calls, want none after 3", s.Running, faulty.Runs())
		}
		nextHalf, _ := faulty.BlockOn(6)
		closed := make(chan []embedder.Result, 1)
		go func() {
			got, _ := e.EmbedAll(t.Context(), batchOf(8, 0)) // what concerns one text is in its result
			closed <- got
		}()
		<-nextHalf
		now, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.Close(now); err != nil {
			t.Errorf("closing: %v", err)
		}
		for i, r := range <-closed {
			if !errors.Is(r.Err, embedder.ErrClosed) || permanent(r.Err) {
				t.Errorf("text %d: %v, want ErrClosed", i, r.Err)
			}
		}
	})
}

// TestSearchLeavesMemoryAlone checks that a device without memory is not asked again and again.
func TestSearchLeavesMemoryAlone(t *testing.T) {
	t.Parallel()
	faulty := embedtest.NewFaulty(embedtest.NewModel(34))
	faulty.FailOn(1, fmt.Errorf("running the graph: %w", embedder.ErrDeviceMemory))
	e := open(t, faulty, settings, oneBatch())
	got, err := e.EmbedAll(t.Context(), batchOf(8))
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if !errors.Is(got[i].Err, embedder.ErrDeviceMemory) || permanent(got[i].Err) {
			t.Errorf("text %d: %v, want the device's", i, got[i].Err)
		}
	}
	if n := faulty.Runs(); n != 1 {
		t.Errorf("%d native calls, want 1", n)
	}
}
