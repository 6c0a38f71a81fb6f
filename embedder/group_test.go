package embedder_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
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

// TestEmbedDocumentsOverload checks that each text beyond the bound is refused by itself.
func TestEmbedDocumentsOverload(t *testing.T) {
	t.Parallel()
	e := open(t, embedtest.NewModel(34), settings, &embedder.Options{MaxWaitingTexts: 3})
	got, _ := gather(t, e.EmbedDocuments(same(t.Context(), 5), []string{"a", "b", "c", "d", "e"}), 5)
	for i, em := range got {
		if refused := errors.Is(em.Err, embedder.ErrOverloaded); refused != (i >= 3) {
			t.Errorf("text %d: %v", i, em.Err)
		}
	}
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

// TestManagerEmbedDocuments checks that the door lets in as many as there is room for, sends the others away at once, and
// counts everybody.
func TestManagerEmbedDocuments(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &loadBench{takes: time.Second}
		m := manage(t, b, &embedder.ManagerOptions{Limits: embedder.Limits{MaxAccess: 3}})
		texts := []string{"a", "b", "c", "d", ""}
		early, _ := gather(t, m.EmbedDocuments(same(t.Context(), 5), texts), 5)
		for i, em := range early {
			if !errors.Is(em.Err, embedder.ErrOverloaded) {
				t.Errorf("text %d before the load: %v", i, em.Err)
			}
		}
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, _ := gather(t, m.EmbedDocuments(same(t.Context(), 5), texts), 5)
		for i, em := range got {
			if em.Err == nil && i < 3 {
				wantQuote(t, em.Chunks[0].Vector, texts[i])
			} else if i < 3 || !errors.Is(em.Err, embedder.ErrOverloaded) {
				t.Errorf("text %d: %v", i, em.Err)
			}
		}
		for range m.EmbedDocuments(same(t.Context(), 2), []string{"", "a"}) {
			break // with one refused and one inside
		}
		s := m.Stats()
		if s.Inside != 0 || s.Calls != 12 || s.Done != 3 || s.Overloaded != 7 || s.Permanent+s.Cancelled != 2 || s.Outcomes() != s.Calls {
			t.Errorf("counts: %+v", s)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
		late, _ := gather(t, m.EmbedDocuments(same(t.Context(), 1), []string{"a"}), 1)
		if !errors.Is(late[0].Err, embedder.ErrClosed) {
			t.Errorf("after close: %v", late[0].Err)
		}
	})
}

// TestEmbedDocumentsLeaveADevice checks that a device without memory is left also when it is a bundle that finds out: its
// texts get the error, and who asks again for one of them waits for the next device.
func TestEmbedDocumentsLeaveADevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &deviceBench{takes: time.Second, faults: func(f *embedtest.Faulty) { f.FailOn(1, errDeviceMemory) }}
		m := drive(t, b, "cuda", "cpu")
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		texts := []string{"a", "b", "c"}
		got, _ := gather(t, m.EmbedDocuments(same(t.Context(), 3), texts), 3)
		for i, em := range got {
			if em.Err == nil {
				continue // on the device, after its fault
			}
			chunks, err := m.EmbedDocument(t.Context(), texts[i])
			if err != nil {
				t.Fatal(err)
			}
			wantQuote(t, chunks[0].Vector, texts[i])
		}
		s := m.Stats()
		if s.Device != "cpu" || s.Loads != 2 || s.Inside != 0 || s.Outcomes() != s.Calls {
			t.Errorf("on %q after %d loads: %+v", s.Device, s.Loads, s.Counts)
		}
	})
}
