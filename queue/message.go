package queue

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// asynqVersion is the version whose message and key formats this room writes. A test fails when go.mod
// names another: read asynq's changes, then raise it.
const asynqVersion = "v0.26.0"

// Field numbers of asynq's TaskMessage (internal/proto/asynq.proto of asynq 0.26).
const (
	fieldType         = 1
	fieldPayload      = 2
	fieldID           = 3
	fieldQueue        = 4
	fieldRetry        = 5
	fieldRetried      = 6
	fieldErrorMsg     = 7
	fieldTimeout      = 8
	fieldLastFailedAt = 11
	fieldRetention    = 12
	fieldHeaders      = 15 // map<string, string>: an entry has its name as field 1, its value as field 2
)

// expiresHeader names the header that says when nobody waits for a task any more, in RFC 3339. asynq's own
// deadline is of no use for that: a task whose deadline has passed is retried until it dies (T12).
const expiresHeader = "expires_at"

// traceHeader names the header with the span that enqueued the task, as W3C has it.
const traceHeader = "traceparent"

// A message is the part of asynq's TaskMessage that this room writes or reads. The rest of asynq's fields
// (deadline, unique key, group, other headers) stay empty in everything we enqueue.
type message struct {
	Type         string
	Payload      []byte
	ID           string
	Queue        string
	Retry        int           // how often it may be retried
	Retried      int           // how often it was
	ErrorMsg     string        // cause of the last failure
	Timeout      time.Duration // whole seconds
	LastFailedAt time.Time     // zero if it never failed
	Retention    time.Duration // whole seconds
	Expires      time.Time     // header expiresHeader; zero: never
	Trace        string        // header traceHeader; "" for none
	Other        bool          // it has a field that this room does not write; only read
}

// append appends the wire form of m to dst: fields in the order of their numbers, zero values left out, as
// asynq's generated code does.
func (m *message) append(dst []byte) []byte {
	dst = appendBytes(dst, fieldType, m.Type)
	dst = appendBytes(dst, fieldPayload, m.Payload)
	dst = appendBytes(dst, fieldID, m.ID)
	dst = appendBytes(dst, fieldQueue, m.Queue)
	dst = appendVarint(dst, fieldRetry, int64(m.Retry))
	dst = appendVarint(dst, fieldRetried, int64(m.Retried))
	dst = appendBytes(dst, fieldErrorMsg, m.ErrorMsg)
	dst = appendVarint(dst, fieldTimeout, int64(m.Timeout/time.Second))
	if !m.LastFailedAt.IsZero() {
		dst = appendVarint(dst, fieldLastFailedAt, m.LastFailedAt.Unix())
	}
	dst = appendVarint(dst, fieldRetention, int64(m.Retention/time.Second))
	if !m.Expires.IsZero() {
		dst = appendHeader(dst, expiresHeader, m.Expires.UTC().Format(time.RFC3339Nano))
	}
	if m.Trace != "" {
		dst = appendHeader(dst, traceHeader, m.Trace)
	}
	return dst
}

func appendHeader(dst []byte, name, value string) []byte {
	return appendBytes(dst, fieldHeaders, appendBytes(appendBytes(nil, 1, name), 2, value))
}

func appendBytes[T string | []byte](dst []byte, num protowire.Number, v T) []byte {
	if len(v) == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	return append(protowire.AppendVarint(dst, uint64(len(v))), v...)
}

func appendVarint(dst []byte, num protowire.Number, v int64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), uint64(v))
}

// parseMessage reads a message and skips the fields it does not know. The result shares b's memory.
func parseMessage(b []byte) (*message, error) {
	var m message
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, fmt.Errorf("reading a task message: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				m.setBytes(num, v)
			}
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				m.setVarint(num, int64(v))
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return nil, fmt.Errorf("reading field %d of a task message: %w", num, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return &m, nil
}

func (m *message) setBytes(num protowire.Number, v []byte) {
	switch num {
	case fieldType:
		m.Type = string(v)
	case fieldPayload:
		m.Payload = v
	case fieldID:
		m.ID = string(v)
	case fieldQueue:
		m.Queue = string(v)
	case fieldErrorMsg:
		m.ErrorMsg = string(v)
	case fieldHeaders:
		m.setHeader(v)
	default:
		m.Other = true
	}
}

// setHeader reads an entry of the headers and passes over those it does not know, or can't read.
func (m *message) setHeader(entry []byte) {
	var words [2]string
	for len(entry) > 0 {
		num, typ, n := protowire.ConsumeTag(entry)
		if n < 0 || typ != protowire.BytesType || num > 2 {
			return
		}
		v, size := protowire.ConsumeBytes(entry[n:])
		if size < 0 {
			return
		}
		words[num-1], entry = string(v), entry[n+size:]
	}
	switch words[0] {
	case expiresHeader:
		m.Expires = parseExpires(words[1])
	case traceHeader:
		m.Trace = words[1]
	}
}

// parseExpires reads a header's value, the zero time if it can't: then the task never expires.
func parseExpires(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

func (m *message) setVarint(num protowire.Number, v int64) {
	switch num {
	case fieldRetry:
		m.Retry = int(v)
	case fieldRetried:
		m.Retried = int(v)
	case fieldTimeout:
		m.Timeout = seconds(v)
	case fieldLastFailedAt:
		if v != 0 {
			m.LastFailedAt = time.Unix(v, 0)
		}
	case fieldRetention:
		m.Retention = seconds(v)
	default:
		m.Other = true
	}
}

// seconds is a duration of v seconds, or the nearest that a time.Duration can hold and that makes sense.
func seconds(v int64) time.Duration {
	return time.Duration(min(max(v, 0), int64(math.MaxInt64/time.Second))) * time.Second
}
