package gateway

import (
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/vector"
)

// A SearchAnswer is the JSON form of a search's result; the command line prints the same.
type SearchAnswer struct {
	Hits        []Hit   `json:"hits"`
	Space       string  `json:"space"`
	Documents   int     `json:"documents"` // that were searched
	EmbeddingMS float64 `json:"embedding_ms"`
	ScanMS      float64 `json:"scan_ms"`
}

// A Hit is one found document.
type Hit struct {
	ID          string            `json:"id"`
	Score       float64           `json:"score"` // cosine, -1 to 1
	Title       string            `json:"title,omitempty"`
	Snippet     string            `json:"snippet"`
	Source      string            `json:"source,omitempty"`
	URL         string            `json:"url,omitempty"`
	PublishedAt time.Time         `json:"published_at,omitzero"`
	StockCodes  []string          `json:"stock_codes,omitempty"`
	Fields      map[string]string `json:"fields,omitempty"`
	Chunk       int               `json:"chunk"` // the one that came nearest, from 0
	Start       int               `json:"start"` // in bytes of the document's text
	End         int               `json:"end"`
}

// NewSearchAnswer returns the JSON form of r.
func NewSearchAnswer(r search.Result) SearchAnswer {
	a := SearchAnswer{
		Hits: make([]Hit, 0, len(r.Hits)), Space: string(r.Space), Documents: r.Documents,
		EmbeddingMS: milliseconds(r.Embedding), ScanMS: milliseconds(r.Scan),
	}
	for _, h := range r.Hits {
		d := h.Document
		a.Hits = append(a.Hits, Hit{
			ID: d.ID, Score: h.Score, Title: d.Title, Snippet: h.Snippet, Source: d.Source, URL: d.URL,
			PublishedAt: d.PublishedAt, StockCodes: d.StockCodes, Fields: d.Fields,
			Chunk: h.Chunk, Start: h.Start, End: h.End,
		})
	}
	return a
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// A DocumentAnswer is the JSON form of what a store holds of one document.
type DocumentAnswer struct {
	Document vector.Document `json:"document"`
	Model    string          `json:"model"`
	Space    string          `json:"space"`
	TextHash string          `json:"text_hash"`
	Version  int64           `json:"version"`
	Chunks   []Chunk         `json:"chunks"`
}

// A Chunk is one window of the text.
type Chunk struct {
	Start     int           `json:"start"`
	End       int           `json:"end"`
	Tokens    int           `json:"tokens"`
	Truncated bool          `json:"truncated"`
	Dim       int           `json:"dim"`
	Vector    vector.Vector `json:"vector,omitempty"`
}

// NewDocumentAnswer returns the JSON form of rec, vectors included.
func NewDocumentAnswer(rec vector.Record) DocumentAnswer {
	a := DocumentAnswer{
		Document: rec.Document, Model: rec.Model, Space: string(rec.Space), TextHash: rec.TextHash,
		Version: rec.Version, Chunks: make([]Chunk, 0, len(rec.Chunks)),
	}
	for _, c := range rec.Chunks {
		a.Chunks = append(a.Chunks, Chunk{
			Start: c.Start, End: c.End, Tokens: c.Tokens, Truncated: c.Truncated, Dim: len(c.Vector), Vector: c.Vector,
		})
	}
	return a
}

// WithoutVectors returns a without the vectors' values, which are most of its size.
func (a DocumentAnswer) WithoutVectors() DocumentAnswer {
	a.Chunks = slices.Clone(a.Chunks)
	for i := range a.Chunks {
		a.Chunks[i].Vector = nil
	}
	return a
}
