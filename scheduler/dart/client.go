package dart

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// BaseURL is the service's address.
	BaseURL = "https://opendart.fss.or.kr/api/"

	maxList = 4 << 20  // bytes of a page of 100 filings, which has 30 kB
	maxZIP  = 64 << 20 // bytes of an archive as it travels; the list of companies has 4 MB
	// A call that may work the next time is made this often.
	callTries = 3
	callPause = 2 * time.Second

	// DefaultQuota leaves a tenth of the service's 20,000 calls a day for people who use the same key.
	DefaultQuota = 18000
)

// A Quota counts the calls of a key, across all processes that use it.
type Quota interface {
	// Take counts n calls of who on a day and returns the count so far.
	Take(ctx context.Context, who, day string, n int) (int, error)
	// Block makes every Take of the day answer with more than any limit.
	Block(ctx context.Context, who, day string) error
}

// ClientOptions may be nil.
type ClientOptions struct {
	BaseURL   string       // default [BaseURL]
	HTTP      *http.Client // default one with [NewTransport] and a timeout of a minute
	UserAgent string
	Limit     int              // calls a day, default [DefaultQuota]
	Now       func() time.Time // default time.Now; tells the Korean day
}

// A Client speaks to OpenDART. It is safe for concurrent use.
type Client struct {
	key   Key
	quota Quota
	base  string
	http  *http.Client
	agent string
	limit int
	now   func() time.Time

	requests, bytes atomic.Int64
}

// NewClient returns a client that counts its calls in quota. It does no I/O.
func NewClient(key Key, quota Quota, opts *ClientOptions) *Client {
	c := &Client{key: key, quota: quota, base: BaseURL, limit: DefaultQuota, now: time.Now, agent: "embedfleet"}
	if opts != nil {
		c.http = opts.HTTP
		if opts.BaseURL != "" {
			c.base = strings.TrimSuffix(opts.BaseURL, "/") + "/"
		}
		if opts.UserAgent != "" {
			c.agent = opts.UserAgent
		}
		if opts.Limit > 0 {
			c.limit = opts.Limit
		}
		if opts.Now != nil {
			c.now = opts.Now
		}
	}
	if c.http == nil {
		c.http = &http.Client{Transport: NewTransport(nil), Timeout: time.Minute}
	}
	plain := *c.http
	// The service does not redirect; whoever does must not be sent the key.
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &plain
	return c
}

// Traffic returns the calls made and the bytes received since the client was made.
func (c *Client) Traffic() (requests, received int) {
	return int(c.requests.Load()), int(c.bytes.Load())
}

// Unblock is what an operator who resumes the source needs to know: who and which day a block concerns.
func (c *Client) Unblock() (who, today string) {
	today, _ = day(c.now())
	return c.key.Name(), today
}

// get makes one call, and again after faults that may pass. The answer is the body of an HTTP 200.
func (c *Client) get(ctx context.Context, endpoint string, params url.Values, limit int64) (body []byte, err error) {
	for try := 1; ; try++ {
		body, err = c.once(ctx, endpoint, params, limit)
		if err == nil || try == callTries || !passing(err) || ctx.Err() != nil {
			return body, err
		}
		timer := time.NewTimer(time.Duration(try) * callPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
	}
}

// passing reports whether a call that failed so may work the next time.
func passing(err error) bool {
	var (
		quota  *QuotaError
		status *StatusError
	)
	if errors.As(err, &status) {
		return status.Status.Action() == TryAgain
	}
	return !errors.As(err, &quota)
}

func (c *Client) once(ctx context.Context, endpoint string, params url.Values, limit int64) ([]byte, error) {
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	body, code, err := c.fetch(ctx, endpoint, params, limit)
	if err != nil {
		return nil, fmt.Errorf("calling %s: %w", endpoint, c.key.clean(err))
	}
	if code != http.StatusOK {
		return nil, c.unreadable(endpoint, code, body, nil)
	}
	status, err := c.status(endpoint, body)
	if err != nil {
		return nil, err
	}
	if status == OK {
		return body, nil
	}
	if status.Action() == StopKey {
		return nil, c.block(ctx)
	}
	return nil, &StatusError{Endpoint: endpoint, Status: status}
}

// take counts a call, or refuses it.
func (c *Client) take(ctx context.Context) error {
	today, next := day(c.now())
	made, err := c.quota.Take(ctx, c.key.Name(), today, 1)
	if err != nil {
		return err
	}
	if made > c.limit {
		if made > 1<<30 { // somebody met status 020 today
			made = 0
		}
		return &QuotaError{Made: made, Limit: c.limit, Until: next}
	}
	return nil
}

// block remembers for all processes that the service says 020.
func (c *Client) block(ctx context.Context) error {
	today, next := day(c.now())
	return errors.Join(&QuotaError{Until: next}, c.quota.Block(ctx, c.key.Name(), today))
}

func (c *Client) fetch(ctx context.Context, endpoint string, params url.Values, limit int64) ([]byte, int, error) {
	query := url.Values{"crtfc_key": {string(c.key)}}
	maps.Copy(query, params)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+endpoint+"?"+query.Encode(), nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("User-Agent", c.agent)
	c.requests.Add(1)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	c.bytes.Add(int64(len(body)))
	if err != nil {
		return nil, 0, err
	}
	if int64(len(body)) > limit {
		return nil, 0, fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return body, resp.StatusCode, nil
}

// status reads the status out of any of the service's forms: JSON, XML, or an archive, which is OK.
func (c *Client) status(endpoint string, body []byte) (Status, error) {
	trimmed := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
	var head struct {
		Status Status `json:"status" xml:"status"`
	}
	var err error
	switch {
	case bytes.HasPrefix(body, []byte("PK\x03\x04")):
		return OK, nil
	case bytes.HasPrefix(trimmed, []byte("{")):
		err = json.Unmarshal(trimmed, &head)
	case bytes.HasPrefix(trimmed, []byte("<?xml")), bytes.HasPrefix(trimmed, []byte("<result")):
		if xml.Unmarshal(trimmed, &head) != nil { // whose errors repeat names that stand there
			err = errors.New("its XML is broken")
		}
	default:
		err = errors.New("neither JSON nor XML nor an archive")
	}
	if err == nil && !head.Status.valid() {
		err = errors.New("its status is not of three digits")
	}
	if err != nil {
		return "", c.unreadable(endpoint, http.StatusOK, body, err)
	}
	return head.Status, nil
}

func (c *Client) unreadable(endpoint string, code int, body []byte, err error) error {
	return &AnswerError{Endpoint: endpoint, Code: code, Bytes: len(body), Err: c.key.clean(err)}
}
