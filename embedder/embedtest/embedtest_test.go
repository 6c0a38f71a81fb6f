package embedtest_test

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestQuote(t *testing.T) {
	t.Parallel()
	m := embedtest.NewModel(64)
	for _, text := range []string{"a", "Hello, world", "삼성전자 3분기 실적", "\U0010FFFF mixed with 1", "ＦＵＬＬ"} {
		ids, truncated := embedtest.Tokenizer{}.Encode(nil, text, 64)
		vs, err := m.Run(t.Context(), embedder.Batch{Rows: [][]int32{ids}})
		if err != nil || truncated {
			t.Fatalf("%q: truncated %t, %v", text, truncated, err)
		}
		if err := vs[0].CheckUnit(m.Dim()); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if got := embedtest.Quote(vs[0]); got != text {
			t.Errorf("Quote = %q, want %q", got, text)
		}
	}
	if got := embedtest.Quote(nil); got != "" {
		t.Errorf("Quote of nothing = %q", got)
	}
}

func TestTokenizerCuts(t *testing.T) {
	t.Parallel()
	ids, truncated := embedtest.Tokenizer{}.Encode(nil, " abcdef ", 5)
	if got := embedtest.Text(ids); got != "abc" || !truncated || len(ids) != 5 {
		t.Errorf("%d tokens of %q, truncated %t; want 5 of abc, true", len(ids), got, truncated)
	}
}

func TestModelCloses(t *testing.T) {
	t.Parallel()
	m := embedtest.NewModel(8)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err == nil {
		t.Error("closing twice was no error")
	}
	if _, err := m.Run(t.Context(), embedder.Batch{Rows: [][]int32{{1}}}); !errors.Is(err, embedder.ErrClosed) {
		t.Errorf("a run after Close: %v", err)
	}
}

func TestFaulty(t *testing.T) {
	t.Parallel()
	f := embedtest.NewFaulty(embedtest.NewModel(8))
	broken := errors.New("broken")
	f.FailOn(2, broken)
	entered, release := f.BlockOn(3)
	f.BlockOn(4)
	b := embedder.Batch{Rows: [][]int32{{1, 2}}}
	if _, err := f.Run(t.Context(), b); err != nil {
		t.Errorf("run 1: %v", err)
	}
	if _, err := f.Run(t.Context(), b); !errors.Is(err, broken) {
		t.Errorf("run 2: %v, want the fault", err)
	}
	go func() { <-entered; release() }()
	if _, err := f.Run(t.Context(), b); err != nil {
		t.Errorf("run 3: %v, want it to go on", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Run(ctx, b); !errors.Is(err, context.Canceled) {
		t.Errorf("run 4: %v, want the end of its context", err)
	}
	f.FailFor("poison", broken)
	ids, _ := embedtest.Tokenizer{}.Encode(nil, "poison", 8)
	if _, err := f.Run(t.Context(), embedder.Batch{Rows: [][]int32{{1, 2}, ids}}); !errors.Is(err, broken) {
		t.Errorf("run 5: %v, want the fault of one of its texts", err)
	}
	if _, err := f.Run(t.Context(), b); err != nil || f.Runs() != 6 {
		t.Errorf("run %d: %v, want none in run 6", f.Runs(), err)
	}
}

func TestEmbedder(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	e := &embedtest.Embedder{Errors: map[string]error{"poison": refused}}
	text := "one\n\ntwo\n\n"
	chunks, err := e.EmbedDocument(t.Context(), text)
	if err != nil || len(chunks) != 2 {
		t.Fatalf("%d chunks, %v; want 2", len(chunks), err)
	}
	for i, want := range []string{"one", "two"} {
		if got := embedtest.Quote(chunks[i].Vector); got != want {
			t.Errorf("chunk %d is %q, want %q", i, got, want)
		}
	}
	if got := text[chunks[1].Start:chunks[1].End]; got != "two\n\n" {
		t.Errorf("chunk 1 is %q of the text", got)
	}
	if _, err := e.EmbedQuery(t.Context(), " "); !errors.Is(err, embedder.ErrEmpty) {
		t.Errorf("an empty query: %v", err)
	}
	if _, err := e.EmbedText(t.Context(), "some poison here"); !errors.Is(err, refused) {
		t.Errorf("a poisoned text: %v", err)
	}
}

// TestEach checks that many texts get what each gets alone, and that a loop that is left leaves nobody behind.
func TestEach(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	e := &embedtest.Embedder{Errors: map[string]error{"bad": broken}}
	texts := []string{"one", "", "bad", "two\n\nparagraphs"}
	gone, leave := context.WithCancel(t.Context())
	leave()
	ctxs := []context.Context{t.Context(), t.Context(), t.Context(), t.Context(), gone}
	texts = append(texts, "left")
	seen := 0
	for list := range e.EmbedDocuments(ctxs, texts) {
		for _, em := range list {
			seen++
			want, err := e.EmbedDocument(ctxs[em.Index], texts[em.Index])
			if !reflect.DeepEqual(em.Chunks, want) || !errors.Is(em.Err, err) {
				t.Errorf("document %d: %+v, want %+v, %v", em.Index, em, want, err)
			}
		}
	}
	for list := range e.EmbedQueries(ctxs, texts) {
		for _, em := range list {
			seen++
			want, err := e.EmbedQuery(ctxs[em.Index], texts[em.Index])
			if !errors.Is(em.Err, err) || err == nil && (len(em.Chunks) != 1 || !reflect.DeepEqual(em.Chunks[0].Embedding, want)) {
				t.Errorf("query %d: %+v, want %+v, %v", em.Index, em, want, err)
			}
		}
	}
	if seen != 2*len(texts) {
		t.Errorf("%d outcomes, want one of each text", seen)
	}
	var running atomic.Int64
	for range embedtest.Each(ctxs, texts, func(context.Context, string) ([]vector.Chunk, error) {
		running.Add(1)
		defer running.Add(-1)
		runtime.Gosched()
		return nil, nil
	}) {
		break
	}
	if n := running.Load(); n != 0 {
		t.Errorf("%d are still running", n)
	}
}
