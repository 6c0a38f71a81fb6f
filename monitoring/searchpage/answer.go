package searchpage

import (
	"encoding/json"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
)

// The fields in which scheduler/alike marks a near-duplicate: the id of the document that came first, and how near it
// is, as 0.983.
const (
	duplicateField      = "near_duplicate_of"
	duplicateScoreField = "near_duplicate_score"
)

// functionWords say nothing where they are found, as long as the search text has other words. Korean has its own in
// the particles, see termsOf.
const functionWords = " a an and are as at be by for from has have how if in is it its not of on or that the this to was what when which who will with "

// A view is what the template shows.
type view struct {
	question
	Models  []string
	Sources []string // that are known, for the form's suggestions
	Problem *problem // instead of an answer
	Answer  *answer  // nil: nothing was asked, or Problem says why
}

// LikeAny is the address of a search for what is like a document, with the document's id left to be added.
func (v view) LikeAny() string { return v.likeAddress("") }

// An answer is what was found.
type answer struct {
	Hits      []hit
	Documents int           // that were searched
	Embedding time.Duration // until the worker's answer; 0 if none was needed
	Scan      time.Duration
	More      string // address with more hits, "" if there are no more
	Liked     string // what the hits are like: a title or an id; "" for a search by text
}

// Marked lists the hits' ids for the map, as JSON.
func (a *answer) Marked() (string, error) {
	ids := make([]string, len(a.Hits))
	for i, h := range a.Hits {
		ids[i] = h.ID
	}
	b, err := json.Marshal(ids)
	return string(b), err
}

// A hit is a document as the page shows it.
type hit struct {
	Rank        int
	ID          string
	Score       float64 // cosine
	Bar         int     // of the score, 0 to 100
	Title       []span  // never empty
	URL         string  // "" unless it is a web address
	Host        string  // of URL
	Snippet     []span
	Source      string
	Published   time.Time // in the page's zone
	Midnight    bool      // Published has no time of day
	Stocks      []link
	Like        string // address of what is like it
	Duplicate   string // address of what it repeats, "" if nothing says so
	DuplicateOf string // id of that
	DuplicateBy string // their cosine as it was marked, "" if it was not
}

// A link is a word and where it leads.
type link struct{ Text, Href string }

// A span is a stretch of a text that is marked or not.
type span struct {
	Text string
	Mark bool
}

func newAnswer(q question, r search.Result, zone *time.Location) *answer {
	a := &answer{Documents: r.Documents, Embedding: r.Embedding, Scan: r.Scan}
	terms := termsOf(q.Text)
	for i, h := range r.Hits {
		a.Hits = append(a.Hits, newHit(i+1, q, h, terms, zone))
	}
	if len(a.Hits) == q.K && r.Documents > q.K {
		a.More = q.moreAddress()
	}
	a.Liked = q.Like
	return a
}

func newHit(rank int, q question, h store.Hit, terms []string, zone *time.Location) hit {
	d := h.Document
	out := hit{
		Rank: rank, ID: d.ID, Score: h.Score, Bar: bar(h.Score), Source: d.Source,
		Snippet: marked(oneLine(h.Snippet), terms), Like: q.likeAddress(d.ID),
	}
	out.URL, out.Host = webAddress(d.URL)
	title := oneLine(d.Title)
	if title == "" {
		title = d.ID
	}
	out.Title = marked(title, terms)
	if !d.PublishedAt.IsZero() {
		out.Published = d.PublishedAt.In(zone)
		// Filings come with a day only, which their crawler writes as midnight.
		out.Midnight = out.Published.Hour() == 0 && out.Published.Minute() == 0
	}
	for _, code := range d.StockCodes {
		out.Stocks = append(out.Stocks, link{code, q.stockAddress(code)})
	}
	if of := d.Fields[duplicateField]; of != "" {
		out.Duplicate, out.DuplicateOf, out.DuplicateBy = q.likeAddress(of), of, d.Fields[duplicateScoreField]
	}
	return out
}

// bar is the length of a score's bar: cosines of texts lie between 0 and 1.
func bar(score float64) int { return int(math.Round(100 * min(1, max(0, score)))) }

// oneLine makes every run of white space one blank.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// webAddress returns an address that a link may lead to, and its host; nothing for anything else, such as a script.
func webAddress(s string) (address, host string) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "", ""
	}
	return u.String(), u.Hostname()
}

// termsOf returns what to mark of a search text: its words, longest first, without functionWords unless there
// are no others. Korean words carry their particles with them, so of a Hangul word of three letters and more its
// beginning is looked for too: 반도체는 finds 반도체.
func termsOf(text string) []string {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if telling := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.Contains(functionWords, " "+w+" ") }); len(telling) > 0 {
		words = telling
	}
	var terms []string
	for _, w := range words {
		n := utf8.RuneCountInString(w)
		if n < 2 {
			continue
		}
		terms = append(terms, w)
		last, size := utf8.DecodeLastRuneInString(w)
		if n >= 3 && unicode.Is(unicode.Hangul, last) {
			terms = append(terms, w[:len(w)-size])
		}
	}
	slices.SortFunc(terms, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(terms)
}

// marked cuts text at the terms in it, whatever their case.
func marked(text string, terms []string) []span {
	var (
		spans []span
		plain int // where the text that is not marked begins
	)
	lower := strings.ToLower(text)
	if len(lower) != len(text) { // some letters change their size with their case: then the case counts
		lower = text
	}
	for at := 0; at < len(text); {
		n := matchAt(lower, at, terms)
		if n == 0 {
			_, size := utf8.DecodeRuneInString(text[at:])
			at += size
			continue
		}
		if plain < at {
			spans = append(spans, span{Text: text[plain:at]})
		}
		spans = append(spans, span{Text: text[at : at+n], Mark: true})
		at += n
		plain = at
	}
	if plain < len(text) {
		spans = append(spans, span{Text: text[plain:]})
	}
	return spans
}

// matchAt returns the length of the longest term at a place of the text, 0 if there is none. A term of another
// alphabet than Hangul counts only where a word begins: "at" is not in "water".
func matchAt(text string, at int, terms []string) int {
	for _, term := range terms {
		if !strings.HasPrefix(text[at:], term) {
			continue
		}
		first, _ := utf8.DecodeRuneInString(term)
		before, _ := utf8.DecodeLastRuneInString(text[:at])
		if at == 0 || unicode.Is(unicode.Hangul, first) || unicode.Is(unicode.Han, first) || !unicode.IsLetter(before) && !unicode.IsDigit(before) {
			return len(term)
		}
	}
	return 0
}
