package redis

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// The fields of a document's hash, see doc.go. Names of up to 13 bytes all cost the same 16.
const (
	fieldText     = "text"
	fieldMeta     = "meta"
	fieldTextHash = "text_hash"
	fieldVersion  = "version"
	fieldSpace    = "space"
	fieldChunks   = "chunks"
	fieldVectors  = "vectors"
)

// documentFields is the order in which a document's fields are asked for.
var documentFields = [...]string{
	fieldText, fieldMeta, fieldTextHash, fieldVersion, fieldSpace, fieldChunks, fieldVectors,
}

// meta is the JSON of the field of that name. It is a type of its own, not vector.Document, because what is
// stored must not change when a producer's form does.
type meta struct {
	Title       string            `json:"title,omitempty"`
	Source      string            `json:"source,omitempty"`
	URL         string            `json:"url,omitempty"`
	PublishedAt time.Time         `json:"published_at,omitzero"`
	StockCodes  []string          `json:"stock_codes,omitempty"`
	Fields      map[string]string `json:"fields,omitempty"`
}

// encodeMeta returns what is kept of d beside its text.
func encodeMeta(d vector.Document) (string, error) {
	if d.Title == "" && d.Source == "" && d.URL == "" && d.PublishedAt.IsZero() && len(d.StockCodes) == 0 && len(d.Fields) == 0 {
		return "{}", nil // as the encoder would, which is asked twice for every text
	}
	m := meta{Title: d.Title, Source: d.Source, URL: d.URL, StockCodes: d.StockCodes, Fields: d.Fields}
	if !d.PublishedAt.IsZero() {
		m.PublishedAt = d.PublishedAt.UTC()
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // an URL's & in one byte, not six
	if err := enc.Encode(m); err != nil {
		return "", fmt.Errorf("encoding the metadata of document %q: %w", d.ID, err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// encodeChunks returns the fields "chunks" and "vectors" of rec. It refuses what could not be read back:
// only the number of chunks tells where a vector ends, so all must have one dimension.
func encodeChunks(rec vector.Record) (chunks, vectors []byte, err error) {
	if len(rec.Chunks) == 0 {
		return nil, nil, fmt.Errorf("document %q has no vectors", rec.Document.ID)
	}
	dim := len(rec.Chunks[0].Vector)
	vectors = make([]byte, 0, 4*dim*len(rec.Chunks))
	sep := byte('[')
	for i, c := range rec.Chunks {
		if len(c.Vector) != dim || dim == 0 {
			return nil, nil, fmt.Errorf("document %q: chunk %d has %d dimensions, chunk 0 has %d",
				rec.Document.ID, i, len(c.Vector), dim)
		}
		truncated := 0
		if c.Truncated {
			truncated = 1
		}
		chunks = append(chunks, sep)
		sep = '['
		for _, n := range [...]int{c.Start, c.End, c.Tokens, truncated} {
			chunks = strconv.AppendInt(append(chunks, sep), int64(n), 10)
			sep = ','
		}
		chunks = append(chunks, ']')
		vectors = c.Vector.AppendBytes(vectors)
	}
	return append(chunks, ']'), vectors, nil
}

// decodeChunks reads the two fields that encodeChunks writes, for a text of textBytes.
func decodeChunks(chunks, vectors string, textBytes int) ([]vector.Chunk, error) {
	var spans [][4]int
	if err := json.Unmarshal([]byte(chunks), &spans); err != nil {
		return nil, fmt.Errorf("reading field %s: %w", fieldChunks, err)
	}
	all, err := vector.Parse([]byte(vectors))
	if err != nil {
		return nil, fmt.Errorf("reading field %s: %w", fieldVectors, err)
	}
	if len(spans) == 0 || len(all)%len(spans) != 0 {
		return nil, fmt.Errorf("field %s has %d values for %d chunks", fieldVectors, len(all), len(spans))
	}
	dim := len(all) / len(spans)
	out := make([]vector.Chunk, len(spans))
	for i, s := range spans {
		if s[0] < 0 || s[0] > s[1] || s[1] > textBytes {
			return nil, fmt.Errorf("field %s: chunk %d spans bytes %d to %d of a text of %d",
				fieldChunks, i, s[0], s[1], textBytes)
		}
		out[i] = vector.Chunk{Start: s[0], End: s[1], Embedding: vector.Embedding{
			Vector:    all[i*dim : (i+1)*dim : (i+1)*dim], // an append must not reach the next one
			Tokens:    s[2],
			Truncated: s[3] != 0,
		}}
	}
	return out, nil
}

// byField names the values of documentFields. A document that is not there has none.
func byField(values []any) map[string]string {
	fields := make(map[string]string, len(values))
	for i, v := range values {
		if s, ok := v.(string); ok {
			fields[documentFields[i]] = s
		}
	}
	return fields
}

// decodeRecord reads what byField returned. Its error names the key of a document that somebody has damaged.
func decodeRecord(alias, id string, fields map[string]string) (vector.Record, error) {
	rec, err := decodeFields(fields)
	if err != nil {
		return vector.Record{}, fmt.Errorf("document %q in key %s: %w", id, docKey(alias, id), err)
	}
	rec.Model, rec.Document.ID = alias, id
	return rec, nil
}

func decodeFields(fields map[string]string) (vector.Record, error) {
	for _, f := range documentFields {
		if _, ok := fields[f]; !ok {
			return vector.Record{}, fmt.Errorf("field %s is missing", f)
		}
	}
	var m meta
	if err := json.Unmarshal([]byte(fields[fieldMeta]), &m); err != nil {
		return vector.Record{}, fmt.Errorf("reading field %s: %w", fieldMeta, err)
	}
	version, err := strconv.ParseInt(fields[fieldVersion], 10, 64)
	if err != nil {
		return vector.Record{}, fmt.Errorf("reading field %s: %w", fieldVersion, err)
	}
	chunks, err := decodeChunks(fields[fieldChunks], fields[fieldVectors], len(fields[fieldText]))
	if err != nil {
		return vector.Record{}, err
	}
	return vector.Record{
		Document: vector.Document{
			Text: fields[fieldText], Title: m.Title, Source: m.Source, URL: m.URL,
			PublishedAt: m.PublishedAt, StockCodes: m.StockCodes, Fields: m.Fields,
		},
		Space:    vector.Space(fields[fieldSpace]),
		TextHash: fields[fieldTextHash],
		Version:  version,
		Chunks:   chunks,
	}, nil
}

// An answerHead is the first line of an answer.
type answerHead struct {
	Tokens    int          `json:"tokens,omitempty"`
	Truncated bool         `json:"truncated,omitempty"`
	TokensIn  int          `json:"tokens_in,omitempty"`
	Error     string       `json:"error,omitempty"`
	Code      string       `json:"code,omitempty"`
	Space     vector.Space `json:"space,omitempty"` // of the vector
}

// encodeAnswer returns the element of an answer's list.
func encodeAnswer(e vector.Embedding, failure error) ([]byte, error) {
	head := answerHead{Tokens: e.Tokens, Truncated: e.Truncated, TokensIn: e.TokensIn, Space: e.Space}
	if failure != nil {
		head = answerHead{Error: failure.Error()}
		var c interface{ Code() string }
		if errors.As(failure, &c) {
			head.Code = c.Code()
		}
	}
	b, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	b = append(b, '\n')
	if failure == nil {
		b = e.Vector.AppendBytes(b)
	}
	return b, nil
}
