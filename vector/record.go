package vector

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// A Space names the vector space of a model: the hex SHA-256 over everything that changes a vector
// (weights, tokenizer, pooling, prompts, precision ...). Vectors of two spaces must never be compared.
type Space string

// Short returns the first 12 digits, enough for a log line or a table.
func (s Space) Short() string { return string(s[:min(12, len(s))]) }

// An Embedding is the outcome of one text.
type Embedding struct {
	Vector    Vector `json:"vector"`
	Tokens    int    `json:"tokens"`    // tokens the model read, special ones included
	Truncated bool   `json:"truncated"` // the text had more tokens than the model reads
	// TokensIn is the tokens of the whole text where it is truncated and its embedder counted them, else 0.
	TokensIn int `json:"tokens_in,omitempty"`
	// Space is the vector's, where it is not known from elsewhere: a search text's vector may come from any
	// worker, and while an alias changes its space there are workers of two.
	Space Space `json:"space,omitempty"`
}

// A Chunk is a window of a document's text that fits the model. A short document is one chunk.
type Chunk struct {
	Start, End int // bytes of the document's text: text[Start:End] is what the vector stands for
	Embedding
}

// A Document is what a producer hands in. Only ID and Text are needed; Text is what is embedded, the rest
// is kept beside the vectors and can be filtered on.
type Document struct {
	ID          string            `json:"id"`
	Text        string            `json:"text"`
	Title       string            `json:"title,omitempty"`
	Source      string            `json:"source,omitempty"`
	URL         string            `json:"url,omitempty"`
	PublishedAt time.Time         `json:"published_at,omitzero"`
	StockCodes  []string          `json:"stock_codes,omitempty"`
	Fields      map[string]string `json:"fields,omitempty"` // anything else, as strings
}

// A Record is what a store keeps of one document under one model: the document, the hash of the text that
// was embedded, and its chunks' vectors in the order of the text.
type Record struct {
	Document Document
	Model    string // alias
	Space    Space
	TextHash string // TextHash(Document.Text)
	Version  int64  // the producer's version, by default nanoseconds of the Unix clock at enqueue; higher wins
	Chunks   []Chunk
}

// Embedded is the outcome of one of several texts that are embedded together: its chunks, or why there are none.
type Embedded struct {
	Index  int // of the text among those that were handed in
	Chunks []Chunk
	Err    error
}

// An Answer is the outcome of a query.
type Answer struct {
	ID        string // the query's task
	Embedding Embedding
	Failure   error // why there is no vector; or nil
}

// Tokens returns the tokens of all chunks together.
func (r Record) Tokens() (n int) {
	for _, c := range r.Chunks {
		n += c.Tokens
	}
	return n
}

// TextHash returns the hex SHA-256 of a text, 64 digits. Equal hashes under one space mean equal vectors.
func TextHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
