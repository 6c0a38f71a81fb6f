package gateway

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bodyBytes   = 256 << 20 // of all bodies under way, as far as each goes beyond freeBytes
	answerBytes = 128 << 20 // of all answers under way, those of less than freeBytes apart
	freeBytes   = 256 << 10 // a request's own, so that small ones are served whatever the large ones do

	bodyPatience = 20 * time.Second // for a body, and a second for each bodyRate bytes that came
	bodyRate     = 32 << 10
	sendPatience = 15 * time.Second // for each piece of an answer
	stalled      = time.Second      // without progress, an answer gives way to another that needs its room
)

// A body is a request's: bounded in bytes, decompressed if it is gzip, slow for no longer than a slow line needs, and
// counted among all bodies under way until it is closed.
type body struct {
	io.Reader
	raw  io.Reader // what comes over the line
	room *atomic.Int64
	read int64
	held int64 // of room
	left int64 // until the limit
	most int64
}

// open readies the body of r, of at most op.limit bytes, also after decompression.
func (g *gateway) open(w http.ResponseWriter, r *http.Request, op operation) (*body, error) {
	limit := op.limit
	b := &body{room: &g.bodies, left: limit, most: limit}
	if op.streamed {
		b.room = nil
	}
	var src io.Reader = http.MaxBytesReader(w, r.Body, limit)
	if r.ContentLength != 0 {
		src = &patient{src: src, control: http.NewResponseController(w), begun: time.Now()}
	}
	b.raw = src
	switch encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		src = &gunzip{src: src}
	default:
		return nil, &requestError{status: http.StatusUnsupportedMediaType, code: "unsupported_encoding", message: fmt.Sprintf("Content-Encoding is %q, want gzip or none", encoding)}
	}
	b.Reader = src
	return b, nil
}

// Read counts. A body that finds no room among the others is turned away, for waiting would take the same room.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		var one [1]byte
		if n, err := b.Reader.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, &http.MaxBytesError{Limit: b.most}
	}
	n, err := b.Reader.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.read += int64(n)
	if over := b.read - freeBytes - b.held; over > 0 && b.room != nil {
		b.held += over
		if b.room.Add(over) > bodyBytes {
			return 0, overloaded("the bodies of all requests under way are larger than %d bytes together", bodyBytes)
		}
	}
	return n, err
}

// more reports whether there is anything left of the body.
func (b *body) more() bool {
	var one [1]byte
	n, _ := b.Reader.Read(one[:])
	return n > 0
}

// Close reads what is left of the body, within its bounds, for a caller that is still writing would find its connection
// broken instead of an answer; and gives the room back.
func (b *body) Close() error {
	_, _ = io.Copy(io.Discard, b.raw)
	if b.room != nil {
		b.room.Add(-b.held)
		b.held = 0
	}
	return nil
}

// patient gives a body that comes slowly a bounded time.
type patient struct {
	src     io.Reader
	control *http.ResponseController
	begun   time.Time
	read    int64
}

func (p *patient) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(p.begun.Add(bodyPatience + time.Duration(p.read/bodyRate)*time.Second)) // of a recorder: none
	n, err := p.src.Read(b)
	p.read += int64(n)
	if err != nil {
		if timeout, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](err); ok && timeout.Timeout() {
			return n, &requestError{status: http.StatusRequestTimeout, code: "timeout", message: fmt.Sprintf("the body came too slowly: %d bytes in %v", p.read, time.Since(p.begun).Round(time.Second))}
		}
		if errors.Is(err, io.EOF) {
			// Else the deadline would end the connection, and with it the request, while it is worked on.
			_ = p.control.SetReadDeadline(time.Time{})
		}
	}
	return n, err
}

// gunzip decompresses; its reader is made by the first Read, since making it reads.
type gunzip struct {
	src io.Reader
	zip *gzip.Reader
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.zip == nil {
		zip, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, gunzipError(err)
		}
		g.zip = zip
	}
	n, err := g.zip.Read(p)
	return n, gunzipError(err)
}

func gunzipError(err error) error {
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return err
	}
	if own, ok := errors.AsType[*requestError](err); ok {
		return own
	}
	return badRequest("decompressing the body: %v", err)
}

// overloaded is the refusal of a gateway that has no room.
func overloaded(format string, args ...any) error {
	return &requestError{status: http.StatusServiceUnavailable, code: "overloaded", after: soon, message: fmt.Sprintf(format, args...)}
}

// A mailroom bounds the bytes of answers that wait to be read. Where there is no room left, the answer whose reader has
// read nothing for longest is cut off.
type mailroom struct {
	mu    sync.Mutex
	used  int64
	mails map[*mail]struct{}
	freed chan struct{} // closed when something was given back
}

// A mail is one answer under way.
type mail struct {
	size     int64
	progress atomic.Int64 // when its reader last took a piece, Unix nanoseconds
	cut      func()
}

func newMailroom() *mailroom {
	return &mailroom{mails: make(map[*mail]struct{}), freed: make(chan struct{})}
}

// take finds room for an answer of size bytes, which cut ends; what it returns gives the room back.
func (m *mailroom) take(size int64, cut func()) (*mail, func(), error) {
	ml := &mail{size: size, cut: cut}
	ml.progress.Store(time.Now().UnixNano())
	if size <= freeBytes {
		return ml, func() {}, nil
	}
	patience := time.NewTimer(2 * stalled)
	defer patience.Stop()
	for {
		m.mu.Lock()
		if m.used+size <= answerBytes || len(m.mails) == 0 {
			m.used += size
			m.mails[ml] = struct{}{}
			m.mu.Unlock()
			return ml, func() { m.give(ml) }, nil
		}
		freed := m.freed
		m.cutLocked()
		m.mu.Unlock()
		select {
		case <-freed:
		case <-time.After(stalled / 4):
		case <-patience.C:
			return nil, nil, overloaded("the answers of all requests under way are larger than %d bytes together", answerBytes)
		}
	}
}

// cutLocked cuts off the answer that has stood still for longest.
func (m *mailroom) cutLocked() {
	var slowest *mail
	for ml := range m.mails {
		if slowest == nil || ml.progress.Load() < slowest.progress.Load() {
			slowest = ml
		}
	}
	if slowest != nil && time.Since(time.Unix(0, slowest.progress.Load())) >= stalled {
		slowest.cut()
	}
}

func (m *mailroom) give(ml *mail) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used -= ml.size
	delete(m.mails, ml)
	close(m.freed)
	m.freed = make(chan struct{})
}
