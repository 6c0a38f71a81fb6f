package jsonapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"github.com/embedfleet/embedfleet/scheduler/news"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	maxBody   = 16 << 20 // bytes of an answer
	maxItem   = 1 << 20  // bytes of an item; a text may have as many
	maxItems  = 10_000   // of an answer
	longestID = 160      // bytes; a longer one is hashed
	pagePause = 200 * time.Millisecond
	stale     = 12 * time.Hour // items are not measured from so long ago
)

// A Memory remembers what the interface brought lately.
type Memory interface {
	// Recall returns what SetRecall was given last, "" for nothing.
	Recall(ctx context.Context, name string) (string, error)
	SetRecall(ctx context.Context, name, recall string) error
}

// Parts are what a crawler works with. All are needed but Agent.
type Parts struct {
	Outbox scheduler.Outbox
	Memory Memory
	HTTP   *http.Client
	Agent  string
}

// A Crawler brings one interface's items into the fleet.
type Crawler struct {
	log   *slog.Logger
	name  string
	shape shape
	parts Parts
}

// New returns one, for the source of a name. It does no I/O.
func New(log *slog.Logger, name string, c Config, p Parts) (*Crawler, error) {
	s, err := c.check()
	if err != nil {
		return nil, err
	}
	return &Crawler{log: log.With("source", name), name: name, shape: s, parts: p}, nil
}

// A StatusError is an HTTP status that is no answer.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("HTTP %d %s", e.Code, http.StatusText(e.Code))
}

// Run reads all pages of the tick's window. What was read before a fault is handed in before it is reported. An
// interface that says 429 is left alone as long as it says.
func (c *Crawler) Run(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
	var r scheduler.Report
	kept, err := c.parts.Memory.Recall(ctx, c.name)
	if err != nil {
		return r, err
	}
	recall := scheduler.ReadRecall(kept)
	items, walkErr := c.walk(ctx, t, &r)
	var fresh []scheduler.Item
	for i := range items {
		d := &items[i].Document
		there, changed := recall.Compare(d.ID, d.Text)
		if items[i].Update = changed; !there || changed {
			if changed {
				items[i].Event = time.Time{}
			}
			fresh = append(fresh, items[i])
		}
		recall.Note(d.ID, d.Text, "", t.Now)
	}
	put, err := c.parts.Outbox.Put(ctx, fresh)
	r.Add(put)
	if err != nil {
		return r, fmt.Errorf("handing %d items in: %w", len(fresh), err)
	}
	recall.Trim(t.Now)
	if err := c.parts.Memory.SetRecall(ctx, c.name, recall.Text()); err != nil {
		return r, err
	}
	if walkErr != nil {
		r.Fail(failure(walkErr))
	}
	return r, walkErr
}

// failure is why a walk failed, in a word for counts.
func failure(err error) string {
	var coded interface{ Code() string }
	if s, ok := errors.AsType[*StatusError](err); ok {
		return fmt.Sprintf("http_%d", s.Code)
	}
	if errors.As(err, &coded) {
		return coded.Code()
	}
	if errors.Is(err, errBroken) || errors.Is(err, errAbsent) {
		return "other_shape"
	}
	return "unreachable"
}

// walk asks page after page, until one is empty, short, or brings nothing that an earlier one did not.
func (c *Crawler) walk(ctx context.Context, t scheduler.Tick, r *scheduler.Report) (items []scheduler.Item, err error) {
	seen, address := map[string]bool{}, c.shape.address(t, 0, "")
	for page := 0; ; page++ {
		if page > 0 {
			if err := pause(ctx); err != nil {
				return items, err
			}
		}
		body, err := c.get(ctx, address, t.Now)
		r.Requests++
		r.Bytes += len(body)
		if err != nil {
			return items, fmt.Errorf("asking for page %d: %w", page+1, err)
		}
		list, count, err := c.read(body, t.Now, r)
		if err != nil {
			return items, fmt.Errorf("reading page %d of %d bytes: %w", page+1, len(body), err)
		}
		found := false
		for _, it := range list {
			if !seen[it.Document.ID] {
				seen[it.Document.ID], found = true, true
				items = append(items, it)
			}
		}
		if !found || !c.shape.paged() || count < c.shape.Pages.Size {
			return items, nil
		}
		if address = c.following(t, page+1, address, body); address == "" {
			return items, nil
		}
		if page+1 == c.shape.Pages.Max {
			c.log.Warn("there are more pages than a run asks for", "pages", c.shape.Pages.Max)
			r.Drop("pages_beyond_max", 1)
			return items, nil
		}
	}
}

// following returns the next page's address, "" if there is none. It never leaves the host, which may be told a key.
func (c *Crawler) following(t scheduler.Tick, page int, address string, body []byte) string {
	if c.shape.Pages.Next == "" {
		return c.shape.address(t, page, "")
	}
	value, err := c.shape.next.in(body)
	next := text(value)
	if err != nil || next == "" {
		return ""
	}
	if strings.Contains(c.shape.URL, "{cursor}") {
		return c.shape.address(t, page, next)
	}
	here, err1 := url.Parse(address)
	there, err2 := url.Parse(next)
	if err1 != nil || err2 != nil {
		return ""
	}
	if there = here.ResolveReference(there); there.Host != here.Host || there.Scheme != here.Scheme {
		c.log.Warn("the next page is said to be on another host and is not asked for")
		return ""
	}
	return there.String()
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(pagePause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func (c *Crawler) get(ctx context.Context, address string, now time.Time) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("the address can't be used")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.parts.Agent)
	for name, value := range c.shape.Headers {
		req.Header.Set(name, value)
	}
	resp, err := c.parts.HTTP.Do(req)
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // without the address, which may hold a key
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusTooManyRequests {
		wait, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // a date is taken for a minute
		until := now.Add(min(max(time.Duration(wait)*time.Second, time.Minute), 24*time.Hour))
		return nil, fmt.Errorf("%w: %w", &scheduler.PauseError{Until: until, Reason: "the interface says that these are too many calls"}, &StatusError{resp.StatusCode})
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &StatusError{resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	return body, err
}

// read returns an answer's items and how many there are, those that are dropped among them.
func (c *Crawler) read(body []byte, now time.Time, r *scheduler.Report) (items []scheduler.Item, count int, err error) {
	raw, err := c.shape.items.in(body)
	if err != nil {
		return nil, 0, fmt.Errorf("looking for the items at %q: %w", c.shape.Items, err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	switch open, err := d.Token(); {
	case err != nil:
		return nil, 0, errBroken
	case open == nil: // null: there are none
		return nil, 0, nil
	case open != json.Delim('['):
		return nil, 0, fmt.Errorf("at %q: %w: want a list", c.shape.Items, errAbsent)
	}
	for d.More() {
		var one json.RawMessage
		if d.Decode(&one) != nil {
			return items, count, errBroken
		}
		count++
		r.Items++
		it, why := c.item(one, now)
		switch {
		case why != "":
			r.Drop(why, 1)
		case len(items) == maxItems:
			r.Drop("beyond_10000_items", 1)
		default:
			items = append(items, it)
		}
	}
	return items, count, nil
}

// item turns one into what is handed in, or says why it can't be.
func (c *Crawler) item(raw json.RawMessage, now time.Time) (it scheduler.Item, why string) {
	if len(raw) > maxItem {
		return it, "too_long"
	}
	at := func(p pointer) string {
		if p == nil {
			return ""
		}
		value, err := p.in(raw)
		if err != nil {
			return ""
		}
		return text(value)
	}
	id := strings.TrimSpace(at(c.shape.id))
	if id == "" {
		return it, "no_id"
	}
	if len(id) > longestID || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		sum := sha256.Sum256([]byte(id))
		id = hex.EncodeToString(sum[:16])
	}
	var parts []string
	for _, p := range c.shape.texts {
		if s := news.Clean(at(p)); s != "" {
			parts = append(parts, s)
		}
	}
	if len(parts) == 0 {
		return it, "no_text"
	}
	d := vector.Document{
		ID: c.name + ":" + id, Text: tasks.ComposeHangul(strings.Join(parts, "\n")), Title: news.Clean(at(c.shape.title)), Source: c.name,
		Fields: map[string]string{},
	}
	d.PublishedAt, d.Fields["published_from"] = news.Published(at(c.shape.when), now)
	if d.Fields["published_from"] == "feed" {
		d.Fields["published_from"] = "item"
	}
	if link := at(c.shape.link); link != "" {
		if _, err := news.Canonical(link); err == nil {
			d.URL = link
		}
	}
	if c.shape.codes != nil {
		if value, err := c.shape.codes.in(raw); err == nil {
			d.StockCodes = list(value)
		}
	}
	for name, p := range c.shape.fields {
		if s := at(p); s != "" {
			d.Fields[name] = s
		}
	}
	it = scheduler.Item{Document: d, Event: d.PublishedAt, Once: true}
	if now.Sub(d.PublishedAt) > stale {
		it.Event = time.Time{}
	}
	return it, ""
}
