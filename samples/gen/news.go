package main

import (
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/encoding/korean"

	"github.com/embedfleet/embedfleet/vector"
)

// An item is a news item of either shape, RSS or Naver's search.
type item struct {
	Title       string `xml:"title" json:"title"`
	Link        string `xml:"link" json:"link"`
	Description string `xml:"description" json:"description"`
	Date        string `xml:"pubDate" json:"pubDate"`
}

// news reads the invented items of the shared fixtures. Those that pin a fault (no title, no link, a date
// in the future, a story listed twice) are left out.
func news(data string) ([]vector.Document, error) {
	dir := filepath.Join(data, "fixtures-synthetic")
	items, err := naverItems(filepath.Join(dir, "naver_news_ok.json"))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"utf8", "hankyung_style", "mk_style", "euckr", "ksc5601_alias", "lying_header"} {
		more, err := rssItems(filepath.Join(dir, "rss_"+name+".xml"))
		if err != nil {
			return nil, err
		}
		items = append(items, more...)
	}
	var docs []vector.Document
	seen := map[string]bool{}
	for _, it := range items {
		title := clean(it.Title)
		if title == "" || strings.TrimSpace(it.Link) == "" || seen[title] {
			continue
		}
		at, err := pubDate(it.Date)
		if err != nil {
			return nil, err
		}
		if at.Year() > 2026 {
			continue
		}
		seen[title] = true
		docs = append(docs, it.document(fmt.Sprintf("news:%02d", len(docs)+1), title, at))
	}
	return docs, nil
}

func (it item) document(id, title string, at time.Time) vector.Document {
	d := vector.Document{ID: id, Text: title, Title: title, Source: "news", PublishedAt: at}
	if body := clean(it.Description); body != "" {
		d.Text += "\n" + body
	}
	// The fixtures imitate real papers' addresses; an invented story must not be said to be theirs.
	if u, err := url.Parse(strings.TrimSpace(it.Link)); err == nil && strings.HasSuffix(u.Host, ".invalid") {
		d.URL = u.String()
	}
	return d
}

func naverItems(name string) ([]item, error) {
	var page struct {
		Items []item `json:"items"`
	}
	err := readJSON(name, &page)
	return page.Items, err
}

// rssItems believes the bytes and not the header, which lies in one of the files: what is not UTF-8 is CP949.
func rssItems(name string) ([]item, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(b) {
		if b, err = korean.EUCKR.NewDecoder().Bytes(b); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	dec := xml.NewDecoder(strings.NewReader(string(b)))
	dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	var feed struct {
		Items []item `xml:"channel>item"`
	}
	if err := dec.Decode(&feed); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return feed.Items, nil
}

var (
	tags   = regexp.MustCompile(`<[^<>]*>`)
	byline = regexp.MustCompile(`^\([^()]*\) \S+ 기자 = `)
)

// clean makes plain text: entities undone (some are escaped twice), tags and bylines out, blanks single.
func clean(s string) string {
	s = tags.ReplaceAllString(html.UnescapeString(html.UnescapeString(s)), "")
	return byline.ReplaceAllString(strings.Join(strings.Fields(s), " "), "")
}

// pubDate reads the dialects of the fixtures.
func pubDate(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC1123Z, "Mon, 02 Jan 2006 15:04:05 -07:00", "2006-01-02 15:04:05", "20060102150405-0700"} {
		if at, err := time.ParseInLocation(layout, s, kst); err == nil {
			return at.In(kst), nil
		}
	}
	zone := kst
	switch {
	case strings.HasSuffix(s, " GMT"):
		zone = time.UTC
	case !strings.HasSuffix(s, " KST"):
		return time.Time{}, fmt.Errorf("date %q is in no known form", s)
	}
	at, err := time.ParseInLocation("Mon, 02 Jan 2006 15:04:05", s[:len(s)-4], zone)
	return at.In(kst), err
}
