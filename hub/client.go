package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxListing bounds the hub's answer about a repository; the largest real ones are some MB.
const maxListing = 64 << 20

// A client speaks the hub's HTTP interface for one repository. Two addresses are all it uses:
// /api/models/ID/revision/REV lists a commit's files, /ID/resolve/COMMIT/PATH holds one, or redirects to the
// storage that does. Every method makes requests through send and turns failures into errors of one line.
type client struct {
	http     *http.Client
	endpoint *url.URL
	repo     string
	token    bool // one was given: only the advice in an error depends on it
	opts     Options
	tries    int
}

// newClient puts the token's keeper below the user's own transport settings. It makes no request.
func newClient(repo string, o Options) (*client, error) {
	base, err := url.Parse(strings.TrimRight(o.Endpoint, "/"))
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("%q is not a hub's address: want HF_ENDPOINT like %s", o.Endpoint, DefaultEndpoint)
	}
	hc := *o.Client
	hc.Transport = &bearer{next: o.Client.Transport, home: base, token: o.Token}
	return &client{http: &hc, endpoint: base, repo: repo, token: o.Token != "", opts: o, tries: o.tries}, nil
}

// A bearer adds the token to requests that go to the hub itself: same scheme, host and port. It sits below
// the redirects, so the token is in no header that net/http could carry along. That is needed: net/http
// drops Authorization only for a foreign host name, and a download is redirected to a sub-domain, or in a
// test to another port.
type bearer struct {
	next  http.RoundTripper
	home  *url.URL
	token string
}

// RoundTrip sends a copy of req, as the interface demands, with the token or without.
func (b *bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	next := b.next
	if next == nil {
		next = http.DefaultTransport
	}
	req = req.Clone(req.Context())
	req.Header.Del("Authorization")
	if b.token != "" && req.URL.Scheme == b.home.Scheme && req.URL.Host == b.home.Host {
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	return next.RoundTrip(req)
}

// A revision is a repository at one commit, as the hub lists it.
type revision struct {
	commit string
	files  []file
}

// revision asks which commit rev is and which files it has.
func (c *client) revision(ctx context.Context, rev string) (revision, error) {
	address := c.endpoint.JoinPath("api", "models", c.repo, "revision").String() +
		"/" + url.PathEscape(rev) + "?blobs=true" // PathEscape: the slash of refs/pr/1 belongs to the name
	var listing listing
	err := c.retry(ctx, func(ctx context.Context) error {
		return c.getJSON(ctx, address, &listing)
	})
	if err != nil {
		return revision{}, fmt.Errorf("asking %s for revision %s: %w", c.endpoint.Host, rev, err)
	}
	return listing.revision()
}

// listing is the part of the hub's answer that is read. Servers that imitate the hub spell the digest of a
// large file lfs.sha256 or lfs.oid, or leave blobs out.
type listing struct {
	SHA      string `json:"sha"`
	Siblings []struct {
		Name string `json:"rfilename"`
		Size *int64 `json:"size"`
		Blob string `json:"blobId"`
		LFS  *struct {
			SHA256 string `json:"sha256"`
			OID    string `json:"oid"`
			Size   *int64 `json:"size"`
		} `json:"lfs"`
	} `json:"siblings"`
}

// revision checks what later becomes part of a path, and leaves a file's digest empty if the listing doesn't
// give both digest and size. The files' own paths are checked by plan, which sees them next.
func (l listing) revision() (revision, error) {
	if !isCommit(l.SHA) {
		return revision{}, fmt.Errorf("the hub names %.60q as the commit, want 40 hex digits", l.SHA)
	}
	r := revision{commit: l.SHA}
	for _, s := range l.Siblings {
		f := file{path: s.Name, size: -1}
		id, n := s.Blob, s.Size
		if s.LFS != nil {
			// For a large file blobId is the pointer's, not the content's.
			id = strings.TrimPrefix(s.LFS.SHA256+s.LFS.OID, "sha256:")
			if s.LFS.SHA256 != "" {
				id = s.LFS.SHA256
			}
			if s.LFS.Size != nil {
				n = s.LFS.Size
			}
		}
		if d, err := parseDigest(id); err == nil && n != nil && *n >= 0 {
			f.digest, f.size = d, *n
		}
		r.files = append(r.files, f)
	}
	return r, nil
}

// getJSON makes one request for a small answer. A body that breaks off or is not JSON counts as passing: it
// is what a proxy's error page looks like.
func (c *client) getJSON(ctx context.Context, address string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.stall)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.statusError(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxListing)).Decode(v); err != nil {
		return &transientError{err: fmt.Errorf("reading the list of files: %w", err)}
	}
	return nil
}

// address is where a file's bytes are, at a commit and not at a branch that may move meanwhile.
func (c *client) address(commit, name string) string {
	return c.endpoint.JoinPath(c.repo, "resolve", commit, name).String()
}

// identify asks for a file's size and digest where the listing didn't say, by a HEAD that stops at the
// hub's own answer: behind the redirect the headers are a stranger's.
func (c *client) identify(ctx context.Context, commit string, f *file) error {
	if f.digest != "" {
		return nil
	}
	once := *c
	hc := *c.http
	hc.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if req.URL.Host == c.endpoint.Host {
			return nil
		}
		return http.ErrUseLastResponse
	}
	once.http = &hc
	err := c.retry(ctx, func(ctx context.Context) error { return once.head(ctx, c.address(commit, f.path), f) })
	if err != nil {
		return fmt.Errorf("asking for %s: %w", f.path, err)
	}
	return nil
}

// head reads a file's digest and size off the headers: X-Linked-Etag and X-Linked-Size for a large file, whose
// Etag is the pointer's or the redirect's, else Etag and Content-Length.
func (c *client) head(ctx context.Context, address string, f *file) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.stall)
	defer cancel()
	resp, err := c.send(ctx, http.MethodHead, address, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return c.statusError(resp)
	}
	tag, n := resp.Header.Get("X-Linked-Etag"), resp.ContentLength
	if resp.StatusCode >= 300 {
		n = -1 // a redirect's own length
	}
	if tag == "" {
		tag = resp.Header.Get("ETag")
	}
	if linked := resp.Header.Get("X-Linked-Size"); linked != "" {
		if _, err := fmt.Sscan(linked, &n); err != nil {
			return fmt.Errorf("the hub names %.40q as the file's size", linked)
		}
	}
	d, err := parseDigest(strings.Trim(strings.TrimPrefix(tag, "W/"), `"`))
	if err != nil || n < 0 {
		return fmt.Errorf("the hub names no digest and size to check it with (etag %.80q, %d bytes)", tag, n)
	}
	f.digest, f.size = d, n
	return nil
}

// send makes one request. A failure to get any answer may pass, so it is marked for another try. The
// address is left out of the error: behind a redirect it carries a signature that opens the file.
func (c *client) send(ctx context.Context, method, address string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("making a request to %s: %w", c.endpoint.Host, err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("User-Agent", "embedfleet")
	resp, err := c.http.Do(req)
	if err == nil {
		return resp, nil
	}
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	return nil, &transientError{err: err}
}

// A transientError may not come again. It says how long the server wants to be left alone (0: it didn't
// say) and whether bytes arrived before it.
type transientError struct {
	err   error
	after time.Duration
	moved bool
}

func (e *transientError) Error() string { return e.err.Error() }
func (e *transientError) Unwrap() error { return e.err }
