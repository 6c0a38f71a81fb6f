package vector_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

func TestSpaceShort(t *testing.T) {
	t.Parallel()
	for s, want := range map[vector.Space]string{
		"":                 "",
		"abc":              "abc",
		"0123456789ab":     "0123456789ab",
		"0123456789abcdef": "0123456789ab",
	} {
		if got := s.Short(); got != want {
			t.Errorf("%q in short is %q, want %q", s, got, want)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	var rec vector.Record
	if got := rec.Tokens(); got != 0 {
		t.Errorf("a record without chunks has %d tokens", got)
	}
	for _, n := range []int{3, 0, 5} {
		rec.Chunks = append(rec.Chunks, vector.Chunk{Embedding: vector.Embedding{Tokens: n}})
	}
	if got := rec.Tokens(); got != 8 {
		t.Errorf("tokens of all chunks = %d, want 8", got)
	}
}

// TestTextHash pins the hash with values of sha256sum: ids of tasks and records hang on it.
func TestTextHash(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"한글":  "bd87f9bb68b67d2fa1cb82b6751820e946d5b1316d25d5fd96512fb4be44a2a8",
	} {
		if got := vector.TextHash(text); got != want {
			t.Errorf("TextHash(%q) = %s, want %s", text, got, want)
		}
	}
	if vector.TextHash("\u1112\u1161\u11ab") == vector.TextHash("한") {
		t.Error("the hash composes Hangul, which is the affair of package tasks")
	}
}

// TestDocumentJSON pins the names that producers write and stores keep; what is absent is left out.
func TestDocumentJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		doc  vector.Document
		want string
	}{
		{vector.Document{ID: "d", Text: "t"}, `{"id":"d","text":"t"}`},
		{vector.Document{
			ID: "d", Text: "t", Title: "T", Source: "s", URL: "u", StockCodes: []string{"005930"},
			PublishedAt: time.Date(2022, 1, 3, 0, 0, 0, 0, time.UTC), Fields: map[string]string{"k": "v"},
		}, `{"id":"d","text":"t","title":"T","source":"s","url":"u","published_at":"2022-01-03T00:00:00Z",` +
			`"stock_codes":["005930"],"fields":{"k":"v"}}`},
	} {
		if got, err := json.Marshal(tt.doc); err != nil || string(got) != tt.want {
			t.Errorf("JSON is %s, %v, want %s", got, err, tt.want)
		}
	}
	e := vector.Embedding{Vector: vector.Vector{0.5}, Tokens: 3, Truncated: true}
	if got, err := json.Marshal(e); err != nil || string(got) != `{"vector":[0.5],"tokens":3,"truncated":true}` {
		t.Errorf("JSON of an embedding is %s, %v", got, err)
	}
}
