package wire

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	want := Message{Type: "k", Payload: []byte("p"), ID: "i", Queue: "q", Retry: 3, Retried: 2, ErrorMsg: "e",
		Timeout: 4 * time.Second, LastFailedAt: time.Unix(1_700_000_000, 0), Retention: 5 * time.Second,
		Expires: time.Date(2026, 11, 22, 2, 5, 0, 1000, time.UTC), Trace: "00-aa-bb-01"}
	got, err := ParseMessage(want.Append(nil))
	if err != nil || fmt.Sprint(*got) != fmt.Sprint(want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// foreign is a message with fields that only other programs write: a deadline, a unique lock, a group, and a header.
func foreign() []byte {
	m := Message{Type: "k", Payload: []byte("p"), ID: "i", Queue: "q", Retry: 3, Retried: 1, ErrorMsg: "first", LastFailedAt: time.Unix(7, 0)}
	b := AppendVarint(m.Append(nil), 9, 1_700_000_000)
	b = AppendBytes(b, fieldUniqueKey, "asynq:{q}:unique:k:0")
	b = AppendBytes(b, 14, "group")
	return appendHeader(b, "theirs", "value")
}

// field returns the bytes of every occurrence of a field.
func field(b []byte, want protowire.Number) (all []byte) {
	for len(b) > 0 {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return all
		}
		if num == want {
			all = append(all, b[:n]...)
		}
		b = b[n:]
	}
	return all
}

// What becomes of a message leaves every field alone that it is not about, those of other programs too.
func TestFailedAndCompletedKeepTheRest(t *testing.T) {
	t.Parallel()
	raw, at := foreign(), time.Unix(1_800_000_000, 0)
	failed := Failed(string(raw), 2, "second", at)
	m, err := ParseMessage(failed)
	if err != nil || m.Retried != 2 || m.ErrorMsg != "second" || !m.LastFailedAt.Equal(at) {
		t.Errorf("failed: %+v, %v", m, err)
	}
	completed := Completed(string(Completed(string(raw), at.Add(-time.Hour))), at)
	if got := field(completed, fieldCompletedAt); !bytes.Equal(got, AppendVarint(nil, fieldCompletedAt, at.Unix())) {
		t.Errorf("completed at %x", got)
	}
	for num := protowire.Number(1); num <= fieldHeaders; num++ {
		if num != fieldRetried && num != fieldErrorMsg && num != fieldLastFailedAt && !bytes.Equal(field(raw, num), field(failed, num)) {
			t.Errorf("field %d changed with a failure", num)
		}
		if num != fieldCompletedAt && !bytes.Equal(field(raw, num), field(completed, num)) {
			t.Errorf("field %d changed with the completion", num)
		}
	}
	if m.UniqueKey != "asynq:{q}:unique:k:0" || !m.Other {
		t.Errorf("%+v", m)
	}
}

// Nonsense in a message is no reason to wait for ever, or for no time.
func TestMessageBounds(t *testing.T) {
	t.Parallel()
	b := AppendVarint(AppendVarint(nil, fieldTimeout, -1), fieldRetention, 1<<62)
	b = appendHeader(b, expiresHeader, "tomorrow")
	m, err := ParseMessage(b)
	if err != nil || m.Timeout != 0 || m.Retention < 24*time.Hour || !m.Expires.IsZero() {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzParseMessage(f *testing.F) {
	m := Message{Type: "k", Payload: []byte("p"), ID: "i", Queue: "q", Retry: 3, ErrorMsg: "e", Timeout: time.Second}
	f.Add(m.Append(nil))
	f.Add([]byte{0x0a, 0xff})
	f.Add([]byte{0x7a, 0x02, 0x0a, 0x00}) // a header, which we skip
	f.Add(foreign())
	f.Fuzz(func(t *testing.T, b []byte) {
		// Whatever lies in Redis: what is written of it in the end can be read if it could be before.
		failed, done := Failed(string(b), 1, "why", time.Unix(9, 0)), Completed(string(b), time.Unix(9, 0))
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		if _, err := ParseMessage(done); err != nil {
			t.Errorf("completed, it can't be read: %v", err)
		}
		after, err := ParseMessage(failed)
		if err != nil || after.Retried != 1 || after.ErrorMsg != "why" || after.ID != m.ID || !bytes.Equal(after.Payload, m.Payload) {
			t.Errorf("failed, %+v became %+v, %v", m, after, err)
		}
		m.Other, m.UniqueKey = false, "" // what they stand for is not written
		again, err := ParseMessage(m.Append(nil))
		if err != nil || fmt.Sprint(*again) != fmt.Sprint(*m) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}
