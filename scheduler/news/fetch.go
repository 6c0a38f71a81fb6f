package news

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	fetchTimeout = 10 * time.Second
	maxBody      = 5 << 20
	longestRetry = 24 * time.Hour // that a Retry-After is honoured
)

// A StatusError is an HTTP status that is no answer.
type StatusError struct {
	Code       int
	RetryAfter time.Duration // 0 if the server did not say
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("HTTP %d %s", e.Code, http.StatusText(e.Code))
}

// An answer is what a server gave for a feed.
type answer struct {
	body           Body
	same           bool // 304: as before
	etag, modified string
	moved          string // where the server says the feed is from now on
}

// fetch asks for a feed, or whether it changed.
func fetch(ctx context.Context, client *http.Client, agent string, f Feed, s State) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "application/rss+xml, application/atom+xml, application/feed+json, application/xml;q=0.9, */*;q=0.5")
	if s.ETag != "" {
		req.Header.Set("If-None-Match", s.ETag)
	}
	if s.Modified != "" {
		req.Header.Set("If-Modified-Since", s.Modified)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, plain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return answer{same: true}, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if len(body) > maxBody {
		return answer{}, errTooLong
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // of a body that ends early, the whole items are read
		return answer{}, fmt.Errorf("reading the answer: %w", plain(err))
	}
	if resp.StatusCode != http.StatusOK {
		if err := blocked(body); err != nil {
			return answer{}, err
		}
		return answer{}, &StatusError{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"))}
	}
	if resp.Request != nil { // the last of them
		req = resp.Request
	}
	got := answer{
		body: Body{body, resp.Header.Get("Content-Type"), req.URL.String()},
		etag: resp.Header.Get("ETag"), modified: resp.Header.Get("Last-Modified"), moved: moved(req),
	}
	if err != nil {
		got.etag, got.modified = "", ""
	}
	return got, nil
}

var errTooLong = fmt.Errorf("the answer is longer than %d bytes", maxBody)

// plain returns what an HTTP client's error is about without the address: that may carry a key, and a redirect's
// is another server's words.
func plain(err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		return outer.Err
	}
	return err
}

// moved returns where the first address leads for good: only if every redirect on the way says so.
func moved(last *http.Request) string {
	if last.Response == nil {
		return ""
	}
	for r := last.Response; r != nil; r = r.Request.Response {
		if r.StatusCode != http.StatusMovedPermanently && r.StatusCode != http.StatusPermanentRedirect {
			return ""
		}
	}
	return last.URL.String()
}

// failure is why a feed failed, in a word for counts.
func failure(err error) string {
	if status, ok := errors.AsType[*StatusError](err); ok {
		return fmt.Sprintf("http_%d", status.Code)
	}
	var coded interface{ Code() string }
	switch {
	case errors.As(err, &coded):
		return coded.Code()
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err):
		return "timeout"
	case errors.Is(err, errTooLong):
		return "too_long"
	default:
		return "unreachable"
	}
}

// retryAfter reads seconds or a date.
func retryAfter(s string) time.Duration {
	s = strings.TrimSpace(s)
	d := time.Duration(0)
	if n, err := strconv.Atoi(s); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		d = time.Until(at)
	}
	return min(max(d, 0), longestRetry)
}
