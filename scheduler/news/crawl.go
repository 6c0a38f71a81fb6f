package news

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/vector"
)

// The source and jobs of this room.
const (
	Source   = "news"
	JobFeeds = "news"
	JobNaver = "naver"
)

// KeepSeen is how long stories are remembered; feeds carry a few days.
const KeepSeen = 14 * 24 * time.Hour

// Schedules returns when the source is crawled, in Korean time, and why.
func Schedules() []scheduler.Schedule {
	return []scheduler.Schedule{
		{
			Job: JobFeeds, Source: Source, Cron: []string{"*/10 * * * *"}, Window: 3 * 24 * time.Hour,
			Reason: "feeds carry some hours of news; ten minutes are polite, and most answers are 304",
		},
		{
			Job: JobNaver, Source: "naver", Cron: []string{"5-59/10 * * * *"}, Window: 24 * time.Hour,
			Reason: "between the feeds' runs, so that a story is known by its outlet's address first",
		},
	}
}

const (
	hostsAtOnce = 8
	longestText = 4 << 10 // bytes of a summary that are embedded
	pauseAtHost = 2 * time.Second
)

// States remembers feeds between runs, each as JSON.
type States interface {
	Feeds(ctx context.Context) (map[string]string, error)
	SetFeed(ctx context.Context, name, state string) error
}

// A Lister tells which feeds there are; [List] is one.
type Lister interface {
	Feeds() ([]Feed, error)
}

// Parts are what a crawler works with. All are needed but Agent.
type Parts struct {
	Feeds  Lister
	States States
	Outbox scheduler.Outbox
	HTTP   *http.Client
	Agent  string // name/version (+contact URL)
}

// A Crawler brings feeds into the fleet.
type Crawler struct {
	log   *slog.Logger
	parts Parts
}

// New returns one. It does no I/O.
func New(log *slog.Logger, p Parts) *Crawler {
	if p.Agent == "" {
		p.Agent = "embedfleet"
	}
	return &Crawler{log: log, parts: p}
}

// Run asks every feed that is not to be left alone. One request at a time goes to a host. A feed that fails
// is counted and asked again later; the run fails only if nothing could be written down, or if every feed
// that was asked failed.
func (c *Crawler) Run(ctx context.Context, t scheduler.Tick) (scheduler.Report, error) {
	feeds, err := c.parts.Feeds.Feeds()
	if err != nil {
		c.log.Error("the feed list is unreadable, the one before stays in force", "err", err)
		if len(feeds) == 0 {
			return scheduler.Report{}, err
		}
	}
	states, err := c.parts.States.Feeds(ctx)
	if err != nil {
		return scheduler.Report{}, err
	}
	r := &run{Crawler: c, now: t.Now, states: states}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(hostsAtOnce)
	for _, list := range byHost(feeds) {
		group.Go(func() error { return r.host(inner, list) })
	}
	err = group.Wait()
	if err == nil && r.report.Failed > 0 && r.answered == 0 {
		err = fmt.Errorf("none of %d feeds answered: %w", r.report.Failed, r.fault)
	}
	return r.report, err
}

// byHost groups feeds, in the order of the list.
func byHost(feeds []Feed) (groups [][]Feed) {
	index := map[string]int{}
	for _, f := range feeds {
		host := ""
		if u, err := url.Parse(f.URL); err == nil { // the list was checked
			host = strings.ToLower(u.Hostname())
		}
		i, ok := index[host]
		if !ok {
			i = len(groups)
			index[host] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], f)
	}
	return groups
}

// A run is one Run under way.
type run struct {
	*Crawler
	now    time.Time
	states map[string]string

	handing  sync.Mutex // one feed's items at a time, so that a story in two feeds is seen to be one
	mu       sync.Mutex // guards the fields below
	report   scheduler.Report
	answered int
	fault    error // the latest
}

func (r *run) add(o scheduler.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Add(o)
}

// host asks one host's feeds, one after the other with a pause.
func (r *run) host(ctx context.Context, feeds []Feed) error {
	asked := false
	for _, f := range feeds {
		var s State
		if err := json.Unmarshal([]byte(r.states[f.Name]), &s); err != nil {
			s = State{} // none yet, or unreadable: it only saves work
		}
		if s.Wait.After(r.now) {
			r.mu.Lock()
			r.answered++ // it is not news that this one fails
			r.mu.Unlock()
			continue
		}
		if asked {
			timer := time.NewTimer(pauseAtHost/2 + rand.N(pauseAtHost))
			select {
			case <-ctx.Done():
				timer.Stop()
				return context.Cause(ctx)
			case <-timer.C:
			}
		}
		asked = true
		if err := r.feed(ctx, f, s); err != nil {
			return err
		}
	}
	return nil
}

// feed asks one feed and hands its items in. Only then is it written down what the server may leave out
// the next time: the other order would lose items to a crash.
func (r *run) feed(ctx context.Context, f Feed, s State) error {
	log := r.log.With("feed", f.Name)
	got, err := fetch(ctx, r.parts.HTTP, r.parts.Agent, f, s)
	r.add(scheduler.Report{Requests: 1, Bytes: len(got.body)})
	var items []scheduler.Item
	if err == nil && !got.same {
		items, err = r.read(f, s, got.body)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		wait := time.Duration(0)
		if status, ok := errors.AsType[*StatusError](err); ok {
			wait = status.RetryAfter
		}
		s = s.failed(r.now, err, wait)
		log.Warn("feed failed", "err", err, "fails", s.Fails, "since", s.Since, "again", s.Wait)
		r.mu.Lock()
		r.report.Failed++
		r.fault = err
		r.mu.Unlock()
		return r.save(ctx, f, s)
	}
	if !got.same {
		if err := r.hand(ctx, items); err != nil {
			return fmt.Errorf("handing feed %s in: %w", f.Name, err)
		}
		s.ETag, s.Modified, s.Items = got.etag, got.modified, len(items)
	}
	r.mu.Lock()
	r.answered++
	r.mu.Unlock()
	return r.save(ctx, f, s.succeeded(r.now))
}

func (r *run) save(ctx context.Context, f Feed, s State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing down feed %s: %w", f.Name, err)
	}
	return r.parts.States.SetFeed(ctx, f.Name, string(b))
}

// stale items are not news, so that their way is not measured.
const stale = 12 * time.Hour

// read turns a body into items. All of a feed that was never read before count as stale.
func (r *run) read(f Feed, s State, body []byte) ([]scheduler.Item, error) {
	entries, dropped, err := Parse(body, r.now)
	r.add(scheduler.Report{Items: len(entries) + dropped, Dropped: dropped})
	if err != nil {
		return nil, err
	}
	items := make([]scheduler.Item, len(entries))
	for i, e := range entries {
		items[i] = e.Item("feed", f.Name)
		if s.OK.IsZero() || r.now.Sub(e.Published) > stale {
			items[i].Event = time.Time{}
		}
	}
	return items, nil
}

func (r *run) hand(ctx context.Context, items []scheduler.Item) error {
	r.handing.Lock()
	defer r.handing.Unlock()
	report, err := r.parts.Outbox.Put(ctx, items)
	report.Items = 0 // counted as they were read
	r.add(report)
	return err
}

// Item turns an entry into what is handed in: title and summary, under the article's identity and, if it is
// long enough to tell, its title. The field of that name says where it was found.
func (e Entry) Item(field, name string) scheduler.Item {
	link := e.Link
	if c, err := Canonical(e.Link); err == nil {
		link = c
	}
	text := e.Title
	if e.Summary != "" && e.Summary != e.Title {
		text += "\n" + cut(e.Summary, longestText)
	}
	it := scheduler.Item{
		Document: vector.Document{
			ID: Identity(e.Link, name, e.Title, e.Published), Text: text, Title: cut(e.Title, 1<<10), Source: Source, URL: link,
			PublishedAt: e.Published, Fields: map[string]string{field: name, "published_from": e.From},
		},
		Event: e.Published,
	}
	if title := TitleName(e.Title, e.Published); title != "" {
		it.Names = []string{title}
	}
	return it
}

// cut returns at most n bytes of s, whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
