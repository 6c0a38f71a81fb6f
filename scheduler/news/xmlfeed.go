package news

import (
	"errors"
	"html"
	"net/url"
	"strings"
)

const (
	// maxItems of one feed are read; the others are counted.
	maxItems = 2000
	// maxField bounds a field of an item before it is cleaned, in bytes.
	maxField = 64 << 10
)

// A rawItem is an item of a feed as it stands there. Fields that are missing are "".
type rawItem struct {
	title, summary, content string
	link, guid              string // the link is resolved, the guid is not
	dates                   [4]string
}

// The dates of an item, the best first.
const (
	datePublished = iota
	dateCore      // Dublin Core's
	dateUpdated
	dateCreated
)

// date returns the best of an item's dates.
func (r *rawItem) date() string {
	for _, d := range r.dates {
		if strings.TrimSpace(d) != "" {
			return d
		}
	}
	return ""
}

// A rawFeed is a feed as it stands there.
type rawFeed struct {
	items []rawItem
	more  int  // items beyond maxItems
	lost  int  // items that were cut off in their middle
	cut   bool // it ends before its end
}

// spaceNames are how elements of other vocabularies are called here, by namespace. Elements of namespaces that
// are not listed keep their prefix, so that a media:title is no title.
var spaceNames = map[string]string{
	"http://www.w3.org/2005/Atom":                 "",
	"http://purl.org/atom/ns#":                    "", // Atom 0.3
	"http://purl.org/rss/1.0/":                    "",
	"http://purl.org/rss/1.0/modules/content/":    "content:",
	"http://purl.org/dc/elements/1.1/":            "dc:",
	"http://purl.org/dc/terms/":                   "dcterms:",
	"http://rssnamespace.org/feedburner/ext/1.0":  "feedburner:",
	"http://www.w3.org/1999/02/22-rdf-syntax-ns#": "rdf:",
	"http://www.w3.org/1999/xhtml":                "xhtml:",
}

// A reader turns markup into items.
type reader struct {
	scanner
	spaces map[string]string // prefix -> its name here
	bases  []*url.URL        // the feed's address and each xml:base on the way here
	root   string            // the outermost element
	closed bool              // its end was met
	feed   rawFeed
}

// readXML reads RSS of any version and Atom. from is the feed's own address.
func readXML(body []byte, from *url.URL) (rawFeed, error) {
	r := &reader{scanner: scanner{b: body}, spaces: map[string]string{"atom": "", "content": "content:", "dc": "dc:"}, bases: []*url.URL{from}}
	r.root = r.first()
	switch r.root {
	case "rss", "feed", "rdf:rdf", "rdf", "channel":
	case "":
		return rawFeed{}, errors.New("there is no element in it")
	case "html", "!doctype":
		return rawFeed{}, errors.New("it is a page of HTML")
	default:
		return rawFeed{}, errors.New("its outermost element is none of rss, feed and rdf:RDF")
	}
	for {
		t := r.next()
		if t.kind == tokenEnd {
			break
		}
		name := r.name(t)
		switch {
		case t.kind == tokenClose:
			r.closed = r.closed || name == r.root
		case t.kind != tokenOpen:
		case name == "item" || name == "entry":
			r.bind(t)
			r.item(t)
		case name == "channel":
			r.bind(t)
			r.enter(t)
		}
	}
	r.feed.cut = r.cut || !r.closed
	return r.feed, nil
}

// first passes over what stands before the first element and returns its name.
func (r *reader) first() string {
	for {
		t := r.next()
		switch t.kind {
		case tokenEnd:
			return ""
		case tokenOpen:
			r.bind(t)
			r.enter(t)
			return r.name(t)
		}
	}
}

// bind learns the prefixes that a tag binds.
func (r *reader) bind(t token) {
	t.spaces(func(prefix, uri string) {
		name, known := spaceNames[uri]
		if !known {
			name = prefix + ":"
			if prefix == "" { // an unknown default is what the document is written in
				name = ""
			}
		}
		if len(r.spaces) < 64 {
			r.spaces[prefix] = name
		}
	})
}

// name returns an element's name in lower case, with the prefix that is used here.
func (r *reader) name(t token) string {
	prefix, local, ok := strings.Cut(t.name, ":")
	if !ok {
		prefix, local = "", t.name
	}
	space, bound := r.spaces[prefix]
	if !bound && ok {
		space = prefix + ":"
	}
	return strings.ToLower(space + local)
}

// enter makes an element's xml:base the one that what is within is resolved against.
func (r *reader) enter(t token) { r.bases = append(r.bases, r.against(t)) }

// against returns what an element's addresses are resolved against.
func (r *reader) against(t token) *url.URL {
	base := r.bases[len(r.bases)-1]
	if own := strings.TrimSpace(html.UnescapeString(t.attr("xml:base"))); own != "" {
		if u, err := base.Parse(own); err == nil {
			return u
		}
	}
	return base
}

// resolve returns an address as an absolute one, as it is if it can't be.
func resolve(base *url.URL, link string) string {
	link = strings.TrimSpace(link)
	if link == "" {
		return ""
	}
	u, err := base.Parse(strings.ReplaceAll(link, " ", "%20"))
	if err != nil {
		return link
	}
	return u.String()
}

// item reads an item up to its end. One whose end is missing is lost; one whose end is missing because another
// begins is not.
func (r *reader) item(open token) {
	depth := len(r.bases)
	r.enter(open)
	defer func() { r.bases = r.bases[:depth] }()
	it := &rawItem{}
	links := links{about: resolve(r.bases[depth], html.UnescapeString(open.attr("rdf:about")))}
	for !open.empty {
		t := r.next()
		if t.kind == tokenEnd {
			r.feed.lost++
			return
		}
		name := r.name(t)
		if t.kind == tokenClose && (name == "item" || name == "entry" || name == "channel" || name == r.root) {
			r.closed = r.closed || name == r.root
			break
		}
		if t.kind != tokenOpen {
			continue
		}
		if name == "item" || name == "entry" {
			r.keep(it, links)
			r.item(t)
			return
		}
		if !r.field(it, &links, name, t) {
			r.feed.lost++
			return
		}
	}
	r.keep(it, links)
}

func (r *reader) keep(it *rawItem, l links) {
	if len(r.feed.items) == maxItems {
		r.feed.more++
		return
	}
	it.link = l.best()
	r.feed.items = append(r.feed.items, *it)
}

// links are the addresses that an item names, the best of which is the article's own.
type links struct {
	original  string // before a service that counts readers came between
	alternate string
	page      string // an alternate that is a page of HTML
	plain     string // RSS's
	permanent string // the guid, unless it says that it is none
	about     string
}

func (l links) best() string {
	for _, link := range []string{l.original, l.plain, l.page, l.alternate, l.permanent, l.about} {
		if _, err := Canonical(link); err == nil {
			return link
		}
	}
	return ""
}

// field reads a child of an item. It reports false if the input ends within.
func (r *reader) field(it *rawItem, l *links, name string, t token) bool {
	base := r.against(t)
	if name == "link" && t.attr("href") != "" {
		l.atom(t, resolve(base, html.UnescapeString(t.attr("href"))))
		return r.text(t, nil)
	}
	into := it.place(l, name)
	wanted := into != nil && strings.TrimSpace(*into) == "" // the first counts
	if !wanted {
		return r.text(t, nil)
	}
	var b strings.Builder
	if !r.text(t, &b) {
		return false
	}
	text := strings.ToValidUTF8(b.String(), "")
	switch name {
	case "link", "feedburner:origlink":
		text = resolve(base, text)
	case "guid", "id":
		text = strings.TrimSpace(text)
		if t.attr("isPermaLink") != "false" {
			l.permanent = text
		}
	}
	*into = text
	return true
}

// place returns where the text of a child belongs, nil if nowhere.
func (it *rawItem) place(l *links, name string) *string {
	switch name {
	case "title":
		return &it.title
	case "description", "summary":
		return &it.summary
	case "content", "content:encoded":
		return &it.content
	case "guid", "id":
		return &it.guid
	case "link":
		return &l.plain
	case "feedburner:origlink":
		return &l.original
	case "pubdate", "published", "issued":
		return &it.dates[datePublished]
	case "dc:date", "date", "dcterms:issued":
		return &it.dates[dateCore]
	case "updated", "modified", "dcterms:modified":
		return &it.dates[dateUpdated]
	case "created", "dcterms:created":
		return &it.dates[dateCreated]
	}
	return nil
}

// atom takes over a link of Atom.
func (l *links) atom(t token, address string) {
	if rel := t.attr("rel"); rel != "" && rel != "alternate" {
		return
	}
	if kind := t.attr("type"); l.page == "" && (kind == "text/html" || kind == "application/xhtml+xml") {
		l.page = address
	}
	if l.alternate == "" {
		l.alternate = address
	}
}

// text writes what stands between a tag and its end, markup as it would be written in HTML; b is nil if it is not
// wanted. It reports false if the input ends before.
func (r *reader) text(open token, b *strings.Builder) bool {
	if open.empty {
		return true
	}
	write := func(s string) {
		if b != nil {
			b.WriteString(cut(s, maxField-b.Len()))
		}
	}
	within := func(name string) bool { return name == "item" || name == "entry" }
	xhtml := open.attr("type") == "xhtml"
	for depth := 1; ; {
		before := r.b
		switch t := r.next(); t.kind {
		case tokenEnd:
			return false
		case tokenText:
			if text := string(t.text); xhtml { // is unescaped as HTML later
				write(text)
			} else {
				write(html.UnescapeString(text))
			}
		case tokenCDATA:
			write(string(t.text))
		case tokenOpen:
			if t.name == open.name && !t.empty {
				depth++
			}
			write("<" + strings.TrimPrefix(r.name(t), "xhtml:") + ">")
		case tokenClose:
			if t.name == open.name {
				if depth--; depth == 0 {
					return true
				}
			}
			if within(r.name(t)) { // the element was never closed
				r.b = before
				return true
			}
			write("</" + strings.TrimPrefix(r.name(t), "xhtml:") + ">")
		}
	}
}
