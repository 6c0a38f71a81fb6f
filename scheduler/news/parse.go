package news

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mmcdole/gofeed"
	"golang.org/x/text/encoding/korean"
)

// An Entry is an item of a feed, cleaned.
type Entry struct {
	Title, Summary, Link, GUID string
	Published                  time.Time // UTC
	From                       string    // "feed" or "first_seen"
}

// A BlockedError is a firewall's page in a feed's place. Asking again soon makes it worse.
type BlockedError struct{ Begin string }

func (e *BlockedError) Error() string {
	return fmt.Sprintf("a firewall answers in the feed's place: %q", e.Begin)
}

// A FormError is a body that is no feed.
type FormError struct {
	Begin string
	Err   error
}

func (e *FormError) Error() string {
	return fmt.Sprintf("not a feed, begins %q: %v", e.Begin, e.Err)
}

func (e *FormError) Unwrap() error { return e.Err }

var (
	declaration = regexp.MustCompile(`^\s*<\?xml[^>]*\?>`)
	encoding    = regexp.MustCompile(`encoding\s*=\s*["']([^"']*)["']`)
	firewalls   = []string{"just a moment", "enable javascript and cookies", "attention required", "cf-challenge", "cf-browser-verification", "access denied", "captcha"}
)

// Parse reads a feed that was fetched at a time. Dropped counts items without a title or a link. It panics
// at nothing.
func Parse(body []byte, fetched time.Time) (entries []Entry, dropped int, err error) {
	defer func() {
		if v := recover(); v != nil { // a bug of the parser; one feed must not stop the others
			entries, err = nil, &FormError{begin(body), fmt.Errorf("parser panicked: %v", v)}
		}
	}()
	if err := blocked(body); err != nil {
		return nil, 0, err
	}
	feed, err := gofeed.NewParser().Parse(bytes.NewReader(mended(body)))
	if err != nil {
		return nil, 0, &FormError{begin(body), err}
	}
	for _, item := range feed.Items {
		if e, ok := entry(item, fetched); ok {
			entries = append(entries, e)
		} else {
			dropped++
		}
	}
	return entries, dropped, nil
}

// blocked recognises a firewall's page.
func blocked(body []byte) error {
	head := strings.ToLower(string(body[:min(len(body), 4096)]))
	if !strings.Contains(head, "<html") && !strings.HasPrefix(strings.TrimSpace(head), "<!doctype html") {
		return nil
	}
	for _, phrase := range firewalls {
		if strings.Contains(head, phrase) {
			return &BlockedError{begin(body)}
		}
	}
	return nil
}

func begin(body []byte) string {
	return strings.ToValidUTF8(string(body[:min(len(body), 200)]), "?")
}

// mended returns the body in UTF-8 and declared so, as far as that can be told from the bytes: what they
// declare is wrong too often. Encodings other than UTF-8 and Korean ones are left to the parser.
func mended(body []byte) []byte {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	declared := ""
	if head := declaration.Find(body); head != nil {
		if m := encoding.FindSubmatch(head); m != nil {
			declared = strings.ToLower(string(m[1]))
		}
	}
	switch {
	case utf8.Valid(body):
	case declared == "utf-8" && mostlyUTF8(body):
		body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	case declared == "" || declared == "utf-8" || strings.HasPrefix(declared, "euc-kr") || strings.HasPrefix(declared, "ks") ||
		strings.Contains(declared, "949"):
		decoded, err := korean.EUCKR.NewDecoder().Bytes(body)
		if err != nil {
			return body
		}
		body = decoded
	default:
		return body
	}
	return declaration.ReplaceAllFunc(body, func(head []byte) []byte {
		return encoding.ReplaceAll(head, []byte(`encoding="UTF-8"`))
	})
}

// mostlyUTF8 reports whether b is UTF-8 with a few broken bytes, not text of another encoding.
func mostlyUTF8(b []byte) bool {
	whole, broken := 0, 0
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 {
			broken++
		} else if size > 1 {
			whole++
		}
		b = b[size:]
	}
	return broken*20 < whole
}

// entry cleans an item. It reports false for one that nobody could find again or read.
func entry(item *gofeed.Item, fetched time.Time) (Entry, bool) {
	e := Entry{Title: Clean(item.Title), Summary: Clean(item.Description), Link: strings.TrimSpace(item.Link), GUID: strings.TrimSpace(item.GUID)}
	if _, err := Canonical(e.Link); err != nil && e.GUID != "" {
		e.Link = e.GUID // in RSS a guid is an address unless it says otherwise
	}
	if _, err := Canonical(e.Link); err != nil || e.Title == "" {
		return e, false
	}
	date := item.Published
	if strings.TrimSpace(date) == "" {
		date = item.Updated
	}
	if date == "" && item.DublinCoreExt != nil && len(item.DublinCoreExt.Date) > 0 {
		date = item.DublinCoreExt.Date[0]
	}
	e.Published, e.From = Published(date, fetched)
	return e, true
}
