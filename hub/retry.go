package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// maxPause is the longest a server may make us wait. A longer wish is an error, for a person to see.
const maxPause = 5 * time.Minute

// retry calls once until it succeeds, fails for good, or has failed c.tries times in a row without a new
// byte. Between tries it pauses 1, 2, 4 ... at most 30 s, a fifth more or less, or as long as the server
// asked with Retry-After. What can't get better is not tried again: a refusal, a wrong digest, a full disk.
// The end of ctx is reported as its cause, without the failure that it led to.
func (c *client) retry(ctx context.Context, once func(context.Context) error) error {
	for failed := 1; ; failed++ {
		err := once(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		again, ok := errors.AsType[*transientError](err)
		if !ok {
			return err
		}
		if again.moved {
			failed = 1
		}
		if failed >= c.tries {
			return fmt.Errorf("%w (tried %d times)", err, failed)
		}
		pause := backoff(failed)
		if again.after > 0 {
			pause = again.after
		}
		if pause > maxPause {
			return fmt.Errorf("%w: the server asks to come back in %s, try again then", err, pause)
		}
		c.opts.Logger.Warn("request to hub failed, trying again", "repo", c.repo, "try", failed, "pause", pause, "err", err)
		if err := c.opts.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// backoff is the pause after the n-th failure in a row, n >= 1. It is spread so that a fleet whose machines
// all lost the hub at one moment doesn't come back at one moment.
func backoff(n int) time.Duration {
	d := min(time.Second<<min(n-1, 10), 30*time.Second)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// sleep waits for d or the end of ctx, whose cause it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// statusError turns an answer other than success into one line that says what to do. Busy and broken
// servers are marked for another try. The header X-Error-Code is the hub's own, and tells its 404s apart.
// The hub answers 401 and not 404 to who asks without a token for a repository that doesn't exist, so as not
// to tell whether there is a private one of that name; hence the two halves of that line.
func (c *client) statusError(resp *http.Response) error {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // lets the connection be used again
	host, code := resp.Request.URL.Host, resp.Header.Get("X-Error-Code")
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized && c.token:
		return fmt.Errorf("%s did not accept the token (401): check HF_TOKEN, and that the repository exists", host)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%s wants a token (401): there is no such public repository, so check the id, or set HF_TOKEN to a token that may read it", host)
	case status == http.StatusForbidden && host == c.endpoint.Host:
		return fmt.Errorf("%s gives no access (403): open %s in a browser and accept its terms, then set HF_TOKEN to that account's token",
			host, c.endpoint.JoinPath(c.repo))
	case status == http.StatusNotFound && code == "RevisionNotFound":
		return fmt.Errorf("%s has the repository but not this revision (404): check the branch, tag or commit", host)
	case status == http.StatusNotFound:
		return fmt.Errorf("%s has no such repository, revision or file (404): check the id and the revision", host)
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
		return &transientError{err: fmt.Errorf("%s answered %s", host, resp.Status), after: retryAfter(resp, time.Now())}
	case status == http.StatusForbidden:
		// A signed address that ran out. The hub signs a new one when it is asked again.
		return &transientError{err: fmt.Errorf("%s refused the signed address (403)", host)}
	}
	return fmt.Errorf("%s answered %s, which is not understood", host, resp.Status)
}

// retryAfter reads the header of that name, seconds or a date (RFC 9110, 10.2.3). It returns 0 if the header
// is not there, can't be read or names a time that has passed.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	v := resp.Header.Get("Retry-After")
	if secs, err := strconv.Atoi(v); err == nil && secs >= 0 {
		return time.Duration(min(secs, 1<<30)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
