package news

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/text/encoding/korean"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/tasks"
)

// An outlet of the day of faults writes its stories down in a way of its own.
type outlet struct {
	name    string
	stories []*story
	write   func(o *outlet, shown []*story) []byte
}

// A story appears at a tick, and may be corrected, or have no title, at others.
type story struct {
	number, at  int
	title, text string
	corrected   int // tick at which it is corrected, 0 for never
	noTitle     bool
	link        string // in the feed
	tells       *story // another outlet's story that it only repeats under the same title
	twice       bool   // it stands in the feed twice
	titleNow    string
	textNow     string
	absolute    string
}

func (s *story) state(tick int) {
	s.titleNow, s.textNow = s.title, s.text
	if s.corrected > 0 && tick >= s.corrected {
		s.titleNow, s.textNow = s.title+" (정정)", s.text+" 바로잡습니다."
	}
}

// rss is what most write.
func rss(declared string) func(*outlet, []*story) []byte {
	return func(_ *outlet, shown []*story) []byte {
		var b strings.Builder
		b.WriteString(declared + `<rss version="2.0"><channel>`)
		for _, s := range shown {
			for range map[bool]int{true: 2, false: 1}[s.twice] {
				title := ""
				if !s.noTitle {
					title = "<title>" + html.EscapeString(s.titleNow) + "</title>"
				}
				fmt.Fprintf(&b, "<item>%s<link>%s</link><description>%s</description></item>", title, html.EscapeString(s.link), html.EscapeString(s.textNow))
			}
		}
		b.WriteString("</channel></rss>")
		return []byte(b.String())
	}
}

func in949(o *outlet, shown []*story) []byte {
	b, err := korean.EUCKR.NewEncoder().Bytes(rss(`<?xml version="1.0" encoding="utf-8"?>`)(o, shown)) // it lies
	if err != nil {
		panic(err)
	}
	return b
}

func inUTF16(o *outlet, shown []*story) (b []byte) {
	for _, u := range utf16.Encode([]rune("\ufeff" + string(rss("")(o, shown)))) {
		b = append(b, byte(u>>8), byte(u))
	}
	return b
}

func inJSON(_ *outlet, shown []*story) []byte {
	items := []any{}
	for _, s := range shown {
		it := map[string]any{"id": s.number, "url": s.link, "content_html": "<p>" + html.EscapeString(s.textNow) + "</p>"}
		if !s.noTitle {
			it["title"] = s.titleNow
		}
		for range map[bool]int{true: 2, false: 1}[s.twice] {
			items = append(items, it)
		}
	}
	b, err := json.Marshal(map[string]any{"version": "https://jsonfeed.org/version/1.1", "items": items})
	if err != nil {
		panic(err)
	}
	return b
}

const dayTicks = 144

// newDay makes six outlets with stories spread over a day.
func newDay(chance *rand.Rand) []*outlet {
	ways := map[string]func(*outlet, []*story) []byte{
		"plain": rss(`<?xml version="1.0" encoding="UTF-8"?>`), "liar": in949, "wide": inUTF16, "json": inJSON,
		"relative": rss(`<?xml version="1.0"?>`), "anchors": rss(`<?xml version="1.0" encoding="us-ascii"?>`),
	}
	var day []*outlet
	var told []*story // of the first outlet, for others to repeat
	for _, name := range []string{"plain", "liar", "wide", "json", "relative", "anchors"} {
		o := &outlet{name: name, write: ways[name]}
		for i := range 40 {
			s := &story{number: i, at: i * dayTicks / 40, title: fmt.Sprintf("%s 신문이 전하는 가상기업 %d호 소식", name, i), text: fmt.Sprintf("%s %d번째 요약입니다.", name, i)}
			s.absolute = fmt.Sprintf("https://%s.example/news/%d", name, i)
			s.link = s.absolute
			switch name {
			case "relative":
				s.link = fmt.Sprintf("/news/%d", i)
			case "anchors":
				s.link = fmt.Sprintf("https://%s.example/live#a%d", name, i)
				s.absolute = s.link
			}
			switch chance.IntN(8) {
			case 0:
				s.corrected = s.at + 3 + chance.IntN(40)
			case 1:
				s.noTitle = true
			case 2:
				s.twice = true
			case 3:
				if len(told) > 0 {
					s.tells = told[chance.IntN(len(told))]
					s.title, s.at = s.tells.title, s.tells.at+2
				}
			}
			o.stories = append(o.stories, s)
			if name == "plain" && !s.noTitle && s.corrected == 0 && len(told) < 20 {
				told = append(told, s)
			}
		}
		day = append(day, o)
	}
	return day
}

// A faulty network answers for outlets at a tick, or fails to in every way there is.
type faulty struct {
	mu     sync.Mutex
	day    []*outlet
	tick   int
	chance *rand.Rand
	calm   bool
	faults int
}

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var body []byte
	for _, o := range f.day {
		if o.name+".example" != r.URL.Host {
			continue
		}
		var shown []*story
		for _, s := range o.stories {
			if s.at <= f.tick {
				s.state(f.tick)
				shown = append([]*story{s}, shown...)
			}
		}
		body = o.write(o, shown)
	}
	resp := reply(200, body, "ETag", fmt.Sprintf(`"%d"`, len(body)))
	resp.Request = r
	if f.calm {
		return resp, nil
	}
	fault := f.chance.IntN(12)
	if fault < 6 {
		f.faults++
	}
	switch fault {
	case 0:
		return reply(503, []byte("busy")), nil
	case 1:
		return reply(200, []byte("<html><title>Just a moment...</title>captcha</html>")), nil
	case 2:
		return nil, errors.New("connection reset by peer")
	case 3, 4: // cut, and the ETag of the whole
		resp = reply(200, body[:f.chance.IntN(len(body)+1)], "ETag", fmt.Sprintf(`"%d"`, len(body)))
		resp.Request = r
		return resp, nil
	case 5:
		return reply(200, []byte(`{"error":"no feed"}`)), nil
	}
	if r.Header.Get("If-None-Match") == resp.Header.Get("ETag") {
		return reply(304, nil), nil
	}
	return resp, nil
}

// TestADayOfFaults: six outlets, each wrong in its way, over a network that fails, cuts and blocks half of the answers.
// At its end every story is stored once in its latest text, or counted by the reason for which it is not.
func TestADayOfFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		chance := rand.New(rand.NewPCG(seed, 24))
		net := &faulty{day: newDay(chance), chance: chance}
		fleet := newFleet()
		feeds := fixed{}
		for _, o := range net.day {
			feeds = append(feeds, Feed{Name: o.name, URL: "https://" + o.name + ".example/rss"})
		}
		c := New(testkit.Logger(t), Parts{Feeds: feeds, States: fleet, Outbox: fleet.outbox(t), HTTP: &http.Client{Transport: net}})
		var total scheduler.Report
		for tick := range dayTicks + dayTicks/2 { // half a day is calm, for feeds that are left alone for hours
			net.tick, net.calm = tick, tick >= dayTicks
			r, err := c.Run(t.Context(), scheduler.Tick{Now: casesFetched.Add(time.Duration(tick) * 10 * time.Minute)})
			if err != nil && !strings.Contains(err.Error(), "feeds answered") {
				t.Fatal(err)
			}
			total.Add(r)
		}
		checkDay(t, seed, net, fleet, total)
	}
}

func checkDay(t *testing.T, seed uint64, net *faulty, fleet *fakeFleet, total scheduler.Report) {
	t.Helper()
	latest, enqueued := map[string]string{}, 0 // by the article's own link
	for _, task := range fleet.tasks {
		p, err := tasks.DecodeDocument(task.Payload)
		if err != nil {
			t.Fatal(err)
		}
		latest[p.Document.URL] = p.Document.Text
		enqueued++
	}
	stories, noTitle, corrected := 0, 0, 0
	for _, o := range net.day {
		for _, s := range o.stories {
			if s.noTitle {
				noTitle++
				continue
			}
			if s.tells != nil { // whichever of the two was read first is the document
				continue
			}
			if s.corrected > 0 {
				corrected++
			}
			stories++
			want := s.titleNow + "\n" + s.textNow
			if got, stored := latest[s.absolute]; got != want && (stored || !repeated(net, s)) {
				t.Errorf("seed %d, %s %d: %q, want %q", seed, o.name, s.number, got, want)
			}
		}
	}
	if total.Updated > corrected {
		t.Errorf("seed %d: %d updates of %d stories that were corrected", seed, total.Updated, corrected)
	}
	if net.faults < 50 || total.Failed < 30 || total.Updated < 5 || total.Reasons["repeated/twice_in_feed"] == 0 || total.Reasons["dropped/cut_off"] == 0 {
		t.Errorf("seed %d: the day was too quiet: %d faults, %+v", seed, net.faults, total)
	}
	if total.New+total.Updated != enqueued || total.New != len(latest) || total.Reasons["dropped/no_title"] != noTitle {
		t.Errorf("seed %d: %d stories, %d without a title, %d documents in %d tasks: %+v", seed, stories, noTitle, len(latest), enqueued, total)
	}
	if folded := total.Reasons["repeated/same_title"]; folded != 240-noTitle-len(latest) {
		t.Errorf("seed %d: %d are folded by title, %d documents of %d", seed, folded, len(latest), 240-noTitle)
	}
}

// repeated reports whether another outlet tells a story's title.
func repeated(net *faulty, s *story) bool {
	for _, o := range net.day {
		for _, other := range o.stories {
			if other.tells == s {
				return true
			}
		}
	}
	return false
}
