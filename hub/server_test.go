package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	repo   = "acme/tiny"
	commit = "0123456789abcdef0123456789abcdef01234567"
	token  = "hf_secret"
)

// model is a repository as sentence-transformers lays it out, with files that a loader doesn't need.
func model() map[string]string {
	return map[string]string{
		"README.md":             "# tiny",
		"config.json":           `{"model_type":"bert"}`,
		"tokenizer.json":        `{"model":{}}`,
		"tokenizer_config.json": `{}`,
		"modules.json":          `[{"path":"","type":"a.Transformer"},{"path":"1_Pooling","type":"a.Pooling"},{"path":"2_Normalize","type":"a.Normalize"}]`,
		"1_Pooling/config.json": `{"pooling_mode_mean_tokens":true}`,
		"model.safetensors":     strings.Repeat("weights ", 100_000),
		"pytorch_model.bin":     "pickle",
		"onnx/model.onnx":       "graph",
	}
}

// A fakeHub imitates the hub: the listing and small files at one address, large ones behind a redirect to
// another port. Its fields are the ways it may misbehave; set them before the first request.
type fakeHub struct {
	files   map[string]string
	commit  string
	noBlobs bool           // the listing names no sizes and digests
	private bool           // wants the token
	busy    int            // answers 429 so many times, with Retry-After: 7
	status  int            // answers everything with it
	code    string         // X-Error-Code beside status
	cut     map[string]int // breaks the connection once after so many bytes of the path
	short   map[string]int // ends the body cleanly after so many bytes of the path, always
	swap    map[string]string
	noRange bool

	hub, cdn *httptest.Server

	mu     sync.Mutex
	log    []string // METHOD path, with " RANGE" where one was asked
	leaked []string // requests to the cdn that carried the token
}

func newFakeHub(t *testing.T, files map[string]string) *fakeHub {
	t.Helper()
	h := &fakeHub{files: files, commit: commit, cut: map[string]int{}, short: map[string]int{}, swap: map[string]string{}}
	h.cdn = httptest.NewServer(http.HandlerFunc(h.serveCDN))
	h.hub = httptest.NewServer(http.HandlerFunc(h.serveHub))
	t.Cleanup(func() {
		h.hub.Close()
		h.cdn.Close()
	})
	return h
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func gitHex(s string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(s), s))
	return hex.EncodeToString(sum[:])
}

func large(name string) bool { return strings.HasSuffix(name, ".safetensors") }

func (h *fakeHub) record(r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	line := r.Method + " " + r.URL.Path
	if v := r.Header.Get("Range"); v != "" {
		line += " " + v
	}
	if v := r.Header.Get("If-Range"); v != "" {
		line += " if " + v
	}
	h.log = append(h.log, line)
}

// requests returns the recorded requests that contain part.
func (h *fakeHub) requests(part string) (found []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range h.log {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

func (h *fakeHub) serveHub(w http.ResponseWriter, r *http.Request) {
	h.record(r)
	h.mu.Lock()
	busy := h.busy > 0
	if busy {
		h.busy--
	}
	h.mu.Unlock()
	switch {
	case busy:
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	case h.status != 0:
		w.Header().Set("X-Error-Code", h.code)
		w.WriteHeader(h.status)
	case h.private && r.Header.Get("Authorization") != "Bearer "+token:
		w.WriteHeader(http.StatusUnauthorized)
	case strings.HasPrefix(r.URL.Path, "/api/models/"+repo+"/revision/"):
		h.serveListing(w, strings.TrimPrefix(r.URL.Path, "/api/models/"+repo+"/revision/"))
	default:
		h.serveFile(w, r)
	}
}

func (h *fakeHub) serveListing(w http.ResponseWriter, rev string) {
	if rev != "main" && rev != "refs/pr/1" && rev != h.commit {
		w.Header().Set("X-Error-Code", "RevisionNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	siblings := []map[string]any{}
	for name, body := range h.files {
		s := map[string]any{"rfilename": name}
		if !h.noBlobs {
			s["size"], s["blobId"] = len(body), gitHex(body)
			if large(name) {
				s["blobId"] = gitHex("pointer of " + name)
				s["lfs"] = map[string]any{"sha256": sha256Hex(body), "size": len(body), "pointerSize": 100}
			}
		}
		siblings = append(siblings, s)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"sha": h.commit, "siblings": siblings})
}

func (h *fakeHub) serveFile(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Repo-Commit", h.commit)
	name := strings.TrimPrefix(r.URL.Path, "/"+repo+"/resolve/"+h.commit+"/")
	body, ok := h.files[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if large(name) {
		w.Header().Set("X-Linked-Etag", `"`+sha256Hex(body)+`"`)
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(body)))
		w.Header().Set("Location", h.cdn.URL+"/"+name+"?signature=opens-the-file")
		w.WriteHeader(http.StatusFound)
		return
	}
	h.send(w, r, name, gitHex(body))
}

func (h *fakeHub) serveCDN(w http.ResponseWriter, r *http.Request) {
	h.record(r)
	if r.Header.Get("Authorization") != "" {
		h.mu.Lock()
		h.leaked = append(h.leaked, r.URL.Path)
		h.mu.Unlock()
	}
	h.send(w, r, strings.TrimPrefix(r.URL.Path, "/"), "the-storage-has-its-own-tag")
}

func (h *fakeHub) send(w http.ResponseWriter, r *http.Request, name, etag string) {
	body := h.files[name]
	if other, ok := h.swap[name]; ok {
		body = other
	}
	w.Header().Set("ETag", `"`+etag+`"`)
	if h.noRange {
		r.Header.Del("Range")
	}
	if n, ok := h.short[name]; ok {
		_, _ = w.Write([]byte(body[:n]))
		return
	}
	h.mu.Lock()
	n, broken := h.cut[name]
	delete(h.cut, name)
	h.mu.Unlock()
	if broken {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write([]byte(body[:n]))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // closes the connection in the middle of the body
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
}

// options are those of a client of h with a cache of its own and no pauses.
func (h *fakeHub) options(t *testing.T) *Options {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &Options{
		Endpoint: h.hub.URL, CacheDir: t.TempDir(), Client: &http.Client{Transport: transport},
		wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
