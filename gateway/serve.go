package gateway

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A job is a request that was read and understood, and what it is going to cost.
type job struct {
	texts  int   // to be embedded
	bytes  int64 // of these texts
	light  bool  // needs no place: it is done at once, or waits for others
	run    func(ctx context.Context) (any, error)
	tokens func(answer any) int // that the answer took; nil where there are none
}

// light is a job that needs no place.
func light(run func(ctx context.Context) (any, error)) (job, error) {
	return job{light: true, run: run}, nil
}

// An operation is one method of one path.
type operation struct {
	read     func(*http.Request) (job, error) // reads all of the body that it needs
	limit    int64                            // bytes of the body, 0 for maxBody
	explain  func(*requestError) any          // an error's body, nil for OpenAI's
	open     bool                             // needs no token
	streamed bool                             // keeps nothing of its body in memory
}

// now makes an operation's reader of what has nothing to read.
func now(f func(ctx context.Context) (any, error)) func(*http.Request) (job, error) {
	return func(r *http.Request) (job, error) {
		if p := readParams(r); p.err != nil {
			return job{}, p.err
		}
		return light(f)
	}
}

// methods are the operations of a path.
type methods map[string]operation

// handle serves a path, and refuses the methods that it does not have by naming those it has.
func (g *gateway) handle(mux *http.ServeMux, path string, m methods) {
	var names []string
	for name, op := range m {
		mux.Handle(name+" "+path, g.route(op))
		names = append(names, name)
	}
	slices.Sort(names)
	allowed := strings.Join(names, ", ")
	refuse := g.route(operation{read: func(r *http.Request) (job, error) {
		return job{}, &requestError{status: http.StatusMethodNotAllowed, code: "method_not_allowed", message: fmt.Sprintf("%s does not take %s, but %s", r.URL.Path, r.Method, allowed)}
	}})
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allowed)
		refuse.ServeHTTP(w, r)
	})
}

// route answers a request with what the operation returns.
func (g *gateway) route(op operation) http.Handler {
	if op.limit == 0 {
		op.limit = maxBody
	}
	if op.explain == nil {
		op.explain = (*requestError).openAI
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, answer, err := http.StatusOK, any(nil), g.letIn(w, r, op)
		if err == nil {
			answer, err = g.do(w, r, op)
		}
		if err != nil {
			e := g.describe(err)
			if status = e.status; status >= http.StatusInternalServerError {
				g.log.WarnContext(r.Context(), "request failed", "request", w.Header().Get(requestHeader), "path", r.URL.Path, "status", status, "err", err)
			}
			e.headers(w.Header())
			answer = op.explain(e)
		}
		g.send(w, r, status, answer)
	})
}

// do reads a request, admits it, and does it. The body's room is held to the end, for what was read of it is in use.
func (g *gateway) do(w http.ResponseWriter, r *http.Request, op operation) (any, error) {
	in, err := g.open(w, r, op)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	r.Body = in
	j, err := op.read(r)
	if err != nil {
		return nil, err
	}
	if in.more() { // an operation that takes no body
		return nil, badRequest("%s %s takes no body", r.Method, r.URL.Path)
	}
	leave, err := g.admit(r.Context(), j)
	if err != nil {
		return nil, err
	}
	answer, err := j.run(r.Context())
	spent := 0
	if err == nil && j.tokens != nil {
		spent = j.tokens(answer)
	}
	leave(spent)
	return answer, err
}

// admit is the one place where a request becomes work: it takes from the caller's quota and gives it a place, or turns it
// away. What it returns is called when the work is over, with the tokens that it took.
func (g *gateway) admit(ctx context.Context, j job) (leave func(tokens int), err error) {
	caller := callerOf(ctx)
	settle, err := g.charge(ctx, caller, j)
	if err != nil {
		return nil, err
	}
	if j.light {
		return settle, nil
	}
	if err := g.places.enter(caller); err != nil {
		settle(0)
		return nil, err
	}
	return func(tokens int) {
		g.places.leave(caller)
		settle(tokens)
	}, nil
}

// A stream is an answer that is written as it goes, so that it is never in memory as a whole.
type stream interface {
	// size is how many bytes it holds while it is written.
	size() int64
	// kind is its media type.
	kind() string
	// write writes it. An error of w's ends it.
	write(ctx context.Context, w *bufio.Writer) error
}

// A flusher is a stream of which each write is to arrive at once.
type flusher interface{ flushes() }

// send writes an answer; a caller that went away is nobody to tell. No place is held meanwhile, and a caller that does not
// read is cut off.
func (g *gateway) send(w http.ResponseWriter, r *http.Request, status int, answer any) {
	s, ok := answer.(stream)
	if !ok {
		body, err := json.Marshal(answer)
		if err != nil { // of a status that JSON can't carry, say a number that is none
			status, body = http.StatusInternalServerError, []byte(`{"error":{"message":"the answer can't be written","type":"server_error","param":null,"code":"internal"}}`)
		}
		s = finished(append(body, '\n'))
	}
	control := http.NewResponseController(w)
	ml, give, err := g.mails.take(s.size(), func() { _ = control.SetWriteDeadline(time.Unix(1, 0)) })
	if err != nil {
		e := g.describe(err)
		e.headers(w.Header())
		g.send(w, r, e.status, e.openAI())
		return
	}
	defer give()
	h := w.Header()
	h.Set("Content-Type", s.kind())
	h.Set("X-Content-Type-Options", "nosniff")
	out, end := io.Writer(&timed{w, control, ml}), func() error { return nil }
	if whole, ok := s.(finished); ok && len(whole) == 0 {
		w.WriteHeader(status)
		return
	}
	if accepts(r, "gzip") && compressible(s) {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		zip, _ := gzip.NewWriterLevel(out, gzip.BestSpeed) // the level is one
		out, end = zip, zip.Close
	} else if whole, ok := s.(finished); ok {
		h.Set("Content-Length", strconv.Itoa(len(whole)))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	if _, ok := s.(flusher); ok {
		out = &flushed{out, control}
	}
	buffered := bufio.NewWriterSize(out, pieceBytes)
	if err := s.write(r.Context(), buffered); err == nil {
		_ = buffered.Flush()
		_ = end()
	} else if _, gone := s.(finished); !gone {
		g.log.Log(r.Context(), slog.LevelDebug, "answer was cut off", "request", h.Get(requestHeader), "path", r.URL.Path, "err", err)
		panic(http.ErrAbortHandler) // else half an answer would look like a whole one
	}
}

// compressible is what is worth it.
func compressible(s stream) bool {
	_, flushes := s.(flusher)
	return !flushes && s.size() > 1<<10
}

// accepts reports whether the caller asked for a content coding by name, and did not refuse it by q=0.
func accepts(r *http.Request, coding string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), coding) {
			q = strings.ReplaceAll(strings.ReplaceAll(q, " ", ""), "q=", "")
			n, err := strconv.ParseFloat(q, 64)
			return q == "" || err == nil && n > 0
		}
	}
	return false
}

// pieceBytes is how much of an answer is written at a time; the reader has sendPatience for each.
const pieceBytes = 64 << 10

// timed writes to a caller within bounds of time.
type timed struct {
	w       io.Writer
	control *http.ResponseController
	mail    *mail
}

func (t *timed) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		_ = t.control.SetWriteDeadline(time.Now().Add(sendPatience)) // of a recorder: none
		var m int
		m, err = t.w.Write(p[:min(len(p), pieceBytes)])
		n, p = n+m, p[m:]
		t.mail.progress.Store(time.Now().UnixNano())
	}
	return n, err
}

// flushed hands each write on at once.
type flushed struct {
	w       io.Writer
	control *http.ResponseController
}

func (f *flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// finished is an answer that is there already: JSON.
type finished []byte

func (f finished) size() int64  { return int64(len(f)) }
func (f finished) kind() string { return "application/json" }
func (f finished) write(_ context.Context, w *bufio.Writer) error {
	_, err := w.Write(f)
	return err
}

func validUTF8(s string) bool { return utf8.ValidString(s) }
