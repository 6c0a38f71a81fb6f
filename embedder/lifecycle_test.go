package embedder_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/vector"
)

func TestCloseWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		model := embedtest.NewModel(34)
		faulty := embedtest.NewFaulty(model)
		entered, release := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1})
		var inside sync.WaitGroup
		for i := range 3 {
			inside.Go(func() {
				if _, err := e.EmbedText(t.Context(), fmt.Sprint("inside ", i)); err != nil {
					t.Errorf("a caller inside: %v", err)
				}
			})
		}
		<-entered
		synctest.Wait()
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- e.Close(t.Context()) }()
		}
		synctest.Wait()
		if _, err := e.EmbedText(t.Context(), "late"); !errors.Is(err, embedder.ErrClosed) {
			t.Errorf("a late caller: %v, want ErrClosed", err)
		}
		if _, err := e.EmbedAll(t.Context(), []string{"late"}); !errors.Is(err, embedder.ErrClosed) {
			t.Errorf("a late caller of many: %v, want ErrClosed", err)
		}
		if model.Closed() || len(closed) > 0 {
			t.Error("closed with callers inside")
		}
		release()
		inside.Wait()
		for range 2 {
			if err := <-closed; err != nil {
				t.Errorf("Close = %v", err)
			}
		}
		if !model.Closed() {
			t.Error("the model is still open")
		}
	})
}

// TestCloseDeadline checks that a run that does not end is stopped, that those who wait get ErrClosed, and
// that the model is closed after the run has returned.
func TestCloseDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		model := embedtest.NewModel(34)
		faulty := embedtest.NewFaulty(model)
		entered, _ := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1, MaxTexts: 1})
		errs := make(chan error, 3)
		for i := range cap(errs) {
			go func() {
				_, err := e.EmbedText(t.Context(), fmt.Sprint("inside ", i))
				errs <- err
			}()
		}
		<-entered
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := e.Close(ctx); err != nil || time.Since(start) != 5*time.Second || !model.Closed() {
			t.Errorf("Close = %v after %v, model closed: %t; want nil after 5s, true", err, time.Since(start), model.Closed())
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, embedder.ErrClosed) {
				t.Errorf("a caller inside: %v, want ErrClosed", err)
			}
		}
	})
}

func TestNewEngineRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		set  embedder.Settings
		opts embedder.Options
		want string
	}{
		"no tokens":       {embedder.Settings{}, embedder.Options{}, "max tokens 0"},
		"greedy prompt":   {embedder.Settings{MaxTokens: 8, QueryPrompt: "query: "}, embedder.Options{}, `prompt "query: "`},
		"runners":         {settings, embedder.Options{Runners: -2}, "runners -2"},
		"budget":          {settings, embedder.Options{TokenBudget: -1}, "token budget -1"},
		"linger":          {settings, embedder.Options{Linger: -1}, "linger"},
		"several at once": {settings, embedder.Options{MaxTexts: -1, MaxChunks: -1}, "chunks per document -1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := embedder.NewEngine(embedtest.NewModel(34), embedtest.Tokenizer{}, tt.set, &tt.opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want one that says %q", err, tt.want)
			}
		})
	}
}

// TestStress lets callers of every kind come, leave and fail at random, and closes in the middle.
func TestStress(t *testing.T) {
	t.Parallel()
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		model := embedtest.NewModel(34)
		faulty := embedtest.NewFaulty(model)
		for n := 7; n < 200; n += 13 {
			faulty.FailOn(n, errors.New("now and then"))
		}
		e, err := embedder.NewEngine(faulty, embedtest.Tokenizer{}, settings, &embedder.Options{Runners: 3, TokenBudget: 100})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() { caller(t, e, rand.New(rand.NewPCG(uint64(round), uint64(g)))) })
		}
		time.Sleep(time.Duration(round%5) * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := e.Close(ctx); err != nil {
			t.Errorf("closing: %v", err)
		}
		cancel()
		wg.Wait()
		if s := e.Stats(); s.Inside != 0 || s.Running != 0 || s.WaitingTexts != 0 || s.WaitingTokens != 0 {
			t.Fatalf("round %d left something behind: %+v", round, s)
		}
		if model.Peak() > 4 {
			t.Fatalf("%d runs at once, want at most 3 runners and 1 for queries", model.Peak())
		}
	}
}

// caller embeds until the engine closes; a vector it gets must be that of its text.
func caller(t *testing.T, e *embedder.Engine, r *rand.Rand) {
	for {
		text := strings.Repeat(string(rune('a'+r.IntN(26))), 1+r.IntN(60))
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(2000))*time.Microsecond)
		var err error
		var got vector.Vector
		switch r.IntN(3) {
		case 0:
			var chunks []vector.Chunk
			if chunks, err = e.EmbedDocument(ctx, text); err == nil {
				got = chunks[0].Vector
			}
		case 1:
			var em vector.Embedding
			em, err = e.EmbedQuery(ctx, text)
			got = em.Vector
		case 2:
			var all []embedder.Result
			if all, err = e.EmbedAll(ctx, []string{text, text}); err == nil {
				got, err = all[1].Vector, all[1].Err
			}
		}
		cancel()
		if errors.Is(err, embedder.ErrClosed) {
			return
		}
		if err == nil && !strings.HasPrefix(text, embedtest.Quote(got)) {
			t.Errorf("vector of %q for %q", embedtest.Quote(got), text)
		}
	}
}

// who is the key of a caller's name in its context.
type who struct{}

// A register is an OnCall that remembers who was inside which call.
type register struct {
	mu     sync.Mutex
	inside int
	calls  [][]string
}

func (r *register) begin(callers []context.Context) (returned func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inside++
	var names []string
	for _, ctx := range callers {
		name, _ := ctx.Value(who{}).(string)
		names = append(names, name)
	}
	slices.Sort(names)
	r.calls = append(r.calls, names)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.inside--
	}
}

func (r *register) look() (inside int, calls [][]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inside, slices.Clone(r.calls)
}

// TestOnCall checks that every native call is announced with exactly those whose texts are inside, once each,
// and is over when it came back, with an error too. The call that fails is searched: its halves are calls of
// their own, and who is in both is named in both.
func TestOnCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen register
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		entered, release := faulty.BlockOn(1)
		faulty.FailOn(2, errors.New("a fault"))
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1, Overlap: -1, OnCall: seen.begin})
		var group sync.WaitGroup
		embed := func(name, text string) {
			ctx := context.WithValue(t.Context(), who{}, name)
			group.Go(func() { _, _ = e.EmbedDocument(ctx, text) }) // one fails, one leaves
			synctest.Wait()
		}
		embed("first", "alone in its call")
		<-entered
		if inside, _ := seen.look(); inside != 1 {
			t.Errorf("%d calls inside, want the one that blocks", inside)
		}
		embed("second", "This is as long as one chunk.")
		embed("third", "Every sentence makes a chunk. They are in the same call all. But its name is in it once.")
		gone, leave := context.WithCancel(context.WithValue(t.Context(), who{}, "gone"))
		group.Go(func() { _, _ = e.EmbedText(gone, "it left before its turn") })
		synctest.Wait()
		leave()
		synctest.Wait()
		release()
		group.Wait()
		embed("fourth", "after the fault")
		group.Wait()
		synctest.Wait()
		inside, calls := seen.look()
		if want := [][]string{{"first"}, {"second", "third"}, {"second", "third"}, {"third"}, {"fourth"}}; inside != 0 || !reflect.DeepEqual(calls, want) {
			t.Errorf("calls of %v, %d still inside; want %v, none", calls, inside, want)
		}
	})
}
