package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/vector"
)

// putOf returns what Put hands to the writers.
func putOf(t *testing.T, s *Store, rec vector.Record) *write {
	t.Helper()
	w, err := s.putOf(rec)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestRecordsThatShareAScript checks that one record's outcome is its own, whoever it travels with.
func TestRecordsThatShareAScript(t *testing.T) {
	t.Parallel()
	ctx, client := t.Context(), testkit.Redis(t)
	s := New(client)
	if err := client.Set(ctx, docKey("minilm", "damaged"), "not a hash", 0).Err(); err != nil {
		t.Fatal(err)
	}
	stored := storetest.Record("stored", "text", 5)
	if _, err := s.Put(ctx, stored); err != nil {
		t.Fatal(err)
	}
	foreign := storetest.Record("foreign", "text", 1)
	foreign.Space = storetest.SpaceB
	elsewhere := storetest.Record("elsewhere", "text", 1)
	elsewhere.Model, elsewhere.Space = "other", storetest.SpaceB
	rows := []struct {
		rec  vector.Record
		yes  bool
		want string // in the error
	}{
		{storetest.Record("a", "text", 1), true, ""},
		{storetest.Record("damaged", "text", 1), false, "WRONGTYPE"},
		{stored, false, ""},
		{storetest.Record("b", "older", 1), true, ""},
		{foreign, false, "space"},
		{elsewhere, true, ""},
		{storetest.Record("b", "newer", 2), true, ""},
		{storetest.Record("b", "older again", 1), false, ""},
		{storetest.FullRecord("c", "nine char", 1), true, ""},
	}
	writes := make([]*write, len(rows))
	for i, row := range rows {
		writes[i] = putOf(t, s, row.rec)
	}
	if n := len(grouped(writes)); n != 3 {
		t.Errorf("%d scripts, want one for each alias and space", n)
	}
	s.run(ctx, writes)
	for i, row := range rows {
		w := writes[i]
		if w.yes != row.yes || (w.err == nil) != (row.want == "") ||
			w.err != nil && !strings.Contains(w.err.Error(), row.want) {
			t.Errorf("%d, %s: %v, %v, want %v, %q", i, row.rec.Document.ID, w.yes, w.err, row.yes, row.want)
		}
	}
	var refused *store.SpaceError
	if !errors.As(writes[4].err, &refused) || refused.Current != storetest.SpaceA {
		t.Errorf("the record of another space: %v", writes[4].err)
	}
	if got, err := s.Get(ctx, "minilm", "b"); err != nil || got.Document.Text != "newer" {
		t.Errorf("b holds %q, %v, want the newer text", got.Document.Text, err)
	}
	stats, err := s.Stats(ctx, "minilm")
	if err != nil {
		t.Fatal(err)
	}
	chunks, tokens := 0, 0
	for _, id := range []string{"a", "b", "c", "stored"} {
		rec, err := s.Get(ctx, "minilm", id)
		if err != nil {
			t.Fatal(err)
		}
		chunks, tokens = chunks+len(rec.Chunks), tokens+rec.Tokens()
	}
	got := stats[storetest.SpaceA]
	if got.Documents != 4 || got.Chunks != int64(chunks) || got.Tokens != int64(tokens) || got.TextsTotal != 5 {
		t.Errorf("counts %+v, want 4 documents of 5 written, %d chunks, %d tokens", got, chunks, tokens)
	}
	// Numbers of the change log go up in the order of writing, and tell each document's last change.
	for id, want := range map[string]float64{"stored": 1, "a": 2, "b": 4, "c": 5} {
		if score, err := client.ZScore(ctx, changesKey("minilm"), id).Result(); score != want || err != nil {
			t.Errorf("%s has change number %v, %v, want %v", id, score, err, want)
		}
	}
}

// Where no document of a script is there before, none is looked at but those that the script itself has written.
func TestADocumentTwiceInANewScript(t *testing.T) {
	t.Parallel()
	s := New(testkit.Redis(t))
	var writes []*write
	for _, version := range []int64{2, 1, 3} {
		writes = append(writes, putOf(t, s, storetest.Record("new", fmt.Sprintf("version %d", version), version)))
	}
	s.run(t.Context(), writes)
	for i, want := range []bool{true, false, true} {
		if w := writes[i]; w.err != nil || w.yes != want {
			t.Errorf("write %d: %v, %v, want %v", i, w.yes, w.err, want)
		}
	}
	if got, err := s.Get(t.Context(), "minilm", "new"); err != nil || got.Document.Text != "version 3" {
		t.Errorf("the document is %q, %v", got.Document.Text, err)
	}
	if stats, err := s.Stats(t.Context(), "minilm"); err != nil || stats[storetest.SpaceA].Documents != 1 {
		t.Errorf("the counts are %+v, %v, want one document", stats, err)
	}
}

// TestScriptsAreBounded checks that no script takes more than its share, and that none is lost at the bounds.
func TestScriptsAreBounded(t *testing.T) {
	t.Parallel()
	s := New(testkit.Redis(t))
	var writes []*write
	for i := range 2*writesPerTrip + 1 {
		writes = append(writes, putOf(t, s, storetest.Record(fmt.Sprint(i), "short", 1)))
	}
	for i := range 3 {
		writes = append(writes, putOf(t, s, storetest.Record(fmt.Sprint("long", i), strings.Repeat("x", bytesPerScript*2/3), 1)))
	}
	var sizes []int
	for _, g := range grouped(writes) {
		sizes = append(sizes, len(g))
	}
	if want := []int{writesPerTrip, writesPerTrip, 2, 1, 1}; fmt.Sprint(sizes) != fmt.Sprint(want) {
		t.Errorf("scripts of %v records, want %v", sizes, want)
	}
	s.run(t.Context(), writes)
	for i, w := range writes {
		if !w.yes || w.err != nil {
			t.Fatalf("record %d: %v, %v", i, w.yes, w.err)
		}
	}
}

// A countedConn counts what is sent.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// TestABatchIsSentInOnePiece stores as many vectors as one of the engine's batches of short texts has.
func TestABatchIsSentInOnePiece(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	client := goredis.NewClient(&goredis.Options{
		Addr: testkit.Redis(t).Options().Addr,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return countedConn{c, &sent}, err
		},
	})
	t.Cleanup(func() { _ = client.Close() })
	s := New(client)
	batch := func(version int64) []*write {
		list := make([]*write, 50)
		for i := range list {
			rec := storetest.Record(fmt.Sprint(i), "text", version)
			rec.Chunks[0].Vector = make(vector.Vector, 384)
			list[i] = putOf(t, s, rec)
		}
		return list
	}
	s.run(t.Context(), batch(1)) // connects, and Redis learns the script
	sent.Store(0)
	second := batch(2)
	s.run(t.Context(), second)
	if err := second[0].err; err != nil || !second[49].yes {
		t.Fatal(second[49].yes, err)
	}
	if n := sent.Load(); n != 1 {
		t.Errorf("50 vectors of 1.5 KB were sent in %d pieces, want 1", n)
	}
}
