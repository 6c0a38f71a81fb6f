package redis_test

import (
	"slices"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/vector"
)

func TestTextHashes(t *testing.T) {
	t.Parallel()
	m, client := testkit.MiniRedis(t)
	s := storeredis.New(client)
	rec := vector.Record{
		Document: vector.Document{ID: "a", Text: "x"}, Model: "m", Space: "s", TextHash: vector.TextHash("x"), Version: 1,
		Chunks: []vector.Chunk{{End: 1, Embedding: vector.Embedding{Vector: vector.Vector{1}, Tokens: 1}}},
	}
	if _, err := s.Put(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	got, err := s.TextHashes(t.Context(), "m", []string{"none", "a"})
	if want := []string{"", rec.TextHash}; err != nil || !slices.Equal(got, want) {
		t.Errorf("TextHashes = %q, %v, want %q", got, err, want)
	}
	if got, err := s.TextHashes(t.Context(), "m", nil); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %q, %v", got, err)
	}
	m.SetError("away")
	if got, err := s.TextHashes(t.Context(), "m", []string{"a"}); err == nil || got != nil {
		t.Errorf("of a Redis that is away: %q, %v", got, err)
	}
}
