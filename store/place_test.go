package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/vector"
)

// published is a record with a time of publication, n days after the first of January; none for n < 0.
func published(id string, n int) vector.Record {
	rec := storetest.Record(id, id, storetest.Version)
	if n >= 0 {
		rec.Document.PublishedAt = time.Date(2022, 1, 1+n, 0, 0, 0, 0, time.UTC)
	}
	return rec
}

func TestNewest(t *testing.T) {
	t.Parallel()
	b := setup()
	b.put(t, published("old", 0), published("timeless", -1), published("new", 5), published("middle", 3))
	for n, want := range map[int]string{0: "[]", 1: "[new]", 3: "[new middle old]", 9: "[new middle old timeless]"} {
		var ids []string
		for _, p := range b.Newest(n) {
			ids = append(ids, p.Document.ID)
			if err := p.Vector.CheckUnit(8); err != nil || p.Document.Text != "" {
				t.Errorf("%s: %v, text %q", p.Document.ID, err, p.Document.Text)
			}
		}
		if got := fmt.Sprint(ids); got != want {
			t.Errorf("newest %d: %s, want %s", n, got, want)
		}
	}
	before := b.Last()
	if b.sync(t); b.Last() != before {
		t.Error("nothing changed, but the number did")
	}
	if b.put(t, published("newest", 9)); b.Last() == before || b.Newest(1)[0].Document.ID != "newest" {
		t.Error("a new document changed nothing")
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	b := setup()
	long := storetest.FullRecord("long", "the first part, the second part and the rest", storetest.Version)
	opposed := storetest.Record("opposed", "xy", storetest.Version)
	opposed.Chunks = []vector.Chunk{storetest.Chunk("xy", 0, 1), storetest.Chunk("xy", 1, 2)}
	for i, v := range opposed.Chunks[0].Vector {
		opposed.Chunks[1].Vector[i] = -v
	}
	b.put(t, storetest.Record("short", "short", storetest.Version), long, opposed)

	if p, err := b.Place("short"); err != nil || !slices.Equal(p.Vector, storetest.Vector("short", 8)) {
		t.Errorf("of one chunk: %v, %v", p.Vector, err)
	}
	p, err := b.Place("long")
	if err != nil || p.Vector.CheckUnit(8) != nil || p.Document.Source != "dart" {
		t.Errorf("of three chunks: %v, %v", p, err)
	}
	var mean vector.Vector = make([]float32, 8)
	for _, c := range long.Chunks {
		for i, v := range c.Vector {
			mean[i] += v
		}
	}
	if cos := p.Vector.Cosine(mean); cos < 0.99999 {
		t.Errorf("cosine to the mean of the chunks is %f", cos)
	}
	if p, err := b.Place("opposed"); err != nil || !slices.Equal(p.Vector, opposed.Chunks[0].Vector) {
		t.Errorf("of chunks that cancel each other out: %v, %v", p.Vector, err)
	}
	if _, err := b.Place("nothing"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of no document: %v", err)
	}
}
