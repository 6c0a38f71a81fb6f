package storetest

import (
	"math"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Two spaces.
const (
	SpaceA vector.Space = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	SpaceB vector.Space = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// Version is a version as producers make them by default: nanoseconds, more than a float64 can tell apart.
const Version int64 = 1641180600000000000

// Record returns a record of alias "minilm" in [SpaceA] with one chunk that spans the text. Its vector has
// 8 dimensions and depends on the text.
func Record(id, text string, version int64) vector.Record {
	return vector.Record{
		Document: vector.Document{ID: id, Text: text},
		Model:    "minilm",
		Space:    SpaceA,
		TextHash: vector.TextHash(text),
		Version:  version,
		Chunks:   []vector.Chunk{Chunk(text, 0, len(text))},
	}
}

// FullRecord is a [Record] with every field set, and three chunks.
func FullRecord(id, text string, version int64) vector.Record {
	rec := Record(id, text, version)
	rec.Document = vector.Document{
		ID:          id,
		Text:        text,
		Title:       "삼성전자 <분기보고서> \"1\"",
		Source:      "dart",
		URL:         "https://example.com/?a=1&b=2",
		PublishedAt: time.Date(2022, 1, 3, 3, 30, 0, 123456789, time.UTC),
		StockCodes:  []string{"005930", "000660"},
		Fields:      map[string]string{"kind": "filing", "empty": ""},
	}
	third := len(text) / 3
	rec.Chunks = []vector.Chunk{Chunk(text, 0, third), Chunk(text, third, 2*third), Chunk(text, 2*third-1, len(text))}
	rec.Chunks[2].Truncated = true
	return rec
}

// Chunk returns a chunk of text with one token per byte.
func Chunk(text string, start, end int) vector.Chunk {
	return vector.Chunk{Start: start, End: end, Embedding: vector.Embedding{
		Vector: Vector(text[start:end], 8),
		Tokens: end - start,
	}}
}

// Vector returns a vector of unit length that depends on the text's hash, of up to 64 dimensions.
func Vector(text string, dim int) vector.Vector {
	v := make(vector.Vector, dim)
	var sum float64
	for i, c := range []byte(vector.TextHash(text))[:dim] {
		v[i] = float32(c) - 77 // between the digits and the letters
		sum += float64(v[i]) * float64(v[i])
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
	return v
}
