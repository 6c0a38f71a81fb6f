package imitation

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// NaverOptions are the credentials that a search must bring, and the clock; nil is time.Now.
type NaverOptions struct {
	ID, Secret string
	Now        func() time.Time
}

// A Naver is an imitation of both of Naver's searches for news: the legacy one below /v1/search/news.json, NAVER
// API HUB below /search/v1/news. It is safe for concurrent use.
type Naver struct {
	stories []Story
	opts    NaverOptions
}

// NewNaver returns a search that finds stories from their time on.
func NewNaver(stories []Story, opts NaverOptions) *Naver {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Naver{stories, opts}
}

// A naverAnswer is the body that both have in common.
type naverAnswer struct {
	LastBuildDate string      `json:"lastBuildDate"`
	Total         int         `json:"total"`
	Start         int         `json:"start"`
	Display       int         `json:"display"`
	Items         []naverItem `json:"items"`
}

type naverItem struct {
	Title        string `json:"title"`
	OriginalLink string `json:"originallink"`
	Link         string `json:"link"`
	Description  string `json:"description"`
	PubDate      string `json:"pubDate"`
}

// ServeHTTP answers a search, or refuses wrong credentials and parameters in the form of the interface.
func (n *Naver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	id, secret, form := r.Header.Get("X-Naver-Client-Id"), r.Header.Get("X-Naver-Client-Secret"), legacyError
	if strings.HasSuffix(r.URL.Path, "/search/v1/news") {
		id, secret, form = r.Header.Get("X-Ncp-Apigw-Api-Key-Id"), r.Header.Get("X-Ncp-Apigw-Api-Key"), hubError
	}
	q := r.URL.Query()
	display, err1 := strconv.Atoi(q.Get("display"))
	start, err2 := strconv.Atoi(q.Get("start"))
	switch {
	case id != n.opts.ID || secret != n.opts.Secret:
		refuseSearch(w, 401, form, form.credentials)
	case err1 != nil || err2 != nil || display < 1 || display > 100 || start < 1 || start > 1000 || q.Get("query") == "":
		refuseSearch(w, 400, form, form.parameters)
	default:
		body, err := json.Marshal(n.search(q.Get("query"), start, display))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(body) // the client went away
	}
}

// An errorForm is how one of the interfaces tells errors: a format with a place for the code, and codes.
type errorForm struct{ format, credentials, parameters string }

var (
	legacyError = errorForm{`{"errorMessage":"refused","errorCode":"%s"}`, "024", "SE02"}
	hubError    = errorForm{`{"error":{"errorCode":"%s","message":"refused","details":"imitation"}}`, "200", "300"}
)

// refuseSearch answers with an error.
func refuseSearch(w http.ResponseWriter, status int, form errorForm, code string) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, form.format, code) // the client went away
}

// search returns the stories with query in their title, the newest first.
func (n *Naver) search(query string, start, display int) naverAnswer {
	now := n.opts.Now()
	a := naverAnswer{LastBuildDate: now.In(kst).Format(time.RFC1123Z), Start: start, Display: display, Items: []naverItem{}}
	for i, s := range slices.Backward(n.stories) {
		if s.At.After(now) || !strings.Contains(s.Title, query) {
			continue
		}
		if a.Total++; a.Total >= start && len(a.Items) < display {
			a.Items = append(a.Items, found(i, s, query))
		}
	}
	return a
}

// found shows a story as a hit: the query in bold, entities escaped, its outlet's address with a trace of where
// the reader came from; every fourth only has Naver's own address beside it.
func found(i int, s Story, query string) naverItem {
	bold := func(text string) string {
		return strings.ReplaceAll(html.EscapeString(text), html.EscapeString(query), "<b>"+html.EscapeString(query)+"</b>")
	}
	it := naverItem{
		Title: bold(s.Title), OriginalLink: link(i, s.Feeds[0]) + "&ref=naver", Description: bold(s.Summary) + "...",
		PubDate: s.At.In(kst).Format(time.RFC1123Z),
	}
	it.Link = it.OriginalLink
	if i%4 == 0 {
		it.Link = fmt.Sprintf("https://n.news.naver.com/mnews/article/001/%010d?sid=101", i)
	}
	return it
}
