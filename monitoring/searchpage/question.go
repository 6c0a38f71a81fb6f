package searchpage

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/store"
)

const (
	// maxText is the longest text the page takes, in characters: what fits an address. Longer ones go to the API.
	maxText = 2000
	// maxField bounds every other field, in bytes.
	maxField = 1000

	defaultK = 20
	maxK     = 200
)

// A question is what somebody asks: the page's address as values. Its fields are as they were typed, so that the
// form shows them again, whatever is wrong with them.
type question struct {
	Model  string
	Text   string // to search for
	Like   string // or the id of a document to search for what is like it
	Source string // one or more, separated by commas
	Stock  string // as Source
	From   string // a day, 2022-01-03, included
	To     string // a day, included
	K      int    // documents to show

	filter store.Filter
}

// Asks reports whether there is something to search for.
func (q question) Asks() bool { return q.Text != "" || q.Like != "" }

// Filtered reports whether something narrows the search.
func (q question) Filtered() bool {
	return q.Source != "" || q.Stock != "" || q.From != "" || q.To != ""
}

// readQuestion reads an address. The problem is nil if it makes sense.
func readQuestion(values url.Values, zone *time.Location) (question, *problem) {
	get := func(name string) string { return strings.TrimSpace(values.Get(name)) }
	q := question{
		Model: get("model"), Text: get("q"), Like: get("like"),
		Source: get("source"), Stock: get("stock"), From: get("from"), To: get("to"), K: defaultK,
	}
	if !utf8.ValidString(values.Encode()) {
		return question{K: defaultK}, badQuestion("The address is not UTF-8.", "Type the text again.")
	}
	for _, s := range []string{q.Model, q.Like, q.Source, q.Stock, q.From, q.To} {
		if len(s) > maxField {
			return question{K: defaultK}, badQuestion("A field is too long.", "A field other than the text holds 1,000 bytes.")
		}
	}
	if n := utf8.RuneCountInString(q.Text); n > maxText {
		return q, badQuestion("The text has "+strconv.Itoa(n)+" characters; this page takes 2,000.", "Shorten it, or use POST /v1/search of the gateway.")
	}
	if s := get("k"); s != "" {
		k, err := strconv.Atoi(s)
		if err != nil || k < 1 || k > maxK {
			return q, badQuestion("The number of documents is "+strconv.Quote(s)+".", "Want 1 to 200.")
		}
		q.K = k
	}
	return q, q.readFilter(zone)
}

func badQuestion(says, do string) *problem {
	return &problem{Status: http.StatusBadRequest, Says: says, Do: do}
}

// readFilter makes the filter of the fields. Days are those of zone.
func (q *question) readFilter(zone *time.Location) *problem {
	q.filter.Equal = map[string][]string{}
	for field, typed := range map[string]string{"source": q.Source, "stock_code": q.Stock} {
		for value := range strings.SplitSeq(typed, ",") {
			if value = strings.TrimSpace(value); value != "" {
				q.filter.Equal[field] = append(q.filter.Equal[field], value)
			}
		}
	}
	var err error
	if q.From != "" {
		if q.filter.From, err = time.ParseInLocation(time.DateOnly, q.From, zone); err != nil {
			return badQuestion("The first day is "+strconv.Quote(q.From)+".", "Want a date such as 2022-01-03.")
		}
	}
	if q.To != "" {
		last, err := time.ParseInLocation(time.DateOnly, q.To, zone)
		if err != nil {
			return badQuestion("The last day is "+strconv.Quote(q.To)+".", "Want a date such as 2022-01-03.")
		}
		q.filter.To = last.AddDate(0, 0, 1)
	}
	if !q.filter.From.IsZero() && !q.filter.To.IsZero() && !q.filter.From.Before(q.filter.To) {
		return badQuestion("The first day, "+q.From+", is after the last, "+q.To+".", "Exchange them.")
	}
	return nil
}

// Address returns the page's address for the question, without what is empty or as by default.
func (q question) Address() string {
	values := url.Values{}
	set := func(name, value string) {
		if value != "" {
			values.Set(name, value)
		}
	}
	set("model", q.Model)
	set("q", q.Text)
	set("like", q.Like)
	set("source", q.Source)
	set("stock", q.Stock)
	set("from", q.From)
	set("to", q.To)
	if q.K != defaultK {
		values.Set("k", strconv.Itoa(q.K))
	}
	if len(values) == 0 {
		return Path
	}
	return Path + "?" + values.Encode()
}

// Unfiltered is the address of the same search among all documents.
func (q question) Unfiltered() string {
	q.Source, q.Stock, q.From, q.To = "", "", "", ""
	return q.Address()
}

// likeAddress is the address of what is like a document. Filters stay, since they say what one is after.
func (q question) likeAddress(id string) string {
	q.Text, q.Like, q.K = "", id, defaultK
	return q.Address()
}

// stockAddress is the address of the same search among the documents of one stock.
func (q question) stockAddress(code string) string {
	q.Stock = code
	return q.Address()
}

// MoreAddress is the address of the same search with more documents, "" if there are no more to be had.
func (q question) moreAddress() string {
	if q.K >= maxK {
		return ""
	}
	q.K = min(maxK, max(50, 2*q.K))
	return q.Address()
}
