package tasks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/embedfleet/embedfleet/vector"
)

const (
	payloadVersion = 1
	promptVersion  = 2 // of a query that names its prompt

	// CompressAbove is the size of a JSON payload, in bytes, above which it travels compressed: the queue
	// repeats the payload of every active task on each heartbeat (docs/asynq.md T23).
	CompressAbove = 16 << 10

	// maxDecompressed bounds what a frame may grow to. A JSON string writes a control character in six
	// bytes, and everything beside the text stays well below 1 MB.
	maxDecompressed = 8 << 20
)

// A DocumentPayload is the payload of an [EmbedDocument] task.
type DocumentPayload struct {
	Model    string          `json:"model"`
	Version  int64           `json:"version"`
	Document vector.Document `json:"document"`
}

// A QueryPayload is the payload of an [EmbedQuery] task.
type QueryPayload struct {
	Model     string    `json:"model"`
	Text      string    `json:"text"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero: never
	Prompt    string    `json:"prompt,omitempty"`    // [AsDocument] or [AsIs]; "" is the query's own. Needs version 2
}

// The wire forms carry the version in front.
type (
	documentWire struct {
		V int `json:"v"`
		DocumentPayload
	}
	queryWire struct {
		V int `json:"v"`
		QueryPayload
	}
)

func (d DocumentPayload) check() error {
	if err := CheckModel(d.Model); err != nil {
		return err
	}
	if err := checkVersion(d.Version); err != nil {
		return err
	}
	return checkDocument(d.Document)
}

func (q QueryPayload) check() error {
	if err := CheckModel(q.Model); err != nil {
		return err
	}
	if q.Prompt != "" && q.Prompt != AsDocument && q.Prompt != AsIs {
		return invalid("prompt", BadSyntax, "is %q, want %q or %q, or none for a query's", q.Prompt, AsDocument, AsIs)
	}
	return checkText(q.Text)
}

func (d DocumentPayload) encode() ([]byte, error) {
	if !d.Document.PublishedAt.IsZero() {
		d.Document.PublishedAt = d.Document.PublishedAt.UTC()
	}
	return encode(documentWire{payloadVersion, d})
}

// encode writes version 2 only where it must, so that workers of the last release go on answering.
func (q QueryPayload) encode() ([]byte, error) {
	if q.Prompt != "" {
		return encode(queryWire{promptVersion, q})
	}
	return encode(queryWire{payloadVersion, q})
}

// DecodeDocument reads the payload of an [EmbedDocument] task and checks it as [New] would. Its errors are
// [*PayloadError], [*VersionError] and [*InvalidError].
func DecodeDocument(payload []byte) (DocumentPayload, error) {
	var w documentWire
	if err := decode(payload, &w, &w.V, payloadVersion); err != nil {
		return DocumentPayload{}, err
	}
	w.Document.Text = composed(w.Document.Text) // by a producer that did not use New
	return w.DocumentPayload, w.check()
}

// DecodeQuery reads the payload of an [EmbedQuery] task; see [DecodeDocument].
func DecodeQuery(payload []byte) (QueryPayload, error) {
	var w queryWire
	if err := decode(payload, &w, &w.V, promptVersion); err != nil {
		return QueryPayload{}, err
	}
	if w.Prompt != "" && w.V < promptVersion {
		return QueryPayload{}, &PayloadError{fmt.Errorf("v is %d, which knows no prompt", w.V)}
	}
	w.Text = composed(w.Text)
	return w.QueryPayload, w.check()
}

// encode returns the payload that carries wire: JSON, compressed where that is worth it.
func encode(wire any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // twice the bytes for nothing: no browser reads this
	if err := enc.Encode(wire); err != nil {
		return nil, fmt.Errorf("encoding payload: %w", err)
	}
	payload := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(payload) <= CompressAbove {
		return payload, nil
	}
	return compress(payload)
}

// decode reads payload into wire strictly; version points to wire's field V. A payload of another version
// (newest is the last we know) need not make sense to us, so the version is looked at before any complaint about the rest.
func decode(payload []byte, wire any, version *int, newest int) error {
	payload, err := decompress(payload)
	if err != nil {
		return &PayloadError{err}
	}
	if err = decodeStrictly(payload, wire); err != nil {
		var peek struct {
			V int `json:"v"`
		}
		if json.Unmarshal(payload, &peek) == nil && peek.V != 0 {
			*version = peek.V
		}
	}
	switch {
	case *version > newest:
		return &VersionError{*version}
	case err != nil:
		return &PayloadError{err}
	case *version < payloadVersion:
		return &PayloadError{fmt.Errorf("v is %d, want %d", *version, payloadVersion)}
	}
	return nil
}

// decodeStrictly accepts one JSON object in UTF-8 with known fields only. The JSON package would put
// replacement characters for broken UTF-8, and so change a text behind its producer's back.
func decodeStrictly(payload []byte, wire any) error {
	if !utf8.Valid(payload) {
		return errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(wire); err != nil {
		return redact(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

// redact strips from an error of the JSON package what could quote a text.
func redact(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("not JSON from byte %d on", syntax.Offset)
	}
	return err
}

// zstdMagic begins every zstd frame (RFC 8878, 3.1.1); no JSON text begins so.
var zstdMagic = []byte{0x28, 0xB5, 0x2F, 0xFD}

// compress returns p as one zstd frame. A codec is made for each call, so that none has to be shared or
// closed: a text of this size takes the model a thousand times longer.
func compress(p []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("compressing payload: %w", err)
	}
	defer enc.Close()
	return enc.EncodeAll(p, nil), nil
}

// decompress returns p itself unless it is a zstd frame.
func decompress(p []byte) ([]byte, error) {
	if !bytes.HasPrefix(p, zstdMagic) {
		if len(p) > maxDecompressed {
			return nil, fmt.Errorf("%d bytes, at most %d are accepted", len(p), maxDecompressed)
		}
		return p, nil
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxDecompressed), zstd.WithDecoderMaxWindow(maxDecompressed))
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	defer dec.Close()
	out, err := dec.DecodeAll(p, nil)
	if err != nil {
		return nil, fmt.Errorf("decompressing to at most %d bytes: %w", maxDecompressed, err)
	}
	return out, nil
}
