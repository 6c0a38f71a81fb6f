package asynqmon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// cutText is how many characters of a text are shown: enough to know it again.
	cutText = 120
	// firstValues of a vector are shown.
	firstValues = 4
)

// shown is what the page shows of a payload, in this order.
type shown struct {
	Kind        string     `json:"kind"` // first: withLane looks for it
	Model       string     `json:"model,omitempty"`
	Document    string     `json:"document,omitempty"`
	Title       string     `json:"title,omitempty"`
	Source      string     `json:"source,omitempty"`
	StockCodes  []string   `json:"stock_codes,omitempty"`
	PublishedAt time.Time  `json:"published_at,omitzero"`
	ExpiresAt   time.Time  `json:"expires_at,omitzero"`
	Version     int64      `json:"version,omitempty"`
	Text        string     `json:"text,omitempty"`
	TextBytes   int        `json:"text_bytes,omitempty"`
	Bytes       int        `json:"payload_bytes"` // as it is in Redis
	Problem     string     `json:"problem,omitempty"`
	Vector      *described `json:"vector,omitempty"`
}

// described is what is shown of a vector.
type described struct {
	Dim   int       `json:"dim"`
	Norm  float64   `json:"norm"`
	First []float32 `json:"first"`
}

// Payload shows what a task of a kind asks for: which document of which model, with the beginning of its text. A
// payload that no worker would take is shown as far as it can be read, with what is wrong.
func Payload(kind string, payload []byte) string {
	s := shown{Kind: kind, Bytes: len(payload)}
	var err error
	switch tasks.Kind(kind) {
	case tasks.EmbedDocument:
		var d tasks.DocumentPayload
		d, err = tasks.DecodeDocument(payload)
		s.Model, s.Version = d.Model, d.Version
		s.document(d.Document)
	case tasks.EmbedQuery:
		var q tasks.QueryPayload
		q, err = tasks.DecodeQuery(payload)
		s.Model, s.ExpiresAt = q.Model, q.ExpiresAt
		s.text(q.Text)
	default:
		err = fmt.Errorf("not a task of this fleet: its %d bytes are not shown", len(payload))
	}
	if err != nil {
		s.Problem = err.Error()
	}
	return s.String()
}

func (s *shown) document(d vector.Document) {
	s.Document, s.Source, s.StockCodes, s.PublishedAt = d.ID, d.Source, d.StockCodes, d.PublishedAt
	s.Title = cut(d.Title)
	s.text(d.Text)
}

func (s *shown) text(text string) { s.Text, s.TextBytes = cut(text), len(text) }

func (s shown) String() string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // React escapes; twice would show &lt;
	if err := enc.Encode(s); err != nil {
		return fmt.Sprintf("a payload that can't be shown: %v", err)
	}
	return string(bytes.TrimSpace(b.Bytes()))
}

// cut returns the beginning of a text, cut between characters.
func cut(text string) string {
	n := 0
	for at := range text {
		if n == cutText {
			return text[:at] + "…"
		}
		n++
	}
	return text
}

// Result shows what a task left behind. Vectors, which are most of it and tell nobody anything, are described:
// dimension, length, first values.
func Result(kind string, result []byte) string {
	s := shown{Kind: kind, Bytes: len(result)}
	var e vector.Embedding
	if json.Unmarshal(result, &e) == nil && len(e.Vector) > 0 {
		s.Vector = describe(e.Vector)
		return s.String()
	}
	if v, err := vector.Parse(result); err == nil && v.Check(len(v)) == nil && !printable(result) {
		s.Vector = describe(v)
		return s.String()
	}
	if !printable(result) {
		return fmt.Sprintf("%d bytes that are neither text nor a vector", len(result))
	}
	return cut(string(result))
}

func describe(v vector.Vector) *described {
	return &described{Dim: len(v), Norm: v.Norm(), First: v[:min(firstValues, len(v))]}
}

// printable reports whether b is text.
func printable(b []byte) bool {
	return bytes.IndexFunc(b, func(r rune) bool { return r == '\uFFFD' || r < ' ' && r != '\n' && r != '\t' }) < 0
}
