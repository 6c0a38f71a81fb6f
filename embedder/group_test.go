package embedder_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
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

// same returns n times the same context.
func same(ctx context.Context, n int) []context.Context {
	return slices.Repeat([]context.Context{ctx}, n)
}

// gather returns the outcomes in the texts' order, and how many came at a time.
func gather(t *testing.T, seq func(func([]vector.Embedded) bool), n int) (all []vector.Embedded, sizes []int) {
	t.Helper()
	all = make([]vector.Embedded, n)
	seen := make([]bool, n)
	for list := range seq {
		sizes = append(sizes, len(list))
		for _, em := range list {
			if seen[em.Index] {
				t.Errorf("text %d has two outcomes", em.Index)
			}
			seen[em.Index], all[em.Index] = true, em
		}
	}
	if i := slices.Index(seen, false); i >= 0 {
		t.Errorf("text %d has no outcome", i)
	}
	return all, sizes
}

// TestEmbedDocuments checks that many documents get what each would get alone, with one wake-up a batch.
func TestEmbedDocuments(t *testing.T) {
	t.Parallel()
	set := settings
	set.DocumentPrompt = "p: "
	model := embedtest.NewModel(34)
	faulty := embedtest.NewFaulty(model)
	faulty.FailFor("poison", errors.New("overflow"))
	e := open(t, faulty, set, &embedder.Options{Runners: 1, QueryRunners: -1})
	texts := []string{"", "short", strings.Repeat("A long one. ", 20), "\x00", "with poison in it"}
	for i := range 200 {
		texts = append(texts, fmt.Sprintf("text %d", i))
	}
	texts = append(texts, strings.Repeat("Words and more of them, to fill a portion. ", 3000)) // beyond one portion
	got, sizes := gather(t, e.EmbedDocuments(same(t.Context(), len(texts)), texts), len(texts))
	for i, text := range texts {
		want, err := e.EmbedDocument(t.Context(), text)
		if (got[i].Err == nil) != (err == nil) || !reflect.DeepEqual(got[i].Chunks, want) {
			t.Errorf("text %d: %d chunks, %v; alone it has %d, %v", i, len(got[i].Chunks), got[i].Err, len(want), err)
		}
	}
	if len(sizes) > 60 {
		t.Errorf("%d texts came at %d times", len(texts), len(sizes))
	}
	if s := e.Stats(); s.Inside+s.WaitingTexts+s.WaitingTokens != 0 {
		t.Errorf("left behind: %+v", s)
	}
}

// TestEmbedDocumentsEnds checks the ends that are not the model's: of one text's context, of the loop, of the engine.
func TestEmbedDocumentsEnds(t *testing.T) {
	t.Parallel()
	t.Run("context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			faulty := embedtest.NewFaulty(embedtest.NewModel(34))
			_, release := faulty.BlockOn(1)
			e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1})
			over, cancel := context.WithCancelCause(t.Context())
			gone, leave := context.WithCancel(t.Context())
			leave()
			ctxs := []context.Context{t.Context(), over, gone, t.Context()}
			enough := errors.New("enough")
			go func() {
				time.Sleep(time.Second)
				cancel(enough)
				time.Sleep(time.Second)
				release()
			}()
			begun := time.Now()
			got := map[int]time.Duration{}
			for list := range e.EmbedDocuments(ctxs, []string{"a", "b", "c", "d"}) {
				for _, em := range list {
					got[em.Index] = time.Since(begun)
					if want := map[int]error{1: enough, 2: context.Canceled}[em.Index]; !errors.Is(em.Err, want) {
						t.Errorf("text %d: %v, want %v", em.Index, em.Err, want)
					}
				}
			}
			if want := map[int]time.Duration{0: 2 * time.Second, 1: time.Second, 2: 0, 3: 2 * time.Second}; !reflect.DeepEqual(got, want) {
				t.Errorf("outcomes after %v, want %v", got, want)
			}
		})
	})
	t.Run("loop", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			faulty := embedtest.NewFaulty(embedtest.NewModel(34))
			entered, _ := faulty.BlockOn(2)
			e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1, TokenBudget: 34, MaxTexts: 1})
			texts := []string{"a", "b", "c"}
			for list := range e.EmbedDocuments(same(t.Context(), 3), texts) {
				if len(list) != 1 {
					t.Errorf("%d at a time", len(list))
				}
				<-entered
				break
			}
			synctest.Wait()
			if s := e.Stats(); s.Inside+s.Running != 0 {
				t.Errorf("after the loop was left: %+v", s)
			}
		})
	})
	t.Run("engine", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			faulty := embedtest.NewFaulty(embedtest.NewModel(34))
			entered, _ := faulty.BlockOn(1)
			e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1, TokenBudget: 34, MaxTexts: 1})
			go func() {
				<-entered
				now, cancel := context.WithCancel(t.Context())
				cancel()
				_ = e.Close(now)
			}()
			got, _ := gather(t, e.EmbedDocuments(same(t.Context(), 3), []string{"a", "b", "c"}), 3)
			for i, em := range got {
				if !errors.Is(em.Err, embedder.ErrClosed) {
					t.Errorf("text %d: %v", i, em.Err)
				}
			}
			got, _ = gather(t, e.EmbedDocuments(same(t.Context(), 1), []string{"a"}), 1)
			if !errors.Is(got[0].Err, embedder.ErrClosed) {
				t.Errorf("after close: %v", got[0].Err)
			}
		})
	})
}

// TestGroupsAreNotRefused checks that a group has room where callers one by one are refused: what waits is bounded by who
// hands it in.
func TestGroupsAreNotRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := embedtest.NewFaulty(embedtest.NewModel(34))
		entered, release := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1, MaxWaitingTexts: 3, MaxWaitingTokens: 40})
		go func() {
			<-entered
			synctest.Wait()
			if _, err := e.EmbedText(t.Context(), "alone"); !errors.Is(err, embedder.ErrOverloaded) {
				t.Errorf("a caller behind the group: %v, want ErrOverloaded", err)
			}
			release()
		}()
		var texts []string
		for i := range 50 {
			texts = append(texts, fmt.Sprint("text ", i))
		}
		blocked := append([]string{strings.Repeat("x", 30)}, texts...)
		for _, embed := range []func([]context.Context, []string) iter.Seq[[]vector.Embedded]{e.EmbedDocuments, e.EmbedQueries} {
			got, _ := gather(t, embed(same(t.Context(), len(blocked)), blocked), len(blocked))
			for i, em := range got {
				if em.Err != nil {
					t.Errorf("text %d: %v", i, em.Err)
				}
			}
		}
	})
}

// TestEmbedQueries checks that many queries get what each would get alone: one chunk, cut off where it is too long, with
// the prompt of queries.
func TestEmbedQueries(t *testing.T) {
	t.Parallel()
	set := settings
	set.QueryPrompt, set.DocumentPrompt = "q: ", "p: "
	faulty := embedtest.NewFaulty(embedtest.NewModel(34))
	faulty.FailFor("poison", errors.New("overflow"))
	e := open(t, faulty, set, &embedder.Options{Runners: 1})
	texts := []string{"", "short", strings.Repeat("A long one. ", 20), "with poison in it"}
	for i := range 100 {
		texts = append(texts, fmt.Sprint("query ", i))
	}
	got, _ := gather(t, e.EmbedQueries(same(t.Context(), len(texts)), texts), len(texts))
	for i, text := range texts {
		want, err := e.EmbedQuery(t.Context(), text)
		if (got[i].Err == nil) != (err == nil) {
			t.Errorf("query %d: %v; alone it is %v", i, got[i].Err, err)
		}
		if err == nil && (len(got[i].Chunks) != 1 || !reflect.DeepEqual(got[i].Chunks[0].Embedding, want)) {
			t.Errorf("query %d: %+v; alone it has %+v", i, got[i].Chunks, want)
		}
	}
	wantQuote(t, got[1].Chunks[0].Vector, "q: short")
	if !got[2].Chunks[0].Truncated || got[0].Err == nil || got[3].Err == nil {
		t.Errorf("a long query: %+v; of nothing: %v; poisoned: %v", got[2].Chunks, got[0].Err, got[3].Err)
	}
	if s := e.Stats(); s.Inside+s.WaitingTexts+s.WaitingTokens != 0 {
		t.Errorf("left behind: %+v", s)
	}
}

// TestGroupOfQueriesGoesFirst lets documents wait for queries that came later.
func TestGroupOfQueriesGoesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		model := embedtest.NewModel(34)
		faulty := embedtest.NewFaulty(model)
		entered, release := faulty.BlockOn(1)
		e := open(t, faulty, settings, &embedder.Options{Runners: 1, QueryRunners: -1, TokenBudget: 34, MaxTexts: 2})
		var wg sync.WaitGroup
		wg.Go(func() { gather(t, e.EmbedDocuments(same(t.Context(), 4), []string{"d1", "d2", "d3", "d4"}), 4) })
		<-entered
		wg.Go(func() { gather(t, e.EmbedQueries(same(t.Context(), 2), []string{"q1", "q2"}), 2) })
		synctest.Wait()
		release()
		wg.Wait()
		batches := model.Batches()
		if len(batches) != 3 || batches[1][0][0] != 'q' {
			t.Errorf("batches %q, want the queries second of three", batches)
		}
	})
}

// TestEmbedDocumentsOfAnUnusableVector checks that it concerns its text only.
func TestEmbedDocumentsOfAnUnusableVector(t *testing.T) {
	t.Parallel()
	e := open(t, nanFor{embedtest.NewModel(34), "bad"}, settings, nil)
	got, _ := gather(t, e.EmbedDocuments(same(t.Context(), 3), []string{"good", "bad", "fine"}), 3)
	if got[0].Err != nil || got[1].Err == nil || got[2].Err != nil {
		t.Errorf("outcomes %+v", got)
	}
}

// nanFor is a model with an unusable vector for one text.
type nanFor struct {
	*embedtest.Model
	text string
}

func (m nanFor) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	vs, err := m.Model.Run(ctx, b)
	for i := range vs {
		if embedtest.Text(b.Rows[i]) == m.text {
			vs[i][0] = float32(math.Inf(1))
		}
	}
	return vs, err
}

// TestManagerEmbedDocuments checks that a group waits for the load and for access as a caller does, with no more texts
// inside than there is room for, and that everybody is counted.
func TestManagerEmbedDocuments(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{takes: time.Second}
		m := manage(t, b, &embedder.ManagerOptions{Limits: embedder.Limits{MaxAccess: 3, MaxWaiting: 1}})
		texts := []string{"a", "b", "c", "d", "", "f", "g"}
		var wg sync.WaitGroup
		wg.Go(func() {
			begun := time.Now()
			got, _ := gather(t, m.EmbedDocuments(same(t.Context(), len(texts)), texts), len(texts))
			for i, em := range got {
				var want error
				if texts[i] == "" {
					want = embedder.ErrEmpty
				}
				if !errors.Is(em.Err, want) {
					t.Errorf("text %d: %v, want %v", i, em.Err, want)
				} else if want == nil {
					wantQuote(t, em.Chunks[0].Vector, texts[i])
				}
			}
			if took := time.Since(begun); took != time.Second {
				t.Errorf("it took %v, want as long as the load", took)
			}
		})
		synctest.Wait()
		if s := m.Stats(); s.Waiting != 1 || s.Inside != 0 || s.Calls != 1 {
			t.Errorf("before the load: %d waiting, %d inside of %d calls, want the first in the line for all", s.Waiting, s.Inside, s.Calls)
		}
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		s := m.Stats()
		if s.Inside != 0 || s.Peak > 3 || s.Calls != 7 || s.Done != 6 || s.Permanent != 1 || s.Outcomes() != s.Calls {
			t.Errorf("counts: %+v, at most %d inside", s.Counts, s.Peak)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
		late, _ := gather(t, m.EmbedDocuments(same(t.Context(), 2), []string{"a", "b"}), 2)
		if !errors.Is(late[0].Err, embedder.ErrClosed) || !errors.Is(late[1].Err, embedder.ErrClosed) {
			t.Errorf("after close: %v, %v", late[0].Err, late[1].Err)
		}
	})
}

// TestManagerEmbedDocumentsEnds checks the ends of a group that waits: of the first text's context, of the time to wait, of
// the loop.
func TestManagerEmbedDocumentsEnds(t *testing.T) {
	t.Parallel()
	t.Run("context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			m := manage(t, &loadBench{takes: 2 * time.Second}, nil)
			soon, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
			defer cancel()
			go func() {
				if err := m.Load(t.Context()); err != nil {
					t.Error(err)
				}
			}()
			ctxs := []context.Context{soon, t.Context(), t.Context()}
			got, sizes := gather(t, m.EmbedDocuments(ctxs, []string{"a", "b", "c"}), 3)
			if !strings.Contains(fmt.Sprint(got[0].Err), "enough") || got[1].Err != nil || got[2].Err != nil || sizes[0] != 1 {
				t.Errorf("%v, %v, %v; came %v at a time", got[0].Err, got[1].Err, got[2].Err, sizes)
			}
			if s := m.Stats(); s.Calls != 3 || s.Cancelled != 1 || s.Done != 2 || s.Inside+s.Waiting != 0 {
				t.Errorf("counts: %+v", s)
			}
		})
	})
	t.Run("time", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			m := manage(t, &loadBench{}, &embedder.ManagerOptions{Limits: embedder.Limits{WaitTimeout: time.Second}})
			got, _ := gather(t, m.EmbedDocuments(same(t.Context(), 3), []string{"a", "b", "c"}), 3)
			for i, em := range got {
				if !errors.Is(em.Err, embedder.ErrOverloaded) {
					t.Errorf("text %d: %v, want ErrOverloaded: nothing was loaded in time", i, em.Err)
				}
			}
		})
	})
	t.Run("loop", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			m := manage(t, &loadBench{}, &embedder.ManagerOptions{Limits: embedder.Limits{MaxAccess: 2}})
			if err := m.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range m.EmbedDocuments(same(t.Context(), 3), []string{"", "a", "b"}) {
				break // with one refused, one inside and one that never came
			}
			synctest.Wait()
			if s := m.Stats(); s.Inside+s.Waiting+s.Engine.Inside != 0 || s.Calls != 2 || s.Permanent != 1 || s.Cancelled != 1 {
				t.Errorf("after the loop was left: %+v", s)
			}
		})
	})
}

// TestManagerEmbedQueries checks the same door for queries, several groups at once.
func TestManagerEmbedQueries(t *testing.T) {
	t.Parallel()
	m := manage(t, &loadBench{}, &embedder.ManagerOptions{Limits: embedder.Limits{MaxAccess: 5}})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var texts []string
			for i := range 20 {
				texts = append(texts, fmt.Sprintf("query %d of %d", i, g))
			}
			got, _ := gather(t, m.EmbedQueries(same(t.Context(), 20), texts), 20)
			for i, em := range got {
				if em.Err != nil || len(em.Chunks) != 1 {
					t.Errorf("query %d of %d: %+v", i, g, em)
					continue
				}
				wantQuote(t, em.Chunks[0].Vector, texts[i])
			}
		})
	}
	wg.Wait()
	if s := m.Stats(); s.Calls != 160 || s.Done != 160 || s.Inside+s.Waiting != 0 || s.Peak > 5 {
		t.Errorf("%d inside at most, counts %+v", s.Peak, s.Counts)
	}
}

// TestEmbedDocumentsLeaveADevice checks that a device without memory is left also when it is a group that finds out: its
// texts wait for the next one, by themselves, and are embedded there.
func TestEmbedDocumentsLeaveADevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &deviceBench{takes: time.Second, faults: func(f *embedtest.Faulty) { f.FailOn(1, errDeviceMemory) }}
		m := drive(t, b, "cuda", "cpu")
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		texts := []string{"a", "b", "", "c"}
		got, _ := gather(t, m.EmbedDocuments(same(t.Context(), 4), texts), 4)
		for i, em := range got {
			if texts[i] == "" {
				continue // refused wherever it is
			}
			if em.Err != nil {
				t.Errorf("text %d: %v", i, em.Err)
				continue
			}
			wantQuote(t, em.Chunks[0].Vector, texts[i])
		}
		s := m.Stats()
		if s.Device != "cpu" || s.Loads != 2 || s.Inside+s.Waiting != 0 || s.Calls != 4 || s.Done != 3 || s.Outcomes() != s.Calls {
			t.Errorf("on %q after %d loads: %+v", s.Device, s.Loads, s.Counts)
		}
	})
}

// TestEmbedDocumentsOnTheLastDevice checks that without another device the texts get the error.
func TestEmbedDocumentsOnTheLastDevice(t *testing.T) {
	t.Parallel()
	b := &deviceBench{faults: func(f *embedtest.Faulty) { f.FailFor("", errDeviceMemory) }}
	m := drive(t, b, "cuda")
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, _ := gather(t, m.EmbedDocuments(same(t.Context(), 2), []string{"a", "b"}), 2)
	for i, em := range got {
		if !errors.Is(em.Err, embedder.ErrDeviceMemory) {
			t.Errorf("text %d: %v, want the device's error", i, em.Err)
		}
	}
	if s := m.Stats(); s.Calls != 2 || s.Failed != 2 || s.Inside != 0 {
		t.Errorf("counts: %+v", s.Counts)
	}
}
