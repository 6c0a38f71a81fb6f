package redis_test

import (
	"slices"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/vector"
)

func TestStored(t *testing.T) {
	t.Parallel()
	m, client := testkit.MiniRedis(t)
	s := storeredis.New(client)
	hash := vector.TextHash("x")
	asked := []storeredis.Text{
		{Document: "none", Hash: hash, Version: 1},
		{Document: "a", Hash: hash, Version: 7},                     // this very text, stored in another version
		{Document: "a", Hash: vector.TextHash("older"), Version: 4}, // overtaken by a newer one
		{Document: "a", Hash: vector.TextHash("newer"), Version: 6}, // not there yet
	}
	expect := func(want ...bool) {
		t.Helper()
		if got, err := s.Stored(t.Context(), "m", asked); err != nil || !slices.Equal(got, want) {
			t.Errorf("Stored = %v, %v, want %v", got, err, want)
		}
	}
	expect(false, false, false, false)
	rec := vector.Record{
		Document: vector.Document{ID: "a", Text: "x"}, Model: "m", Space: "s", TextHash: hash, Version: 5,
		Chunks: []vector.Chunk{{End: 1, Embedding: vector.Embedding{Vector: vector.Vector{1}, Tokens: 1}}},
	}
	if _, err := s.Put(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	expect(false, true, true, false)
	// Vectors of another model are of no use to who waits for this one's.
	if err := s.ClaimSpace(t.Context(), "m", "s2", store.ReEmbed); err != nil {
		t.Fatal(err)
	}
	expect(false, false, false, false)
	m.SetError("away")
	if got, err := s.Stored(t.Context(), "m", asked); err == nil {
		t.Errorf("of a Redis that is away: %v", got)
	}
}
