package jsonapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// A Config describes an interface. Pointers are JSON Pointers; those of an item begin at the item.
type Config struct {
	// URL is the address, with {page}, {offset}, {cursor}, {from} and {to} where they belong.
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	// Window is how far back a run asks at least, where the address has {from}. After a gap it is further.
	Window  string            `json:"window,omitempty"`
	Time    string            `json:"time_format,omitempty"` // of {from} and {to}: Go's layout, or "unix"; default 2006-01-02
	Pages   Pages             `json:"pages,omitzero"`
	Items   string            `json:"items"` // the list; "" if the answer is the list
	ID      string            `json:"id"`
	Title   string            `json:"title,omitempty"`
	Text    Texts             `json:"text"` // one or more, joined by lines
	When    string            `json:"time,omitempty"`
	Link    string            `json:"link,omitempty"`
	Codes   string            `json:"stock_codes,omitempty"`
	Fields  map[string]string `json:"fields,omitempty"`
	Private bool              `json:"private,omitempty"` // in the own network
}

// Pages says how an interface divides its answers.
type Pages struct {
	First int    `json:"first,omitempty"` // number of the first page, mostly 0 or 1
	Size  int    `json:"size,omitempty"`  // items of a full page: {offset} goes by it, and a shorter page is the last
	Max   int    `json:"max,omitempty"`   // pages of one run, default 20
	Next  string `json:"next,omitempty"`  // where an answer names the next: a cursor if the address has {cursor}, else an address
}

// Texts are pointers, written as one or as a list.
type Texts []string

// UnmarshalJSON reads either form.
func (t *Texts) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*t = Texts{""}
		return json.Unmarshal(b, &(*t)[0])
	}
	return json.Unmarshal(b, (*[]string)(t))
}

const (
	defaultPages  = 20
	defaultWindow = 72 * time.Hour
)

// A shape is a configuration that was checked.
type shape struct {
	Config
	window                 time.Duration
	items, id, title, when pointer
	link, codes, next      pointer
	texts                  []pointer
	fields                 map[string]pointer
}

var place = regexp.MustCompile(`\{[^{}]*\}`)

var places = []string{"{page}", "{offset}", "{cursor}", "{from}", "{to}"}

// check reads a configuration and names every fault.
func (c Config) check() (shape, error) {
	s := shape{Config: c, window: defaultWindow, fields: map[string]pointer{}}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if u, err := url.Parse(place.ReplaceAllString(c.URL, "1")); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		fault("url: want an http or https address")
	}
	for _, p := range place.FindAllString(c.URL, -1) {
		if !slices.Contains(places, p) {
			fault("url: %s is none of %s", p, strings.Join(places, ", "))
		}
	}
	point := func(name, text string, needed bool) (p pointer) {
		p, err := parsePointer(text)
		if err != nil {
			fault("%s: %w", name, err)
		}
		if needed && text == "" {
			fault("%s: is missing: want a JSON Pointer, as /%s", name, name)
		}
		return p
	}
	s.items, s.id, s.title, s.when = point("items", c.Items, false), point("id", c.ID, true), point("title", c.Title, false), point("time", c.When, false)
	s.link, s.codes, s.next = point("link", c.Link, false), point("stock_codes", c.Codes, false), point("pages.next", c.Pages.Next, false)
	for _, t := range c.Text {
		s.texts = append(s.texts, point("text", t, true))
	}
	if len(c.Text) == 0 {
		fault("text: is missing: want a JSON Pointer or a list of them")
	}
	for name, text := range c.Fields {
		s.fields[name] = point("fields."+name, text, true)
	}
	if c.Window != "" {
		var err error
		if s.window, err = time.ParseDuration(c.Window); err != nil || s.window <= 0 {
			fault("window: %q is no length of time, as 72h", c.Window)
		}
	}
	if strings.Contains(c.URL, "{offset}") && c.Pages.Size <= 0 {
		fault("pages.size: is missing, and {offset} goes by it")
	}
	if strings.Contains(c.URL, "{cursor}") && c.Pages.Next == "" {
		fault("pages.next: is missing, and {cursor} is what stands there")
	}
	if c.Pages.Max < 0 || c.Pages.Size < 0 || c.Pages.First < 0 {
		fault("pages: want no negative numbers")
	}
	if s.Pages.Max == 0 {
		s.Pages.Max = defaultPages
	}
	return s, errors.Join(faults...)
}

// Check names every fault of a configuration.
func (c Config) Check() error {
	_, err := c.check()
	return err
}

// LookBack is how far back a run asks at least.
func (c Config) LookBack() time.Duration {
	s, err := c.check()
	if err != nil {
		return defaultWindow
	}
	return s.window
}

// paged reports whether there is more than one page to ask for.
func (s shape) paged() bool {
	return strings.Contains(s.URL, "{page}") || strings.Contains(s.URL, "{offset}") || s.Pages.Next != ""
}

// address fills the places of the template.
func (s shape) address(t scheduler.Tick, page int, cursor string) string {
	stamp := func(at time.Time) string {
		switch s.Time {
		case "":
			return at.In(scheduler.KST).Format(time.DateOnly)
		case "unix":
			return strconv.FormatInt(at.Unix(), 10)
		}
		return at.In(scheduler.KST).Format(s.Time)
	}
	return strings.NewReplacer(
		"{page}", strconv.Itoa(s.Pages.First+page), "{offset}", strconv.Itoa(s.Pages.First+page*s.Pages.Size), "{cursor}", url.QueryEscape(cursor),
		"{from}", url.QueryEscape(stamp(t.From())), "{to}", url.QueryEscape(stamp(t.Now)),
	).Replace(s.URL)
}
