package news

import (
	"context"
	"fmt"
	"io"
	"net/http"
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
	body           []byte
	same           bool // 304: as before
	etag, modified string
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
		return answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return answer{same: true}, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	case len(body) > maxBody:
		return answer{}, fmt.Errorf("the answer is longer than %d bytes", maxBody)
	case resp.StatusCode != http.StatusOK:
		if err := blocked(body); err != nil {
			return answer{}, err
		}
		return answer{}, &StatusError{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"))}
	}
	return answer{body: body, etag: resp.Header.Get("ETag"), modified: resp.Header.Get("Last-Modified")}, nil
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
