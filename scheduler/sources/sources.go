// Package sources reads the file that says what is crawled: a source an entry, each of a kind. It owns the form of
// the file and when what is in it runs, and names every fault of it; it refuses to know how any kind is crawled.
package sources

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/interval"
	"github.com/embedfleet/embedfleet/scheduler/jsonapi"
	"github.com/embedfleet/embedfleet/scheduler/news"
)

// A Kind is how a source is crawled.
type Kind string

// The kinds.
const (
	KindFeed     Kind = "feed"
	KindDART     Kind = "dart"
	KindNaver    Kind = "naver"
	KindJSONAPI  Kind = "json-api"
	KindInterval Kind = "interval"
)

// Kinds are all of them.
var Kinds = []Kind{KindFeed, KindDART, KindNaver, KindJSONAPI, KindInterval}

// A Common is what every entry has.
type Common struct {
	Name string `json:"name"` // unique
	Kind Kind   `json:"kind"`
	Off  bool   `json:"off,omitempty"`
}

// A Timing says when an entry runs that has a job of its own.
type Timing struct {
	Every string   `json:"every,omitempty"` // a length of time that divides an hour or a day: 1m, 10m, 6h
	Cron  []string `json:"cron,omitempty"`  // five fields each, Korean time
}

// A Feed is an entry of kind feed. All feeds are one job.
type Feed struct {
	Common
	URL     string `json:"url"`
	Private bool   `json:"private,omitempty"`
}

// A DART is the entry of kind dart. Its key is not here, see the scheduler's --dart-key.
type DART struct {
	Common
	ListedOnly bool     `json:"listed_only,omitempty"`
	Classes    string   `json:"classes,omitempty"`
	Companies  []string `json:"companies,omitempty"`
	Bodies     []string `json:"bodies,omitempty"`
	Quota      int      `json:"quota,omitempty"`
}

// A Naver is the entry of kind naver. Its id and secret are not here, see the scheduler's --naver-id.
type Naver struct {
	Common
	Shape   news.Shape `json:"interface"`
	Queries []string   `json:"queries"`
}

// A JSONAPI is an entry of kind json-api.
type JSONAPI struct {
	Common
	Timing
	jsonapi.Config
}

// An Interval is an entry of kind interval.
type Interval struct {
	Common
	Timing
	interval.Config
}

// A Set is what a file says, without what is off.
type Set struct {
	Feeds     []news.Feed
	DART      *DART
	Naver     *Naver
	JSONAPIs  []JSONAPI
	Intervals []Interval
	// Versions tells each entry from itself after it was changed, by name.
	Versions map[string]string
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// reserved are the names of sources that have more than one job, and of their jobs.
var reserved = []string{dart.Source, news.Source, "naver", "dart-wide", "dart-companies", "news-alike"}

// Parse reads a file's text. getenv is asked for {env:NAME} in headers and addresses. The error names every fault.
func Parse(text []byte, getenv func(string) (string, bool)) (Set, error) {
	var file struct {
		Sources []json.RawMessage `json:"sources"`
	}
	if err := strict(text, &file); err != nil {
		return Set{}, err
	}
	set := Set{Versions: map[string]string{}}
	var faults []error
	for i, raw := range file.Sources {
		var c Common
		if err := json.Unmarshal(raw, &c); err != nil {
			faults = append(faults, fmt.Errorf("source %d: %w", i+1, err))
			continue
		}
		label := fmt.Sprintf("source %d (%s)", i+1, c.Name)
		if err := c.check(set.Versions); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", label, err))
		}
		set.Versions[c.Name] = string(raw)
		if err := set.add(c, raw, getenv); err != nil {
			for one := range strings.SplitSeq(err.Error(), "\n") {
				faults = append(faults, fmt.Errorf("%s: %s", label, one))
			}
		}
	}
	return set, errors.Join(faults...)
}

// strict refuses what it does not know, and what follows.
func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w", err)
	}
	if d.More() {
		return errors.New("there is something behind the end")
	}
	return nil
}

func (c Common) check(known map[string]string) error {
	_, twice := known[c.Name]
	switch own := slices.Contains(reserved, c.Name); {
	case !nameForm.MatchString(c.Name):
		return errors.New("name: want small letters, digits, dots and dashes, at most 64")
	case twice:
		return errors.New("name: is used twice")
	case own && (c.Kind == KindJSONAPI || c.Kind == KindInterval):
		return fmt.Errorf("name: %s is the name of another source or of its jobs", c.Name)
	case !slices.Contains(Kinds, c.Kind):
		return fmt.Errorf("kind: %q is none of feed, dart, naver, json-api, interval", c.Kind)
	}
	return nil
}

// add reads an entry of a kind.
func (s *Set) add(c Common, raw []byte, getenv func(string) (string, bool)) error {
	switch c.Kind {
	case KindFeed:
		return s.addFeed(raw)
	case KindDART:
		return s.addDART(raw)
	case KindNaver:
		return s.addNaver(raw)
	case KindJSONAPI:
		var e JSONAPI
		if err := strict(raw, &e); err != nil {
			return err
		}
		err := errors.Join(e.Timing.check(), expand(getenv, &e.URL, e.Headers), e.Check())
		if !e.Off && err == nil {
			s.JSONAPIs = append(s.JSONAPIs, e)
		}
		return err
	case KindInterval:
		var e Interval
		if err := strict(raw, &e); err != nil {
			return err
		}
		err := errors.Join(e.Timing.check(), expand(getenv, &e.URL, e.Headers), e.Check())
		if !e.Off && err == nil {
			s.Intervals = append(s.Intervals, e)
		}
		return err
	}
	return nil // check said so
}

func (s *Set) addFeed(raw []byte) error {
	var e Feed
	if err := strict(raw, &e); err != nil {
		return err
	}
	f := news.Feed{Name: e.Name, URL: e.URL, Off: e.Off, Private: e.Private}
	if err := f.Check(); err != nil {
		return err
	}
	s.Feeds = append(s.Feeds, f)
	return nil
}

func (s *Set) addDART(raw []byte) error {
	var e DART
	if err := strict(raw, &e); err != nil {
		return err
	}
	if strings.Trim(e.Classes, "YKNE") != "" {
		return fmt.Errorf("classes: %q has letters other than Y, K, N and E", e.Classes)
	}
	if e.Quota < 0 {
		return errors.New("quota: is negative")
	}
	if e.Off {
		return nil
	}
	if s.DART != nil {
		return errors.New("kind: there is one of kind dart already")
	}
	s.DART = &e
	return nil
}

func (s *Set) addNaver(raw []byte) error {
	var e Naver
	if err := strict(raw, &e); err != nil {
		return err
	}
	if e.Shape != news.Legacy && e.Shape != news.Hub {
		return fmt.Errorf("interface: %q is neither legacy nor hub", e.Shape)
	}
	if len(e.Queries) == 0 {
		return errors.New("queries: is missing: want what is searched")
	}
	if e.Off {
		return nil
	}
	if s.Naver != nil {
		return errors.New("kind: there is one of kind naver already")
	}
	s.Naver = &e
	return nil
}

var variable = regexp.MustCompile(`\{env:([A-Za-z_][A-Za-z0-9_]*)\}`)

// expand puts variables of the environment where an entry names them, so that no secret is in the file.
func expand(getenv func(string) (string, bool), address *string, headers map[string]string) error {
	var faults []error
	fill := func(text string) string {
		return variable.ReplaceAllStringFunc(text, func(place string) string {
			name := variable.FindStringSubmatch(place)[1]
			value, ok := getenv(name)
			if !ok || value == "" {
				faults = append(faults, fmt.Errorf("{env:%s}: the environment has no %s", name, name))
			}
			return value
		})
	}
	*address = fill(*address)
	for name, value := range headers {
		headers[name] = fill(value)
	}
	return errors.Join(faults...)
}

// check refuses what would never run, or cannot be aligned.
func (t Timing) check() error {
	if (t.Every == "") == (len(t.Cron) == 0) {
		return errors.New("every, cron: want one of them")
	}
	_, err := t.lines()
	if err != nil {
		return err
	}
	_, err = t.Schedule("x", 0, "").Next(time.Now(), 1)
	return err
}

// lines returns cron lines.
func (t Timing) lines() ([]string, error) {
	if t.Every == "" {
		return t.Cron, nil
	}
	d, err := time.ParseDuration(t.Every)
	minutes := int(d / time.Minute)
	switch {
	case err != nil || d <= 0 || d%time.Minute != 0:
	case minutes <= 60 && 60%minutes == 0:
		if minutes == 60 {
			return []string{"0 * * * *"}, nil
		}
		return []string{fmt.Sprintf("*/%d * * * *", minutes)}, nil
	case minutes == 24*60:
		return []string{"0 0 * * *"}, nil
	case minutes%60 == 0 && 24%(minutes/60) == 0:
		return []string{fmt.Sprintf("0 */%d * * *", minutes/60)}, nil
	}
	return nil, fmt.Errorf("every: %q: want a length that divides an hour or a day, as 1m, 10m, 6h, or cron lines", t.Every)
}

// Schedule returns when a source runs, as its only job.
func (t Timing) Schedule(name string, window time.Duration, reason string) scheduler.Schedule {
	lines, err := t.lines()
	if err != nil {
		lines = nil // check said so
	}
	return scheduler.Schedule{Job: name, Source: name, Cron: lines, Window: window, Reason: reason}
}

// A File is a file of sources that is read again when it changes. It is safe for concurrent use.
type File struct {
	path   string
	getenv func(string) (string, bool)

	mu   sync.Mutex
	seen os.FileInfo
}

// NewFile returns the file of a path; nothing is read before Read.
func NewFile(path string, getenv func(string) (string, bool)) *File {
	return &File{path: path, getenv: getenv}
}

// Read returns what the file says if it changed since it was read last, whether or not it could be read then.
func (f *File) Read() (set Set, changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		gone := f.seen != nil
		f.seen = nil
		return Set{}, gone, fmt.Errorf("reading the sources: %w", err)
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return Set{}, false, nil
	}
	f.seen = info
	text, err := os.ReadFile(f.path)
	if err != nil {
		return Set{}, true, fmt.Errorf("reading the sources: %w", err)
	}
	if set, err = Parse(text, f.getenv); err != nil {
		return Set{}, true, fmt.Errorf("reading the sources in %s:\n%w", f.path, err)
	}
	return set, true, nil
}
