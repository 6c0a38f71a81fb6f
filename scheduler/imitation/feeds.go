package imitation

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/encoding/korean"
)

// A Story is an invented piece of news and where it appears.
type Story struct {
	At      time.Time
	Title   string
	Summary string
	Feeds   []int // numbers of the feeds that carry it
}

// Stories returns n invented pieces of news spread evenly over a day from begin on. Every third appears in
// two feeds of the dozen, with another address noise in each.
func Stories(begin time.Time, n int) []Story {
	whats := []string{"실적 발표", "유상증자 결정", "신제품 공개", "수출 계약 체결", "공장 증설 추진", "자사주 매입 결정", "배당 확대 검토"}
	list := make([]Story, n)
	for i := range list {
		s := Story{
			At:      begin.Add(time.Duration(i) * 24 * time.Hour / time.Duration(n)).Truncate(time.Second),
			Title:   fmt.Sprintf("가상기업 %d호, %s \"R&D 투자\" 소식", i, whats[i%len(whats)]),
			Summary: fmt.Sprintf("가상기업 %d호가 %s 사실을 알렸다. 똠방각하 <연합>", i, whats[i%len(whats)]),
			Feeds:   []int{i % Feeds},
		}
		if i%3 == 0 {
			s.Feeds = append(s.Feeds, (i+5)%Feeds)
		}
		list[i] = s
	}
	return list
}

const (
	// Feeds is how many feeds an imitation serves.
	Feeds = 12
	// perFeed is how many items a feed carries, the newest.
	perFeed = 50
)

// A News is an imitation of a dozen outlets' feeds, each with habits of its own: encodings, dates, missing
// ids, forms. It is safe for concurrent use.
type News struct {
	stories []Story
	now     func() time.Time
}

// NewNews returns feeds that show stories from their time on. now may be nil for time.Now.
func NewNews(stories []Story, now func() time.Time) *News {
	if now == nil {
		now = time.Now
	}
	return &News{stories, now}
}

// ServeHTTP answers /feed/<number>, and 304 to a caller that has the newest already.
func (n *News) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	if err != nil || number < 0 || number >= Feeds {
		http.NotFound(w, r)
		return
	}
	var shown []int // newest first
	now := n.now()
	for i := len(n.stories) - 1; i >= 0 && len(shown) < perFeed; i-- {
		s := n.stories[i]
		for _, f := range s.Feeds {
			if f == number && !s.At.After(now) {
				shown = append(shown, i)
			}
		}
	}
	tag := `"empty"`
	if len(shown) > 0 {
		tag = fmt.Sprintf(`W/"%d"`, shown[0])
	}
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("ETag", tag)
	_, _ = w.Write(n.feed(number, shown)) // the client went away
}

// feed writes a feed in its outlet's dialect.
func (n *News) feed(number int, shown []int) []byte {
	switch number % 6 {
	case 4:
		return n.atom(number, shown)
	case 5:
		return n.json(number, shown)
	}
	declared := []string{"UTF-8", "euc-kr", "ks_c_5601-1987", "euc-kr"}[number%6]
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="%s"?><rss version="2.0"><channel><title>feed %d</title>`, declared, number)
	for _, i := range shown {
		s := n.stories[i]
		title := "<![CDATA[" + html.EscapeString(s.Title) + "]]>" // escaped once too often
		fmt.Fprintf(&b, "<item><title>%s</title><link> %s </link><description>%s</description><pubDate>%s</pubDate></item>",
			title, html.EscapeString(link(i, number)), html.EscapeString(s.Summary), date(s.At, number))
	}
	b.WriteString("</channel></rss>")
	if number%6 == 1 || number%6 == 2 { // number 3 declares what it is not
		if out, err := korean.EUCKR.NewEncoder().String(b.String()); err == nil {
			return []byte(out)
		}
	}
	return []byte(b.String())
}

// link is the address of a story as a feed gives it.
func link(i, feed int) string {
	return fmt.Sprintf("https://news.example.invalid/view?idxno=%d&section=f%d&utm_source=rss", i, feed)
}

// date writes a time as a feed does; several leave the zone to the reader's knowledge.
func date(at time.Time, number int) string {
	at = at.In(kst)
	switch number % 5 {
	case 0:
		return at.Format("Mon, 02 Jan 2006 15:04:05 -0700")
	case 1:
		return at.Format("Mon, 02 Jan 2006 15:04:05 -07:00")
	case 2:
		return at.Format("2006-01-02 15:04:05")
	case 3:
		return at.Format("Mon, 02 Jan 2006 15:04:05") + " KST"
	default:
		return at.Format("20060102150405-0700")
	}
}

func (n *News) atom(number int, shown []int) []byte {
	var b strings.Builder
	b.WriteString(`<feed xmlns="http://www.w3.org/2005/Atom"><title>atom</title>`)
	for _, i := range shown {
		s := n.stories[i]
		fmt.Fprintf(&b, `<entry><title>%s</title><link href="%s"/><summary>%s</summary><updated>%s</updated></entry>`,
			html.EscapeString(s.Title), html.EscapeString(link(i, number)), html.EscapeString(s.Summary), s.At.Format(time.RFC3339))
	}
	b.WriteString(`</feed>`)
	return []byte(b.String())
}

// A jsonItem is an item of JSON Feed 1.1.
type jsonItem struct {
	ID        string    `json:"id"`
	URL       string    `json:"url"`
	Title     string    `json:"title"`
	Summary   string    `json:"summary"`
	Published time.Time `json:"date_published"`
}

func (n *News) json(number int, shown []int) []byte {
	items := []jsonItem{}
	for _, i := range shown {
		s := n.stories[i]
		items = append(items, jsonItem{strconv.Itoa(i), link(i, number), s.Title, s.Summary, s.At})
	}
	body, err := json.Marshal(items)
	if err != nil {
		return nil // texts and times always marshal
	}
	return []byte(`{"version":"https://jsonfeed.org/version/1.1","title":"json","items":` + string(body) + `}`)
}
