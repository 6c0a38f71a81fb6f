package news

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// An Entry is an item of a feed, cleaned.
type Entry struct {
	Title, Summary string
	Link           string    // the article's own, absolute; "" if a guid is all there is
	GUID           string    // as the feed has it
	Published      time.Time // UTC
	From           string    // "feed" or "first_seen"
}

// A Body is what a server answered with.
type Body struct {
	Bytes []byte
	Type  string // Content-Type
	URL   string // the address that answered
}

// A Page is a feed that was read.
type Page struct {
	Entries []Entry
	Dropped map[string]int // items that are not among them, by reason
	Useless []Useless      // those of them that were read
	Cut     bool           // the feed ends before its end
	Broken  int            // characters that could not be read
}

// A Useless item is one that nobody could read or find again.
type Useless struct {
	Why string
	Key string // the same as long as it is in the feed
}

// Items returns how many there were.
func (p Page) Items() int {
	n := len(p.Entries)
	for _, dropped := range p.Dropped {
		n += dropped
	}
	return n
}

// The reasons for which an item is dropped.
const (
	dropNoTitle = "no_title"
	dropNoLink  = "no_link" // and no guid
	dropCut     = "cut_off"
	dropBeyond  = "beyond_2000_items"
)

// A BlockedError is a firewall's page in a feed's place. Asking again soon makes it worse.
type BlockedError struct{}

func (*BlockedError) Error() string { return "a firewall's page answers in the feed's place" }

// Code is a word for counts.
func (*BlockedError) Code() string { return "blocked" }

// A FormError is a body that is no feed. What is in it is not repeated: it may be another server's secret.
type FormError struct {
	Bytes int
	Type  string // Content-Type
	Why   string
}

func (e *FormError) Error() string {
	return fmt.Sprintf("%d bytes of type %q are no feed: %s", e.Bytes, mediaType(e.Type), e.Why)
}

// Code is a word for counts.
func (*FormError) Code() string { return "no_feed" }

// mediaType returns the first word of a Content-Type as far as it is one.
func mediaType(s string) string {
	s, _, _ = strings.Cut(s, ";")
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) > 60 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789/+.-") != "" {
		return "?"
	}
	return s
}

var firewalls = []string{"just a moment", "enable javascript and cookies", "attention required", "cf-challenge", "cf-browser-verification", "access denied", "captcha"}

// Parse reads a feed that was fetched at a time: RSS of any version, Atom, JSON Feed. It takes memory for the
// body and for what is returned, whatever is in it.
func Parse(b Body, fetched time.Time) (Page, error) {
	text, broken := decode(b.Bytes, b.Type)
	if err := blocked(text); err != nil {
		return Page{}, err
	}
	from, err := url.Parse(b.URL)
	if err != nil {
		from = &url.URL{} // only relative links need it
	}
	read := readXML
	if isJSON(text) {
		read = readJSON
	}
	feed, err := read(text, from)
	if err != nil {
		return Page{}, &FormError{len(b.Bytes), b.Type, err.Error()}
	}
	p := Page{Cut: feed.cut || feed.lost > 0, Broken: broken, Dropped: map[string]int{}}
	for i := range feed.items {
		e, why := entry(&feed.items[i], fetched)
		if why == "" {
			p.Entries = append(p.Entries, e)
		} else {
			p.Dropped[why]++
			p.Useless = append(p.Useless, Useless{why, "useless:" + short(e.Title+"\n"+e.Summary+"\n"+e.Link+"\n"+e.GUID)})
		}
	}
	for why, n := range map[string]int{dropCut: feed.lost, dropBeyond: feed.more} {
		if n > 0 {
			p.Dropped[why] += n
		}
	}
	return p, nil
}

// blocked recognises a firewall's page.
func blocked(body []byte) error {
	head := strings.ToLower(string(body[:min(len(body), 4096)]))
	if !strings.Contains(head, "<html") && !strings.HasPrefix(strings.TrimSpace(head), "<!doctype html") {
		return nil
	}
	for _, phrase := range firewalls {
		if strings.Contains(head, phrase) {
			return &BlockedError{}
		}
	}
	return nil
}

// entry cleans an item. For one that nobody could read or find again it returns why.
func entry(it *rawItem, fetched time.Time) (e Entry, why string) {
	e = Entry{Title: Clean(it.title), Summary: Clean(it.summary), GUID: it.guid}
	if e.Summary == "" {
		e.Summary = Clean(it.content)
	}
	if e.Title == "" {
		return e, dropNoTitle
	}
	if _, err := Canonical(it.link); err == nil {
		e.Link = it.link
	} else if e.GUID == "" {
		return e, dropNoLink
	}
	e.Published, e.From = Published(it.date(), fetched)
	return e, ""
}
