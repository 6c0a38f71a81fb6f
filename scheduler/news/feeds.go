package news

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"
)

// A Feed is an entry of the list.
type Feed struct {
	Name string `json:"name"` // unique; kept in documents as field "feed"
	URL  string `json:"url"`
	Off  bool   `json:"off,omitempty"`
	// Private feeds are of the own network: their host may have a private address.
	Private bool `json:"private,omitempty"`
}

// Check refuses an address that can't be asked.
func (f Feed) Check() error {
	u, err := url.Parse(f.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("url: want an http or https address")
	}
	return nil
}

// ParseFeeds reads a list: a JSON array. It names every fault.
func ParseFeeds(b []byte) ([]Feed, error) {
	var list []Feed
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("reading the feed list: %w", err)
	}
	var faults []error
	seen := map[string]bool{}
	for i, f := range list {
		if f.Name == "" || seen[f.Name] {
			faults = append(faults, fmt.Errorf("feed %d: name %q is empty or used twice", i+1, f.Name))
		} else if err := f.Check(); err != nil {
			faults = append(faults, fmt.Errorf("feed %s: %w", f.Name, err))
		}
		seen[f.Name] = true
	}
	return list, errors.Join(faults...)
}

// A List is a feed list in a file that is read again when it changes. A change that makes it unreadable is
// reported and the list before stays in force.
type List struct {
	path string

	mu    sync.Mutex
	feeds []Feed
	read  time.Time // the file's own time when it was read
	size  int64
}

// NewList returns the list in a file; nothing is read before Feeds.
func NewList(path string) *List { return &List{path: path} }

// Feeds returns the feeds that are on. With an error it still returns the latest that could be read.
func (l *List) Feeds() ([]Feed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.refresh()
	var on []Feed
	for _, f := range l.feeds {
		if !f.Off {
			on = append(on, f)
		}
	}
	return on, err
}

func (l *List) refresh() error {
	info, err := os.Stat(l.path)
	if err != nil {
		return fmt.Errorf("reading the feed list: %w", err)
	}
	if info.ModTime().Equal(l.read) && info.Size() == l.size {
		return nil
	}
	b, err := os.ReadFile(l.path)
	if err != nil {
		return fmt.Errorf("reading the feed list: %w", err)
	}
	feeds, err := ParseFeeds(b)
	if err != nil {
		return err
	}
	l.feeds, l.read, l.size = feeds, info.ModTime(), info.Size()
	return nil
}

// A State is what is remembered of a feed between runs.
type State struct {
	URL      string    `json:"url,omitempty"`      // that this is about
	ETag     string    `json:"etag,omitempty"`     // verbatim
	Modified string    `json:"modified,omitempty"` // Last-Modified, verbatim
	OK       time.Time `json:"ok,omitzero"`        // last success, a 304 among them
	Items    int       `json:"items"`              // of the last whole answer
	Fails    int       `json:"fails,omitempty"`    // in a row
	Since    time.Time `json:"since,omitzero"`     // of the first of them
	Error    string    `json:"error,omitempty"`    // the last
	Wait     time.Time `json:"wait,omitzero"`      // not to be asked before
	Moved    string    `json:"moved,omitempty"`    // it says that it is at this address now
	Cut      bool      `json:"cut,omitempty"`      // the last whole answer ended before its end

	Dropped map[string]int `json:"dropped,omitempty"` // items of the last whole answer, by reason
}

// readState reads a feed's state. What was remembered of another address says nothing about this one; what is
// unreadable only saves work.
func readState(text, address string) State {
	var s State
	if json.Unmarshal([]byte(text), &s) != nil || s.URL != "" && s.URL != address {
		return State{}
	}
	return s
}

// failed returns the state after a fault: asked again ever more rarely, or when the server said.
func (s State) failed(now time.Time, err error, retryAfter time.Duration) State {
	if s.Fails == 0 {
		s.Since = now
	}
	s.Fails++
	s.Error = err.Error()
	wait := min(time.Duration(1<<min(s.Fails-1, 6))*10*time.Minute, 6*time.Hour)
	if _, ok := errors.AsType[*BlockedError](err); ok {
		wait = max(wait, time.Hour)
	}
	s.Wait = now.Add(max(wait, retryAfter) - time.Minute) // the slot that comes just then may ask
	return s
}

// succeeded returns the state after an answer.
func (s State) succeeded(now time.Time) State {
	s.OK, s.Fails, s.Error, s.Since, s.Wait = now, 0, "", time.Time{}, time.Time{}
	return s
}
