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
	"github.com/embedfleet/embedfleet/tasks"
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

// States remembers feeds between runs.
type States interface {
	// Feeds returns each feed's state, JSON, by name.
	Feeds(ctx context.Context) (map[string]string, error)
	// Recall returns what a feed brought lately, as SetFeed was given it, "" for nothing.
	Recall(ctx context.Context, name string) (string, error)
	// SetFeed writes both down, in one step. An empty recall leaves that as it is.
	SetFeed(ctx context.Context, name, state, recall string) error
}

// A Lister tells which feeds there are; [List] is one.
type Lister interface {
	Feeds() ([]Feed, error)
}

// Parts are what a crawler works with. All are needed but Inside and Agent.
type Parts struct {
	Feeds  Lister
	States States
	Outbox scheduler.Outbox
	HTTP   *http.Client
	Inside *http.Client // for feeds that are marked as of the own network; HTTP if nil
	Agent  string       // name/version (+contact URL)
}

func (p Parts) client(f Feed) *http.Client {
	if f.Private && p.Inside != nil {
		return p.Inside
	}
	return p.HTTP
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
		s := readState(r.states[f.Name], f.URL)
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
	got, err := fetch(ctx, r.parts.client(f), r.parts.Agent, f, s)
	r.add(scheduler.Report{Requests: 1, Bytes: len(got.body.Bytes)})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil && got.same {
		return r.answer(ctx, f, s.succeeded(r.now), "")
	}
	var page Page
	if err == nil {
		page, err = Parse(got.body, r.now)
	}
	if err != nil {
		return r.fail(ctx, f, s, err)
	}
	text, err := r.parts.States.Recall(ctx, f.Name)
	if err != nil {
		return err
	}
	recall := scheduler.ReadRecall(text)
	items := r.read(f, s, page, recall)
	if err := r.hand(ctx, items); err != nil {
		return fmt.Errorf("handing feed %s in: %w", f.Name, err)
	}
	s.ETag, s.Modified, s.Moved, s.Cut, s.Items, s.Dropped = got.etag, got.modified, got.moved, page.Cut, len(page.Entries), page.Dropped
	if page.Cut { // what is behind the cut must not be answered with "not changed"
		s.ETag, s.Modified = "", ""
	}
	recall.Trim(r.now)
	return r.answer(ctx, f, s.succeeded(r.now), recall.Text())
}

// answer writes down that a feed answered.
func (r *run) answer(ctx context.Context, f Feed, s State, recall string) error {
	r.mu.Lock()
	r.answered++
	r.mu.Unlock()
	return r.save(ctx, f, s, recall)
}

// fail writes down that a feed did not.
func (r *run) fail(ctx context.Context, f Feed, s State, err error) error {
	wait := time.Duration(0)
	if status, ok := errors.AsType[*StatusError](err); ok {
		wait = status.RetryAfter
	}
	s = s.failed(r.now, err, wait)
	r.log.Warn("feed failed", "feed", f.Name, "err", err, "fails", s.Fails, "since", s.Since, "again", s.Wait)
	r.mu.Lock()
	r.report.Fail(failure(err))
	r.fault = err
	r.mu.Unlock()
	return r.save(ctx, f, s, "")
}

func (r *run) save(ctx context.Context, f Feed, s State, recall string) error {
	s.URL = f.URL
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing down feed %s: %w", f.Name, err)
	}
	return r.parts.States.SetFeed(ctx, f.Name, string(b), recall)
}

// stale items are not news, so that their way is not measured.
const stale = 12 * time.Hour

// read turns a page into the items that are new in this feed or say something else than they did, and notes them
// in recall. All of a feed that was never read before count as stale.
func (r *run) read(f Feed, s State, page Page, recall scheduler.Recall) (items []scheduler.Item) {
	report := scheduler.Report{Items: page.Items()}
	for _, why := range []string{dropCut, dropBeyond} {
		report.Drop(why, page.Dropped[why]-s.Dropped[why]) // those of the last answer were counted
	}
	for _, useless := range page.Useless {
		if there, _ := recall.Compare(useless.Key, ""); !there {
			report.Drop(useless.Why, 1)
		}
		recall.Note(useless.Key, "", "", r.now)
	}
	log := r.log.With("feed", f.Name)
	if page.Cut || page.Broken > 0 {
		log.Info("feed is damaged", "cut", page.Cut, "broken_characters", page.Broken, "items", len(page.Entries))
	}
	ids, names := identities(page.Entries, f.Name), map[string]string{}
	for id, memo := range recall {
		names[memo.Name] = id
	}
	here, notes := map[string]bool{}, []func(){}
	for i, e := range page.Entries {
		it := e.item("feed", f.Name, ids[i])
		there, changed := recall.Compare(it.Document.ID, it.Document.Text)
		if here[it.Document.ID] {
			if !there {
				log.Info("item is a repetition", "document", it.Document.ID, "url", it.Document.URL, "why", "twice_in_feed")
				report.Repeat("twice_in_feed")
			}
			continue
		}
		here[it.Document.ID] = true
		name := TitleName(e.Title, e.Published)
		if owner := names[name]; name != "" && owner != "" && owner != it.Document.ID {
			it.Names = nil // two addresses in one feed are two stories, whatever their titles
		} else {
			names[name] = it.Document.ID
		}
		it.Once, it.Update = true, changed
		if changed || s.OK.IsZero() || r.now.Sub(e.Published) > stale {
			it.Event = time.Time{}
		}
		if !there || changed {
			items = append(items, it)
		}
		notes = append(notes, func() { recall.Note(it.Document.ID, it.Document.Text, name, r.now) })
	}
	for _, note := range notes { // only now: the loop compares with what was
		note()
	}
	r.add(report)
	return items
}

// identities returns the id of each entry. An address that stands for several stories of one feed, as their titles
// tell, is none's id.
func identities(entries []Entry, feed string) []string {
	ids, titles := make([]string, len(entries)), map[string]map[string]bool{}
	for i, e := range entries {
		ids[i] = Identity(e.Link, e.GUID, feed, e.Title, e.Published)
		if titles[ids[i]] == nil {
			titles[ids[i]] = map[string]bool{}
		}
		titles[ids[i]][fold(e.Title)] = true
	}
	for i, e := range entries {
		if len(titles[ids[i]]) > 1 {
			ids[i] = e.exactly(feed)
		}
	}
	return ids
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
	return e.item(field, name, Identity(e.Link, e.GUID, name, e.Title, e.Published))
}

func (e Entry) item(field, name, id string) scheduler.Item {
	text := e.Title
	if e.Summary != "" && e.Summary != e.Title {
		text += "\n" + cut(e.Summary, longestText)
	}
	it := scheduler.Item{
		Document: vector.Document{
			ID: id, Text: tasks.ComposeHangul(text), Title: cut(e.Title, 1<<10), Source: Source, URL: e.Link,
			PublishedAt: e.Published, Fields: map[string]string{field: name, "published_from": e.From},
		},
		Event: e.Published,
	}
	if c, err := Canonical(e.Link); err == nil {
		it.Document.Fields["canonical"] = c
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
