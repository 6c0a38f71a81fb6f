package news

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// A Shape is which of Naver's two interfaces is spoken. The legacy one gives no new keys and ends on 30 June
// 2027.
type Shape string

// The shapes.
const (
	Legacy Shape = "legacy" // developers.naver.com
	Hub    Shape = "hub"    // NAVER API HUB at Naver Cloud
)

// NaverOptions configure the search. It is off unless somebody who has read Naver's terms of 2026-09 sets
// it up: they are reported to restrict what may be done with results.
type NaverOptions struct {
	Shape      Shape
	ID, Secret string
	Queries    []string
	BaseURL    string // default the shape's
	HTTP       *http.Client
	Agent      string
}

// A NaverError is an error in either shape's form. Its code is Naver's own; its message, which may repeat what was
// asked with, is not kept.
type NaverError struct {
	HTTP int
	Code string
}

func (e *NaverError) Error() string {
	meaning := map[string]string{
		"quota": "the quota is used up", "speed": "too many calls at once", "credentials": "id or secret is refused, or lacks the right to search news",
		"server": "trouble of the service", "request": "the request is wrong",
	}[e.Kind()]
	return fmt.Sprintf("naver answers HTTP %d, code %s: %s", e.HTTP, e.Code, meaning)
}

// Kind says what to do about it: "quota" (nothing more today), "speed" (later), "credentials" (a person must
// look), "request" (never again so) or "server".
func (e *NaverError) Kind() string {
	switch {
	case e.HTTP == http.StatusTooManyRequests && (e.Code == "010" || e.Code == "400"):
		return "quota"
	case e.HTTP == http.StatusTooManyRequests || e.Code == "012":
		return "speed"
	case e.HTTP == http.StatusUnauthorized || e.HTTP == http.StatusForbidden || e.Code == "024":
		return "credentials"
	case e.HTTP >= 500 || e.Code == "SE99":
		return "server"
	default:
		return "request"
	}
}

// Naver searches news.
type Naver struct {
	log    *slog.Logger
	opts   NaverOptions
	outbox scheduler.Outbox
}

// NewNaver returns a searcher. It does no I/O.
func NewNaver(log *slog.Logger, out scheduler.Outbox, opts NaverOptions) (*Naver, error) {
	switch opts.Shape {
	case Legacy:
		opts.BaseURL = orElse(opts.BaseURL, "https://openapi.naver.com/v1/search/news.json")
	case Hub:
		opts.BaseURL = orElse(opts.BaseURL, "https://naverapihub.apigw.ntruss.com/search/v1/news")
	default:
		return nil, fmt.Errorf("naver's interface is %q, want %q or %q", opts.Shape, Legacy, Hub)
	}
	if opts.ID == "" || opts.Secret == "" || len(opts.Queries) == 0 {
		return nil, errors.New("naver's search needs an id, a secret and a query")
	}
	if opts.HTTP == nil {
		opts.HTTP = &http.Client{Timeout: fetchTimeout}
	}
	straight := *opts.HTTP
	// The service does not redirect; whoever does must not be sent the secret.
	straight.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	opts.HTTP = &straight
	return &Naver{log: log, opts: opts, outbox: out}, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Run searches each query once, newest first.
func (n *Naver) Run(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
	var total scheduler.Report
	for _, query := range n.opts.Queries {
		body, err := n.search(ctx, query)
		total.Requests++
		total.Bytes += len(body)
		if err != nil {
			total.Fail(naverFailure(err))
			if err := n.serious(err, t.Now); err != nil {
				return total, err
			}
			n.log.Warn("a search failed", "err", err)
			continue
		}
		entries, dropped, err := ParseNaver(body, t.Now)
		if err != nil {
			return total, err
		}
		items := make([]scheduler.Item, len(entries))
		for i, e := range entries {
			items[i] = e.Item("query", query)
		}
		r, err := n.outbox.Put(ctx, items)
		r.Items = len(entries) + dropped
		r.Drop("no_title_or_link", dropped)
		total.Add(r)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// serious returns the error that ends the run: one that every other query would meet too.
func (n *Naver) serious(err error, now time.Time) error {
	var e *NaverError
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind() {
	case "quota":
		y, m, d := now.In(scheduler.KST).Date()
		midnight := time.Date(y, m, d+1, 0, 0, 0, 0, scheduler.KST)
		return fmt.Errorf("%w: %w", &scheduler.PauseError{Until: midnight, Reason: e.Error()}, err)
	case "credentials":
		return fmt.Errorf("%w: %w", &scheduler.PauseError{Reason: e.Error()}, err)
	case "speed", "server":
		return err
	default:
		return nil
	}
}

func naverFailure(err error) string {
	if e, ok := errors.AsType[*NaverError](err); ok {
		return "naver_" + e.Kind()
	}
	return failure(err)
}

func (n *Naver) search(ctx context.Context, query string) ([]byte, error) {
	params := url.Values{"query": {query}, "display": {"100"}, "start": {"1"}, "sort": {"date"}}
	idHeader, secretHeader := "X-Naver-Client-Id", "X-Naver-Client-Secret"
	if n.opts.Shape == Hub {
		params.Set("format", "json")
		idHeader, secretHeader = "X-NCP-APIGW-API-KEY-ID", "X-NCP-APIGW-API-KEY"
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.opts.BaseURL+"?"+params.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("searching naver: %w", err)
	}
	req.Header.Set(idHeader, n.opts.ID)
	req.Header.Set(secretHeader, n.opts.Secret)
	req.Header.Set("User-Agent", orElse(n.opts.Agent, "embedfleet"))
	resp, err := n.opts.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("searching naver: %w", plain(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("searching naver: %w", plain(err))
	}
	return body, naverError(resp.StatusCode, body)
}

// naverError finds an error in the body, which may come with HTTP 200, its code a word or a number.
func naverError(code int, body []byte) error {
	var form struct {
		Code  any `json:"errorCode"`
		Error *struct {
			Code any `json:"errorCode"`
		} `json:"error"`
	}
	err := json.Unmarshal(body, &form)
	switch {
	case err == nil && form.Error != nil:
		return &NaverError{code, word(form.Error.Code)}
	case err == nil && form.Code != nil:
		return &NaverError{code, word(form.Code)}
	case code == http.StatusOK:
		return nil
	default:
		return &NaverError{HTTP: code, Code: "none"}
	}
}

// word returns a code as text, of letters and digits only; numbers lose nothing, for those that begin with 0 come as words.
func word(code any) string {
	if f, ok := code.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	if s, ok := code.(string); ok && len(s) <= 8 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "" {
		return s
	}
	return "?"
}

// ParseNaver reads an answer of either shape; they are alike. The link of an article is its outlet's where
// that is known. A snippet depends on the query, so it is embedded and never compared.
func ParseNaver(body []byte, fetched time.Time) (entries []Entry, dropped int, err error) {
	var answer struct {
		Items []struct {
			Title        string `json:"title"`
			OriginalLink string `json:"originallink"`
			Link         string `json:"link"`
			Description  string `json:"description"`
			PubDate      string `json:"pubDate"`
		} `json:"items"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, 0, fmt.Errorf("reading naver's answer of %d bytes: it is no JSON of a search", len(body))
	}
	for _, it := range answer.Items {
		e := Entry{Title: Clean(it.Title), Summary: Clean(it.Description), Link: strings.TrimSpace(it.OriginalLink)}
		if _, err := Canonical(e.Link); err != nil {
			e.Link = strings.TrimSpace(it.Link)
		}
		if _, err := Canonical(e.Link); err != nil || e.Title == "" {
			dropped++
			continue
		}
		e.Published, e.From = Published(it.PubDate, fetched)
		entries = append(entries, e)
	}
	return entries, dropped, nil
}
