package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// errDied is what a step returns that a crash cut off.
var errDied = errors.New("process died")

// A crash dies before or after the n-th step of an outbox.
type crash struct {
	*ledger.Source
	client *queue.Client
	store  *storeredis.Store
	at     int
	steps  []string // that were done
}

// step runs do as step number len(steps), or dies: at 2n before step n, at 2n+1 after it.
func (c *crash) step(name string, do func() error) error {
	n := len(c.steps)
	if c.at == 2*n {
		return errDied
	}
	c.steps = append(c.steps, name)
	if err := do(); err != nil {
		return err
	}
	if c.at == 2*n+1 {
		return errDied
	}
	return nil
}

func (c *crash) Seen(ctx context.Context, names []string) (known []bool, err error) {
	err = c.step("seen", func() (err error) { known, err = c.Source.Seen(ctx, names); return err })
	return known, err
}

func (c *crash) Mark(ctx context.Context, marks []scheduler.Mark) error {
	return c.step("mark", func() error { return c.Source.Mark(ctx, marks) })
}

func (c *crash) TextHashes(ctx context.Context, alias string, ids []string) (hashes []string, err error) {
	err = c.step("stored", func() (err error) { hashes, err = c.store.TextHashes(ctx, alias, ids); return err })
	return hashes, err
}

func (c *crash) Enqueue(ctx context.Context, list []tasks.Task) (refused []error, err error) {
	err = c.step("enqueue", func() error {
		receipts, err := c.client.Enqueue(ctx, list)
		for _, r := range receipts {
			refused = append(refused, r.Err)
		}
		return err
	})
	return refused, err
}

func (c *crash) outbox(t *testing.T) *scheduler.Outbox {
	return &scheduler.Outbox{Log: testkit.Logger(t), Alias: "m", Lane: tasks.Live, Memory: c, Queue: c, Store: c}
}

func items(n int) []scheduler.Item {
	list := make([]scheduler.Item, n)
	for i := range list {
		id := fmt.Sprintf("x:%d", i)
		list[i] = scheduler.Item{Document: vector.Document{ID: id, Text: "text " + id}, Event: time.Now(), Names: []string{"title " + id}}
	}
	return list
}

// TestACrashAtEachStepLosesNothing stops the outbox before and after each of its steps, then starts anew:
// all items are in the queue, each once, and none is known that is not there.
func TestACrashAtEachStepLosesNothing(t *testing.T) {
	t.Parallel()
	died := 0
	for at := 0; ; at++ {
		_, rdb := testkit.MiniRedis(t)
		l, lanes := ledger.New(rdb), queue.NewLanes(rdb)
		c := &crash{Source: l.Source("x", time.Hour), client: queue.NewClient(rdb, nil), store: storeredis.New(rdb), at: at}
		_, err := c.outbox(t).Put(t.Context(), items(7))
		if err == nil {
			break
		}
		if !errors.Is(err, errDied) {
			t.Fatal(err)
		}
		died++
		known, pending := known(t, c.Source), pending(t, lanes)
		if known > 0 && pending != 7 {
			t.Errorf("died at %d after %v: %d names are known, %d tasks are queued", at, c.steps, known, pending)
		}
		c.at, c.steps = -1, nil
		if _, err := c.outbox(t).Put(t.Context(), items(7)); err != nil {
			t.Fatal(err)
		}
		if got := pendingAnd(t, lanes, c.Source); got != "7 queued, 14 known" {
			t.Errorf("died at %d, then again: %s", at, got)
		}
	}
	if died != 8 { // four steps, each before and after
		t.Errorf("%d places to die, want 8", died)
	}
}

func known(t *testing.T, s *ledger.Source) int64 {
	t.Helper()
	n, err := s.Known(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pending(t *testing.T, lanes *queue.Lanes) (n int64) {
	t.Helper()
	list, err := lanes.Status(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		n += l.Pending
	}
	return n
}

func pendingAnd(t *testing.T, lanes *queue.Lanes, s *ledger.Source) string {
	t.Helper()
	return fmt.Sprintf("%d queued, %d known", pending(t, lanes), known(t, s))
}

// store puts a document as a worker would.
func storeDocument(t *testing.T, s *storeredis.Store, d vector.Document) {
	t.Helper()
	_, err := s.Put(t.Context(), vector.Record{
		Document: d, Model: "m", Space: "s", TextHash: vector.TextHash(d.Text), Version: 1,
		Chunks: []vector.Chunk{{End: len(d.Text), Embedding: vector.Embedding{Vector: vector.Vector{1}, Tokens: 1}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAWipedMemoryIsRebuiltFromTheStore: nothing that is stored is enqueued again.
func TestAWipedMemoryIsRebuiltFromTheStore(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	c := &crash{Source: ledger.New(rdb).Source("x", time.Hour), client: queue.NewClient(rdb, nil), store: storeredis.New(rdb), at: -1}
	list := items(1200)
	for _, it := range list[:1100] {
		storeDocument(t, c.store, it.Document)
	}
	list[3].Document.Text = "a new text"
	r, err := c.outbox(t).Put(t.Context(), list)
	if err != nil || r.Stored != 1099 || r.New != 101 {
		t.Errorf("%+v, %v, want 1099 stored and 101 new", r, err)
	}
	if n := known(t, c.Source); n != 2400 {
		t.Errorf("%d names are known, want 2400", n)
	}
	if n, _, err := c.Awaited(t.Context()); err != nil || n != 101 {
		t.Errorf("%d are awaited, %v, want 101: what is stored is not", n, err)
	}
}

func TestOutboxCounts(t *testing.T) {
	t.Parallel()
	_, rdb := testkit.MiniRedis(t)
	c := &crash{Source: ledger.New(rdb).Source("x", time.Hour), client: queue.NewClient(rdb, nil), store: storeredis.New(rdb), at: -1}
	list := items(4)
	list[1].Names = list[0].Names // the same story
	list[2].Document.Text = " "   // refused
	list[3].Document.Text = strings.Repeat("x", tasks.MaxText+1)
	list = append(list, scheduler.Item{Document: vector.Document{ID: "x:9", Text: "\u1112\u1161\u11ab\xff"}, Transient: true})
	r, err := c.outbox(t).Put(t.Context(), list)
	want := scheduler.Report{
		New: 2, Repeated: 1, Refused: 2, Reasons: map[string]int{"repeated/same_title": 1, "refused/invalid_empty": 1, "refused/invalid_too_long": 1},
		Brought: []string{"x:0", "x:9"},
	}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	r, err = c.outbox(t).Put(t.Context(), list)
	// The transient one is not remembered; its task waits and takes the second one in. The repetition was counted.
	if want := (scheduler.Report{New: 1, Brought: []string{"x:9"}}); err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("the second time %+v, %v, want %+v", r, err, want)
	}
	if n := pending(t, queue.NewLanes(rdb)); n != 2 {
		t.Errorf("%d tasks are queued, want 2", n)
	}
}
