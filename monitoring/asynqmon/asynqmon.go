// Package asynqmon mounts asynq's own web page, github.com/hibiken/asynqmon, under the rules that page lacks:
// nobody changes anything unless the caller says so, no request comes from another site, no list is longer than
// a page, nothing is fetched from another host, and a payload is shown as what it is instead of as bytes.
//
// The page is a view of asynq's keys. Dead letters, crashes and the fleet's own state are not in it; they are on
// the fleet page. Who somebody is, the caller knows: this room is mounted behind the caller's login.
//
// The rules and the traps they answer: docs/asynq.md, sections 3 and 4.
package asynqmon

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strings"

	upstream "github.com/hibiken/asynqmon"
)

const (
	// maxBody bounds what a list of ids to act on may be, in bytes.
	maxBody = 1 << 20
	// maxAnswer bounds an answer that is read before it is sent: 100 tasks are some 60 kB of it. What is larger
	// (60 busy servers with hundreds of tasks each) is sent as upstream made it.
	maxAnswer = 32 << 20
)

// Options may be nil.
type Options struct {
	// Root is the path where the handler is mounted, by default "/queues".
	Root string
	// Home is where the page's way back leads, by default "/".
	Home string
	// Operator names the person behind a request, and says whether he may change something. Nil: nobody may.
	Operator func(*http.Request) (name string, may bool)
}

// A Handler serves the page. Close it after its last request.
type Handler struct {
	log      *slog.Logger
	opts     Options
	page     *upstream.HTTPHandler
	watch    index // for those who may only look
	operate  index // for those who may act
	guarded  http.Handler
	operator func(*http.Request) (string, bool)
}

// connection is asynq.RedisConnOpt around a function, so that addresses asynq's own options can't express
// (users, sentinel passwords, TLS) reach the page too.
type connection func() any

// MakeRedisClient returns a new client, as asynq wants it.
func (c connection) MakeRedisClient() any { return c() }

// New returns a handler that reads the Redis of the clients open returns: redis.UniversalClient in each call,
// closed with the handler. It connects on the first request. The error says that the page inside the library is
// not the one these rules were written for.
func New(log *slog.Logger, open func() any, opts *Options) (*Handler, error) {
	h := &Handler{log: log}
	if opts != nil {
		h.opts = *opts
	}
	h.opts.Root = cmp.Or(strings.TrimSuffix(h.opts.Root, "/"), "/queues")
	h.opts.Home = cmp.Or(h.opts.Home, "/")
	h.operator = h.opts.Operator
	if h.operator == nil {
		h.operator = func(*http.Request) (string, bool) { return "", false }
	}
	h.page = upstream.New(upstream.Options{
		RootPath:         h.opts.Root,
		RedisConnOpt:     connection(open),
		PayloadFormatter: upstream.PayloadFormatterFunc(Payload),
		ResultFormatter:  upstream.ResultFormatterFunc(Result),
		ReadOnly:         h.opts.Operator == nil, // upstream's own lock below ours
	})
	if err := h.readIndex(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading asynqmon's page: %w", err), h.page.Close())
	}
	h.guarded = http.NewCrossOriginProtection().Handler(http.HandlerFunc(h.api))
	return h, nil
}

// Close ends the connections to Redis.
func (h *Handler) Close() error { return h.page.Close() }

func (h *Handler) readIndex() (err error) {
	var b answer
	r, err := http.NewRequest(http.MethodGet, h.opts.Root+"/", http.NoBody) //nolint:noctx // answered from memory, below
	if err != nil {
		return err
	}
	h.page.ServeHTTP(&b, r)
	if h.watch, err = newIndex(b.body.String(), h.opts.Home, "true"); err != nil {
		return err
	}
	h.operate, err = newIndex(b.body.String(), h.opts.Home, "false")
	return err
}

// ServeHTTP answers below [Options.Root]: the interface that the page talks to, the page's files, and the page
// itself for every other path, since its addresses are made in the browser.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "same-origin")
	rest := strings.TrimPrefix(path.Clean(r.URL.Path), h.opts.Root)
	switch {
	case rest == "/api" || strings.HasPrefix(rest, "/api/"):
		h.guarded.ServeHTTP(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.Error(w, "only GET is answered here", http.StatusMethodNotAllowed)
	case strings.HasSuffix(rest, ".map"):
		http.NotFound(w, r) // 5 MB that only upstream's authors read
	case isFile(rest):
		h.file(w, r)
	default:
		page := h.watch
		if _, may := h.operator(r); may {
			page = h.operate
		}
		page.serve(w)
	}
}

// isFile tells the page's files from the addresses that it makes up: no queue or task of ours has a dot.
func isFile(rest string) bool {
	return strings.HasPrefix(rest, "/static/") || path.Dir(rest) == "/" && path.Ext(rest) != ""
}

// file answers with one of upstream's files. A file that is not there comes from upstream as the page itself,
// which would be a script that doesn't parse.
func (h *Handler) file(w http.ResponseWriter, r *http.Request) {
	var b answer
	h.page.ServeHTTP(&b, r)
	if bytes.HasPrefix(bytes.TrimSpace(b.body.Bytes()), []byte("<!doctype")) {
		http.NotFound(w, r)
		return
	}
	header := w.Header()
	header.Set("Content-Type", cmp.Or(types[path.Ext(r.URL.Path)], "application/octet-stream"))
	// Files below static have their digest in their name.
	if strings.Contains(r.URL.Path, "/static/") {
		header.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	b.send(w)
}

// types are those of upstream's files: the ones it sends are guessed from the first bytes, and an SVG becomes
// text that a browser told not to guess does not draw.
var types = map[string]string{
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
	".png": "image/png",
	".ico": "image/x-icon",
	".txt": "text/plain; charset=utf-8",
}

// An answer keeps what a handler says until somebody has looked at it.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header returns what would be sent.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header)
	}
	return a.header
}

// WriteHeader keeps the first status.
func (a *answer) WriteHeader(status int) { a.status = cmp.Or(a.status, status) }

// Write never fails.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// send sends status and body; the header is the sender's affair.
func (a *answer) send(w http.ResponseWriter) {
	w.WriteHeader(cmp.Or(a.status, http.StatusOK))
	_, _ = w.Write(a.body.Bytes()) // the browser went away
}
