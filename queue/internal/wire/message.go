package wire

import (
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// AsynqVersion is the version whose message and key formats this room writes. A test fails when go.mod
// names another: read asynq's changes, then raise it.
const AsynqVersion = "v0.26.0"

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
	fieldUniqueKey    = 10
	fieldLastFailedAt = 11
	fieldRetention    = 12
	fieldCompletedAt  = 13
	fieldHeaders      = 15 // map<string, string>: an entry has its name as field 1, its value as field 2
)

// expiresHeader names the header that says when nobody waits for a task any more, in RFC 3339. asynq's own
// deadline is of no use for that: a task whose deadline has passed is retried until it dies (T12).
const expiresHeader = "expires_at"

// traceHeader names the header with the span that enqueued the task, as W3C has it.
const traceHeader = "traceparent"

// A Message is the part of asynq's TaskMessage that this room writes or reads. The rest of asynq's fields
// (deadline, unique key, group, other headers) stay empty in everything we enqueue.
type Message struct {
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
	UniqueKey    string        // of a lock that a producer of another program took; never written
	Other        bool          // it has a field that this room does not write; only read
}

// Append appends the wire form of m to dst: fields in the order of their numbers, zero values left out, as
// asynq's generated code does.
func (m *Message) Append(dst []byte) []byte {
	dst = AppendBytes(dst, fieldType, m.Type)
	dst = AppendBytes(dst, fieldPayload, m.Payload)
	dst = AppendBytes(dst, fieldID, m.ID)
	dst = AppendBytes(dst, fieldQueue, m.Queue)
	dst = AppendVarint(dst, fieldRetry, int64(m.Retry))
	dst = AppendVarint(dst, fieldRetried, int64(m.Retried))
	dst = AppendBytes(dst, fieldErrorMsg, m.ErrorMsg)
	dst = AppendVarint(dst, fieldTimeout, int64(m.Timeout/time.Second))
	if !m.LastFailedAt.IsZero() {
		dst = AppendVarint(dst, fieldLastFailedAt, m.LastFailedAt.Unix())
	}
	dst = AppendVarint(dst, fieldRetention, int64(m.Retention/time.Second))
	if !m.Expires.IsZero() {
		dst = appendHeader(dst, expiresHeader, m.Expires.UTC().Format(time.RFC3339Nano))
	}
	if m.Trace != "" {
		dst = appendHeader(dst, traceHeader, m.Trace)
	}
	return dst
}

func appendHeader(dst []byte, name, value string) []byte {
	return AppendBytes(dst, fieldHeaders, AppendBytes(AppendBytes(nil, 1, name), 2, value))
}

func AppendBytes[T string | []byte](dst []byte, num protowire.Number, v T) []byte {
	if len(v) == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	return append(protowire.AppendVarint(dst, uint64(len(v))), v...)
}

func AppendVarint(dst []byte, num protowire.Number, v int64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), uint64(v))
}

// ParseMessage reads a message and skips the fields it does not know. The result shares b's memory.
func ParseMessage(b []byte) (*Message, error) {
	var m Message
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

func (m *Message) setBytes(num protowire.Number, v []byte) {
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
	case fieldUniqueKey:
		m.UniqueKey = string(v)
	case fieldHeaders:
		m.setHeader(v)
	default:
		m.Other = true
	}
}

// setHeader reads an entry of the headers and passes over those it does not know, or can't read.
func (m *Message) setHeader(entry []byte) {
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

func (m *Message) setVarint(num protowire.Number, v int64) {
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

// Failed returns a message after a try that failed: everything as it was, but how often it was retried, why it failed
// the last time, and when. Fields that this room does not know stay.
func Failed(raw string, retried int, cause string, at time.Time) []byte {
	dst := without(raw, fieldRetried, fieldErrorMsg, fieldLastFailedAt)
	dst = AppendVarint(dst, fieldRetried, int64(retried))
	dst = AppendBytes(dst, fieldErrorMsg, cause)
	return AppendVarint(dst, fieldLastFailedAt, at.Unix())
}

// Completed returns the message of a task that is done and remembered.
func Completed(raw string, at time.Time) []byte {
	return AppendVarint(without(raw, fieldCompletedAt), fieldCompletedAt, at.Unix())
}

// without returns a message without some of its fields. What can't be read is kept.
func without(raw string, fields ...protowire.Number) []byte {
	b := []byte(raw)
	dst := make([]byte, 0, len(b)+64)
	for len(b) > 0 {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return append(dst, b...)
		}
		if !slices.Contains(fields, num) {
			dst = append(dst, b[:n]...)
		}
		b = b[n:]
	}
	return dst
}

// appendTime appends a google.protobuf.Timestamp.
func appendTime(dst []byte, num protowire.Number, t time.Time) []byte {
	return AppendBytes(dst, num, AppendVarint(AppendVarint(nil, 1, t.Unix()), 2, int64(t.Nanosecond())))
}
