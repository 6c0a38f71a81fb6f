package embedder_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

// settings of most tests: rows of 32 runes at most.
var settings = embedder.Settings{MaxTokens: 34, Unit: true}

// open starts an engine over model and closes it with the test.
func open(t testing.TB, model embedder.Model, set embedder.Settings, opts *embedder.Options) *embedder.Engine {
	t.Helper()
	if opts == nil {
		opts = &embedder.Options{}
	}
	opts.Logger = testkit.Logger(t)
	e, err := embedder.NewEngine(model, embedtest.Tokenizer{}, set, opts)
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

// wantQuote fails unless v is the vector of text.
func wantQuote(t testing.TB, v vector.Vector, text string) {
	t.Helper()
	if got := embedtest.Quote(v); got != text {
		t.Errorf("vector of %q, want that of %q", got, text)
	}
}

func TestEmbed(t *testing.T) {
	t.Parallel()
	set := settings
	set.QueryPrompt, set.DocumentPrompt = "query: ", "passage: "
	e := open(t, embedtest.NewModel(34), set, nil)

	text, err := e.EmbedText(t.Context(), "Hello")
	if err != nil || text.Tokens != 7 || text.Truncated {
		t.Fatalf("EmbedText = %d tokens, truncated %t, %v; want 7, false, nil", text.Tokens, text.Truncated, err)
	}
	wantQuote(t, text.Vector, "Hello")

	query, err := e.EmbedQuery(t.Context(), "삼성전자")
	if err != nil {
		t.Fatal(err)
	}
	wantQuote(t, query.Vector, "query: 삼성전자")

	chunks, err := e.EmbedDocument(t.Context(), "a short one")
	if err != nil || len(chunks) != 1 || chunks[0].Start != 0 || chunks[0].End != 11 {
		t.Fatalf("EmbedDocument = %+v, %v; want one chunk of 0 to 11", chunks, err)
	}
	wantQuote(t, chunks[0].Vector, "passage: a short one")
}

func TestEmbedTruncates(t *testing.T) {
	t.Parallel()
	e := open(t, embedtest.NewModel(34), settings, nil)
	got, err := e.EmbedText(t.Context(), strings.Repeat("x", 40))
	if err != nil || !got.Truncated || got.Tokens != 34 {
		t.Fatalf("got %d tokens, truncated %t, %v; want 34, true, nil", got.Tokens, got.Truncated, err)
	}
	wantQuote(t, got.Vector, strings.Repeat("x", 32))
}

func TestEmbedDocumentChunks(t *testing.T) {
	t.Parallel()
	set := settings
	set.DocumentPrompt = "p: "
	e := open(t, embedtest.NewModel(34), set, nil)
	text := "The first sentence is here. The second one is there. A third!"
	chunks, err := e.EmbedDocument(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	if len(chunks) < 2 {
		t.Fatalf("%d chunks for %d runes and windows of 29", len(chunks), len(text))
	}
	for _, c := range chunks {
		wantQuote(t, c.Vector, "p: "+strings.TrimSpace(text[c.Start:c.End]))
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	model := embedtest.NewModel(34)
	set := settings
	set.QueryPrompt = "query: "
	e := open(t, model, set, nil)
	for _, text := range []string{"", " ", "\n\t \u3000"} {
		_, err1 := e.EmbedDocument(t.Context(), text)
		_, err2 := e.EmbedQuery(t.Context(), text)
		_, err3 := e.EmbedText(t.Context(), text)
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, embedder.ErrEmpty) || !permanent(err) {
				t.Errorf("%q: err = %v, want the permanent ErrEmpty", text, err)
			}
		}
	}
	if n := len(model.Batches()); n != 0 {
		t.Errorf("the model ran %d times for empty texts", n)
	}
}

// permanent and overloaded ask as package tasks does, without knowing any sentinel.
func permanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

func overloaded(err error) bool {
	var o interface{ Overloaded() bool }
	return errors.As(err, &o) && o.Overloaded()
}

// TestBatches blocks the only runner, lets callers gather, and looks at how they are run.
func TestBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		model := embedtest.NewModel(34)
		faulty := embedtest.NewFaulty(model)
		entered, release := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1, TokenBudget: 20})
		var wg sync.WaitGroup
		embed := func(text string) { wg.Go(func() { e.EmbedText(t.Context(), text) }) }
		embed("first")
		<-entered
		for _, text := range []string{"dd", "a", "ffffffff", "cccc", "bbb", "eeeeee"} {
			embed(text)
		}
		wg.Go(func() { e.EmbedQuery(t.Context(), "query") })
		synctest.Wait()
		release()
		wg.Wait()
		// The query first, then the documents longest first. Two special tokens each: the rows have 10, 8,
		// 6, 5, 4 and 3, and 2 x 10, 2 x 6 and 2 x 4 is the cheapest way within 20.
		want := [][]string{{"first"}, {"query"}, {"ffffffff", "eeeeee"}, {"cccc", "bbb"}, {"dd", "a"}}
		if got := model.Batches(); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("batches %q, want %q", got, want)
		}
	})
}

func TestLingerGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		model := embedtest.NewModel(34)
		e := open(t, model, settings, &embedder.Options{Runners: 1, QueryRunners: -1, Linger: 10 * time.Millisecond})
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 4 * time.Millisecond)
				e.EmbedText(t.Context(), fmt.Sprint("text ", i))
			})
		}
		wg.Wait()
		if n, took := len(model.Batches()), time.Since(start); n != 1 || took != 10*time.Millisecond {
			t.Errorf("%d batches in %v, want 1 after 10ms", n, took)
		}
	})
}

// TestQueryRunner checks that a query is answered while every common runner is busy.
func TestQueryRunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		entered, release := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1})
		go e.EmbedText(t.Context(), "a document")
		<-entered
		got, err := e.EmbedQuery(t.Context(), "who?")
		if err != nil {
			t.Fatal(err)
		}
		wantQuote(t, got.Vector, "who?")
		release()
	})
}

func TestOverload(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		opts embedder.Options
		what string
	}{
		{"texts", embedder.Options{MaxWaitingTexts: 2}, "texts waiting"},
		{"tokens", embedder.Options{MaxWaitingTokens: 14}, "tokens waiting"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				faulty := embedtest.NewFaulty(embedtest.NewModel(34))
				entered, release := faulty.BlockOn(1)
				tt.opts.Runners, tt.opts.QueryRunners = 1, -1
				e := open(t, faulty, settings, &tt.opts)
				var wg sync.WaitGroup
				embed := func() { wg.Go(func() { e.EmbedText(t.Context(), "12345") }) }
				embed()
				<-entered
				embed()
				embed()
				synctest.Wait()
				_, err := e.EmbedText(t.Context(), "one too many")
				var over *embedder.OverloadError
				if !errors.As(err, &over) || over.What != tt.what || !overloaded(err) || permanent(err) || !errors.Is(err, embedder.ErrOverloaded) {
					t.Errorf("err = %v, want an overload of %s", err, tt.what)
				}
				release()
				wg.Wait()
				if _, err := e.EmbedText(t.Context(), "now there is room"); err != nil {
					t.Errorf("after the backlog: %v", err)
				}
			})
		})
	}
}

// TestLeaveWaiting checks that a caller who leaves is answered at once and its row never run.
func TestLeaveWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		model := embedtest.NewModel(34)
		faulty := embedtest.NewFaulty(model)
		entered, release := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1})
		go e.EmbedText(t.Context(), "first")
		<-entered
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("lost patience"))
		defer cancel()
		start := time.Now()
		_, err := e.EmbedText(ctx, "impatient")
		if err == nil || !strings.Contains(err.Error(), "lost patience") || time.Since(start) != time.Second {
			t.Errorf("err = %v after %v, want the cause after 1s", err, time.Since(start))
		}
		release()
		if _, err := e.EmbedText(t.Context(), "last"); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(model.Batches()); got != "[[first] [last]]" {
			t.Errorf("batches %s, want none with the caller who left", got)
		}
	})
}

// TestLeaveRunning checks that a batch is stopped when its last caller leaves, and not before.
func TestLeaveRunning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		blocked, release := faulty.BlockOn(1)
		entered, _ := faulty.BlockOn(2)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1})
		go e.EmbedText(t.Context(), "first")
		<-blocked
		var leave [2]context.CancelFunc
		var errs [2]chan error
		for i := range leave {
			var ctx context.Context
			ctx, leave[i] = context.WithCancel(t.Context())
			errs[i] = make(chan error, 1)
			go func() {
				_, err := e.EmbedText(ctx, fmt.Sprint("caller ", i))
				errs[i] <- err
			}()
		}
		synctest.Wait()
		release()
		<-entered
		leave[0]()
		synctest.Wait()
		if err := <-errs[0]; !errors.Is(err, context.Canceled) {
			t.Errorf("the first who left: %v", err)
		}
		if n := e.Stats().Running; n != 1 {
			t.Errorf("%d batches running while a caller waits for one, want 1", n)
		}
		leave[1]()
		synctest.Wait()
		if n := e.Stats().Running; n != 0 {
			t.Errorf("%d batches running with nobody waiting, want 0", n)
		}
		<-errs[1]
	})
}

// TestModelError checks that an error of the engine reaches every caller of its batch, and only those.
func TestModelError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		entered, release := faulty.BlockOn(1)
		broken := errors.New("out of memory")
		for run := 2; run < 6; run++ { // the batch, its halves, and the row that proves the engine
			faulty.FailOn(run, broken)
		}
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1})
		go e.EmbedText(t.Context(), "first")
		<-entered
		errs := make(chan error, 3)
		for i := range cap(errs) {
			go func() {
				_, err := e.EmbedText(t.Context(), fmt.Sprint(i))
				errs <- err
			}()
		}
		synctest.Wait()
		release()
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, broken) || permanent(err) || overloaded(err) {
				t.Errorf("err = %v, want the model's, to be retried", err)
			}
		}
		if _, err := e.EmbedText(t.Context(), "next"); err != nil {
			t.Errorf("the batch after: %v", err)
		}
	})
}

// twisted spoils the vectors of a model.
type twisted struct {
	embedder.Model
	twist func([]vector.Vector) []vector.Vector
}

func (m twisted) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	vs, err := m.Model.Run(ctx, b)
	if err != nil {
		return nil, err
	}
	return m.twist(vs), nil
}

func TestUnusableVectors(t *testing.T) {
	t.Parallel()
	for name, twist := range map[string]func([]vector.Vector) []vector.Vector{
		"dimension":    func(vs []vector.Vector) []vector.Vector { vs[0] = vs[0][1:]; return vs },
		"not a number": func(vs []vector.Vector) []vector.Vector { vs[0][0] = float32(math.NaN()); return vs },
		"infinite":     func(vs []vector.Vector) []vector.Vector { vs[0][3] = float32(math.Inf(1)); return vs },
		"length":       func(vs []vector.Vector) []vector.Vector { vs[0][2] *= 2; return vs },
		"all zero":     func(vs []vector.Vector) []vector.Vector { clear(vs[0]); return vs },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := open(t, twisted{embedtest.NewModel(34), twist}, settings, nil)
			got, err := e.EmbedText(t.Context(), "text")
			if err == nil || !permanent(err) {
				t.Errorf("vector %v and err %v, want a permanent error", got.Vector, err)
			}
		})
	}
}

// TestUnusableVectorConcernsItsTextOnly puts a bad row among good ones.
func TestUnusableVectorConcernsItsTextOnly(t *testing.T) {
	t.Parallel()
	spoil := func(vs []vector.Vector) []vector.Vector {
		for _, v := range vs {
			if strings.Contains(embedtest.Quote(v), "bad") {
				v[0] = float32(math.NaN())
			}
		}
		return vs
	}
	e := open(t, twisted{embedtest.NewModel(34), spoil}, settings, nil)
	got, err := e.EmbedAll(t.Context(), []string{"good", "bad", "fine"})
	if err != nil {
		t.Fatal(err)
	}
	for i, wantErr := range []bool{false, true, false} {
		if (got[i].Err != nil) != wantErr {
			t.Errorf("text %d: err = %v, want one: %t", i, got[i].Err, wantErr)
		}
	}
}

func TestEmbedAll(t *testing.T) {
	t.Parallel()
	model := embedtest.NewModel(34)
	e := open(t, model, settings, &embedder.Options{TokenBudget: 64, MaxWaitingTexts: 3})
	var texts []string
	for i := range 200 {
		texts = append(texts, strings.Repeat("x", 1+i*7%30)+fmt.Sprint(i))
	}
	texts[17], texts[99] = "", strings.Repeat("y", 50)
	got, err := e.EmbedAll(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		switch {
		case text == "":
			if !errors.Is(got[i].Err, embedder.ErrEmpty) {
				t.Errorf("empty text: err = %v", got[i].Err)
			}
		case got[i].Err != nil:
			t.Errorf("text %d: %v", i, got[i].Err)
		default:
			wantQuote(t, got[i].Vector, text[:min(32, len(text))])
		}
	}
	if !got[99].Truncated || got[98].Truncated {
		t.Errorf("truncated: %t and %t, want true and false", got[99].Truncated, got[98].Truncated)
	}
}

func TestEmbedAllCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		entered, _ := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-entered; cancel() }()
		if _, err := e.EmbedAll(ctx, []string{"a", "b"}); !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v, want context.Canceled", err)
		}
		synctest.Wait()
		if s := e.Stats(); s.Running != 0 || s.Inside != 0 {
			t.Errorf("left behind: %+v", s)
		}
	})
}

// counter is an Observer that adds up.
type counter struct {
	tokenized, ran, padded, tokens atomic.Int64
}

func (c *counter) Tokenized(_ time.Duration, rows, _ int) { c.tokenized.Add(int64(rows)) }
func (c *counter) Ran(info embedder.RunInfo) {
	c.ran.Add(int64(info.Texts))
	c.tokens.Add(int64(info.Tokens))
	c.padded.Add(int64(info.Padded))
}

func TestObserver(t *testing.T) {
	t.Parallel()
	var c counter
	e := open(t, embedtest.NewModel(34), settings, &embedder.Options{Runners: 1, Observer: &c})
	if _, err := e.EmbedAll(t.Context(), []string{"12345678", "123456", "1"}); err != nil {
		t.Fatal(err)
	}
	// Callers may be answered before the observer is told.
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.tokenized.Load() != 3 || c.ran.Load() != 3 || c.tokens.Load() != 10+8+3 || c.padded.Load() != 3*10 {
		t.Errorf("tokenized %d, ran %d texts of %d tokens padded to %d; want 3, 3, 21, 30",
			c.tokenized.Load(), c.ran.Load(), c.tokens.Load(), c.padded.Load())
	}
}
