package news

import (
	"bytes"
	"fmt"
	"html"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// casesFetched is when testdata/cases were fetched.
var casesFetched = time.Date(2026, 11, 28, 23, 0, 0, 0, time.UTC)

// A served is an address with what it answers, which may change between runs.
type served struct {
	body   []byte
	header http.Header
	status int
	asked  []http.Header
}

// outlets is a network of such addresses.
type outlets map[string]*served

func (o outlets) RoundTrip(r *http.Request) (*http.Response, error) {
	s := o[r.URL.String()]
	if s == nil {
		return reply(404, nil), nil
	}
	s.asked = append(s.asked, r.Header)
	resp := reply(max(s.status, 200), s.body)
	maps.Copy(resp.Header, s.header)
	resp.Request = r
	return resp, nil
}

// crawled is a crawler of one feed, and what it brings into a fake fleet.
type crawled struct {
	t     *testing.T
	fleet *fakeFleet
	net   outlets
	feeds fixed
	c     *Crawler
}

func newCrawled(t *testing.T, feeds ...Feed) *crawled {
	t.Helper()
	c := &crawled{t: t, fleet: newFleet(), net: outlets{}, feeds: feeds}
	c.c = New(testkit.Logger(t), Parts{
		Feeds: listed{c}, States: c.fleet, Outbox: c.fleet.outbox(t), HTTP: &http.Client{Transport: c.net},
	})
	return c
}

// run crawls once, at casesFetched or later, and returns the documents that came.
func (c *crawled) run(after time.Duration) (r scheduler.Report, came []vector.Document) {
	c.t.Helper()
	before := len(c.fleet.tasks)
	var err error
	r, err = c.c.Run(c.t.Context(), scheduler.Tick{Now: casesFetched.Add(after)})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, task := range c.fleet.tasks[before:] {
		p, err := tasks.DecodeDocument(task.Payload)
		if err != nil {
			c.t.Fatal(err)
		}
		came = append(came, p.Document)
	}
	return r, came
}

// read serves one body as a feed and returns what a run makes of it.
func read(t *testing.T, body []byte, contentType string) (scheduler.Report, []vector.Document) {
	t.Helper()
	c := newCrawled(t, Feed{Name: "f", URL: "https://ex.kr/feeds/rss.xml"})
	c.net["https://ex.kr/feeds/rss.xml"] = &served{body: body, header: http.Header{"Content-Type": {contentType}}}
	return c.run(0)
}

func texts(list []vector.Document) string {
	var b strings.Builder
	for _, d := range list {
		fmt.Fprintf(&b, "%s | %s\n", strings.ReplaceAll(d.Text, "\n", " / "), d.URL)
	}
	return b.String()
}

// TestCases reads the feeds of testdata/cases, each of which was once read wrongly: what is embedded and what
// people open, a line each.
func TestCases(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"content_encoded.xml": `
설명이 빈 기사 제목 시험 하나입니다 / 본문 전체가 여기에만 있습니다 | http://ex.kr/ce/1
`,
		"enc_english_broken.xml": `
Fed’s Powell says “patience” is needed – more / Short English summary | http://ex.com/enc/12
Apple café sales rise / It�s fine | http://ex.com/enc/13
`,
		"enc_nodecl_broken.xml": `
삼성전자 반도체 수출 회복세 뚜렷 분석 / 가나다라마바사 아자차카타파� | http://ex.kr/enc/4
현대차 전기차 판매 신기록 달성 소식 / 요약 | http://ex.kr/enc/5
`,
		"frag.xml": `
조각 주소만 다른 기사 하나 제목 시험 / 요약 | http://ex.kr/live#a1
조각 주소만 다른 기사 둘 제목 시험 / 요약 | http://ex.kr/live#a2
조각 주소만 다른 기사 셋 제목 시험 / 요약 | http://ex.kr/live#a3
`,
		"noiseid.xml": `
시아이디로 구분되는 기사 하나 제목 / 요약 | http://bbs.ex.kr/view.php?cid=101
시아이디로 구분되는 기사 둘 제목 / 요약 | http://bbs.ex.kr/view.php?cid=102
에스아이디로 구분되는 기사 하나 제목 / 요약 | http://bbs.ex.kr/story?sid=1
에스아이디로 구분되는 기사 둘 제목 / 요약 | http://bbs.ex.kr/story?sid=2
섹션과 인풋 기사 하나 제목 시험 / 요약 | http://bbs.ex.kr/v?input=A1
섹션과 인풋 기사 둘 제목 시험 / 요약 | http://bbs.ex.kr/v?input=A2
`,
		"rel_atom.xml": `
아톰 상대주소 기사 제목 하나 시험 / 요약 | https://ex.kr/a/1
`,
		"rel_rss.xml": `
상대 주소 기사 하나 제목 시험입니다 / 요약 | https://ex.kr/news/rel/1
프로토콜 상대 주소 기사 제목 시험입니다 / 요약 | https://ex.kr/news/rel/2
물음표 상대 주소 기사 제목 시험입니다 / 요약 | https://ex.kr/feeds/rss.xml?no=3
`,
		"samelink.xml": `
같은 주소 다른 가이드 기사 하나 제목 / 요약 | http://status.ex.kr/
같은 주소 다른 가이드 기사 둘 제목 / 요약 | http://status.ex.kr/
`,
		"sign.xml": `
코스피 지수 전일 대비 +1.25% 마감 시황 / 요약 | http://sg.kr/1
코스피 지수 전일 대비 -1.25% 마감 시황 / 요약 | http://sg.kr/2
[특징주] 가상전자, 3분기 영업익 흑자 전환 / 요약 | http://sg.kr/3
오늘의 증시 일정 및 주요 공시 안내 / 오전판 내용 A | http://sg.kr/4
오늘의 증시 일정 및 주요 공시 안내 / 오후판 완전히 다른 내용 B | http://sg.kr/5
`,
		"truncated.xml": `
잘린 피드의 첫번째 기사 제목 시험 / 요약 | http://ex.kr/ent/9
`,
		"v_json.json": `
깨진 바이트 제이슨 기사 제목 시험 / abc � | http://ex2.kr/js/4
`,
		"v_usascii.xml": `
반도체 수출 회복세 뚜렷 분석 기사 v_usascii 가 / 가나다라마바사 아자차카타파� | http://ex2.kr/v_usascii/1
전기차 판매 신기록 달성 소식 v_usascii 나 / 요약 | http://ex2.kr/v_usascii/2
`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, got := read(t, fixture(t, "cases/"+name), "text/xml")
			if texts := "\n" + texts(got); texts != want || r.New != len(got) {
				t.Errorf("%+v, got%swant%s", r, texts, want)
			}
			if cut := r.Reasons["dropped/cut_off"]; (cut == 1) != (name == "truncated.xml") {
				t.Errorf("%d items are counted as cut off", cut)
			}
		})
	}
	if _, got := read(t, fixture(t, "cases/thr10.xml"), "text/xml; charset=euc-kr"); len(got) != 10 || !strings.HasSuffix(got[9].Text, "반도체 수출 회복세 뚜렷 10 기사 9\n가나다라마끝�") {
		t.Errorf("ten cut summaries: %s", texts(got))
	}
}

// TestDateForms reads each date of dates.xml: what it must be in UTC, or that it is not to be believed.
func TestDateForms(t *testing.T) {
	t.Parallel()
	body := string(fixture(t, "cases/dates.xml"))
	const at, minute, midnight = "2026-11-28T06:04:05Z", "2026-11-28T06:04:00Z", "2026-11-27T15:00:00Z"
	want := []string{
		at, at, at, minute, minute, at, minute, "2026-11-15T03:15:00Z", at, at, at, "2026-11-01T07:03:00Z", at, at, at, at,
		"2026-11-28T15:04:05Z", at, at, at, at, minute, minute, minute, midnight, minute, at, "2025-11-28T07:04:05Z", at, at, at,
		"2026-11-28T15:00:00Z", "2026-11-28T06:05:00Z", midnight, at, "2026-11-28T06:04:05Z", "2026-11-28T15:04:05Z", "", minute, minute, at, minute,
		at, at, "2026-09-28T06:04:05Z", midnight, "", "", "2026-11-28T15:04:00Z", at, minute, minute, minute, "2026-11-28T15:04:05Z", at,
		"", "", "2026-11-28T05:04:05Z", minute, "", "2026-11-28T15:04:05Z",
	}
	dates := regexp.MustCompile(`<pubDate>([^<]*)</pubDate>`).FindAllStringSubmatch(body, -1)
	if len(dates) != len(want) {
		t.Fatalf("%d dates, want %d", len(dates), len(want))
	}
	for i, m := range dates {
		got := ""
		if published, from := Published(m[1], casesFetched); from == "feed" {
			got = published.Format(time.RFC3339)
		}
		if got != want[i] {
			t.Errorf("%q is %q, want %q", m[1], got, want[i])
		}
	}
	for in, want := range map[string]string{
		"05/06/2026 10:00": "", "2026-02-30": "", "2026-11-28 25:00": "", "2026-11-28 15:61": "", "28 Foo 2026 10:00": "",
		"오늘 10:00": "", "3시간 전": "", "2026-11-28 13:00 오전": "", "2026-W54-1": "", "2026년 11월 28일 (토) 오후 3시 4분 5초": at,
		"2026. 11. 28. 오후 3:04:05": at, "수정 2026-11-28 15:04:05": at, "2026-11-28T15:04:05+0900 (KST)": at, "2026-11-28 12:10 AM": "2026-11-27T15:10:00Z",
		"2026-11-28 오전 12:10": "2026-11-27T15:10:00Z", "1764313445000": "2025-11-28T07:04:05Z", "20261128": midnight, "2026-11-28T06:04:05 Europe/London": "2026-11-28T06:04:05Z",
		"입력 : 2026-11-28 15:04:05": at, "Sat, 28-Nov-2026 06:04:05 GMT": at, "토요일, 2026.11.28 15:04:05": at,
	} {
		got := ""
		if at, ok := ParseDate(in); ok {
			got = at.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// TestEncodings writes one feed in many ways; each must give the same two stories, whatever is declared.
func TestEncodings(t *testing.T) {
	t.Parallel()
	feed := func(declared string, items ...string) string {
		s := "<rss version=\"2.0\"><channel>"
		for i, title := range items {
			s += fmt.Sprintf("<item><title>%s</title><link>http://ex.kr/%d</link></item>", title, i+1)
		}
		return declared + s + "</channel></rss>"
	}
	ko := []string{"삼성전자 반도체 수출 회복세 뚜렷", "따블 상한가 똠 방각하 현대차"}
	korean949 := func(s string) []byte {
		b, err := korean.EUCKR.NewEncoder().String(s)
		if err != nil {
			t.Fatal(err)
		}
		return []byte(b)
	}
	wide := func(s string, mark bool, big bool) []byte {
		units := utf16.Encode([]rune(s))
		if mark {
			units = append([]uint16{0xfeff}, units...)
		}
		var b []byte
		for _, u := range units {
			if big {
				b = append(b, byte(u>>8), byte(u))
			} else {
				b = append(b, byte(u), byte(u>>8))
			}
		}
		return b
	}
	xml := func(name string) string { return `<?xml version="1.0" encoding="` + name + `"?>` }
	en := []string{"Fed’s “patience” – café", "Élysée’s déjà vu"}
	latin, err := charmap.Windows1252.NewEncoder().String(feed(xml("UTF-8"), en...))
	if err != nil {
		t.Fatal(err)
	}
	ja := []string{"日銀が金利を据え置き", "東京株式市場は続伸"}
	sjis, err := japanese.ShiftJIS.NewEncoder().String(feed(xml("Shift_JIS"), ja...))
	if err != nil {
		t.Fatal(err)
	}
	jis, err := japanese.ISO2022JP.NewEncoder().String(feed(xml("ISO-2022-JP"), ja...))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		body []byte
		kind string
		want []string
	}{
		"utf-16 le, marked":              {wide(feed(xml("UTF-16"), ko...), true, false), "", ko},
		"utf-16 be, marked":              {wide(feed(xml("UTF-16"), ko...), true, true), "", ko},
		"utf-16 le, no mark":             {wide(feed(xml("UTF-16"), ko...), false, false), "", ko},
		"utf-16 be, no mark":             {wide(feed("", ko...), false, true), "text/xml; charset=utf-16", ko},
		"utf-16 be, declared utf-8":      {wide(feed(xml("UTF-8"), ko...), true, true), "text/xml; charset=utf-8", ko},
		"utf-8, declared utf-16":         {[]byte(feed(xml("UTF-16"), ko...)), "", ko},
		"utf-8 with a mark":              {append([]byte("\xef\xbb\xbf"), feed(xml("euc-kr"), ko...)...), "", ko},
		"cp949, named by the header":     {korean949(feed("", ko...)), "text/xml; charset=EUC-KR", ko},
		"cp949, header says latin":       {korean949(feed(xml("euc-kr"), ko...)), "text/xml; charset=ISO-8859-1", ko},
		"cp949, all say latin":           {korean949(feed(xml("iso-8859-1"), ko...)), "text/xml; charset=ISO-8859-1", ko},
		"cp949, declared us-ascii":       {korean949(feed(xml("us-ascii"), ko...)), "", ko},
		"cp949, called cp949":            {korean949(feed(xml("cp949"), ko...)), "", ko},
		"cp949, declared utf-8":          {korean949(feed(xml("utf-8"), ko...)), "text/xml; charset=utf-8", ko},
		"utf-8, declared shift_jis":      {[]byte(feed(xml("Shift_JIS"), ko...)), "", ko},
		"windows-1252, declared utf-8":   {[]byte(latin), "", en},
		"shift_jis":                      {[]byte(sjis), "", ja},
		"iso-2022-jp":                    {[]byte(jis), "", ja},
		"shift_jis, header says latin-1": {[]byte(sjis), "text/xml; charset=iso-8859-1", ja},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse(Body{tt.body, tt.kind, "https://ex.kr/rss"}, casesFetched)
			if err != nil || len(p.Entries) != 2 || p.Entries[0].Title != tt.want[0] || p.Entries[1].Title != tt.want[1] || p.Broken > 0 {
				t.Errorf("%+v, %v, want %q", p, err, tt.want)
			}
		})
	}
}

// TestRealTitlesInEitherEncoding: some of a real day's titles, in UTF-8 with some characters cut, and in CP949 under any
// name, few or many of them. Neither is taken for the other.
func TestRealTitlesInEitherEncoding(t *testing.T) {
	t.Parallel()
	rows, err := imitation.RealDay(casesFetched)
	if err != nil {
		t.Fatal(err)
	}
	chance := rand.New(rand.NewPCG(9, 49))
	declarations := []string{"", `<?xml version="1.0" encoding="utf-8"?>`, `<?xml version="1.0" encoding="euc-kr"?>`, `<?xml version="1.0" encoding="iso-8859-1"?>`}
	for i := range 600 {
		var b strings.Builder
		n := 1 + chance.IntN(30)
		want := ""
		for range n {
			row := rows[chance.IntN(len(rows))]
			title := Clean(strings.ReplaceAll(row.CorpName+" "+row.ReportNm, "ㆍ", ""))
			want += title + "\n"
			fmt.Fprintf(&b, "<item><title>%s</title><link>http://a.kr/%d</link></item>", html.EscapeString(title), len(want))
		}
		body := declarations[i%4] + "<rss><channel>" + b.String() + "</channel></rss>"
		if i%8 < 4 {
			encoded, err := korean.EUCKR.NewEncoder().String(body)
			if err != nil {
				t.Fatal(err)
			}
			body = encoded
		} else {
			body = strings.Replace(body, "</title>", "\xec\x82</title>", 1+chance.IntN(n)) // a character that was cut
		}
		p, err := parse([]byte(body))
		got := ""
		for _, e := range p.Entries {
			got += strings.TrimRight(e.Title, "\uFFFD") + "\n"
		}
		if err != nil || got != want {
			t.Fatalf("%d titles, case %d: %v, got\n%swant\n%s", n, i%8, err, got, want)
		}
	}
}

// TestCutAtEveryByte cuts a feed at each of its bytes: the items before the cut are read, and nothing else.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"rss_utf8.xml", "rss_euckr.xml", "cases/rel_atom.xml", "cases/v_json.json"} {
		body := fixture(t, name)
		all, err := parse(body)
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(bytes.TrimSpace(body)) {
			p, err := parse(body[:n])
			if err == nil && (!p.Cut || len(p.Entries) > len(all.Entries)) {
				t.Fatalf("%s cut at %d: %+v", name, n, p)
			}
			for i, e := range p.Entries {
				if e.Link != all.Entries[i].Link || e.Title != all.Entries[i].Title {
					t.Fatalf("%s cut at %d: item %d is %+v, want %+v", name, n, i, e, all.Entries[i])
				}
			}
		}
	}
}

func TestJSONFeedsOfAnyMake(t *testing.T) {
	t.Parallel()
	p, err := parse([]byte(`{"version":1,"items":[
		{"id":4,"url":"/js/4","title":"번호가 수인 기사","content_html":"<p>본문 &amp; <b>굵은</b> 글</p>","date_published":1764313445},
		{"id":5.0,"external_url":"http://ex2.kr/js/5","title":7,"summary":null,"content_text":"글"},
		{"id":"http://ex2.kr/js/6","title":"아이디가 주소"}, 3, {"title":["x"]}, {"id":true,"title":"주소 없음"}],"next_url":{}}`))
	want := `번호가 수인 기사 | 본문 & 굵은 글 | https://feeds.example/js/4 | 2025-11-28T07:04:05Z feed
7 | 글 | http://ex2.kr/js/5 | 2026-10-07T08:00:00Z first_seen
아이디가 주소 |  | http://ex2.kr/js/6 | 2026-10-07T08:00:00Z first_seen
`
	if got := lines(p.Entries); err != nil || got != want || p.Dropped[dropNoTitle] != 1 || p.Dropped[dropNoLink] != 1 || p.Cut {
		t.Errorf("%+v, %v, got\n%swant\n%s", p, err, got, want)
	}
}

// TestMarkupOfAnyMake: namespaces under other prefixes, bases within bases, links of Atom, unclosed elements.
func TestMarkupOfAnyMake(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`<feed xmlns="http://www.w3.org/2005/Atom" xml:base="http://a.kr/x/"><entry xml:base="y/"><title type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">가 <b>나</b> &lt;다</div></title>
			<link rel="self" href="s"/><link rel="alternate" type="application/json" href="j"/><link rel="alternate" type="text/html" href="z/1"/>
			<content type="html">&lt;p&gt;본문&lt;/p&gt;</content><published>2026-10-07T01:00:00Z</published></entry></feed>`: "가 나 <다 | 본문 | http://a.kr/x/y/z/1 | 2026-10-07T01:00:00Z feed\n",
		`<a:feed xmlns:a="http://www.w3.org/2005/Atom"><a:entry><a:title>접두어</a:title><a:link href="http://a.kr/2"/></a:entry></a:feed>`:                                                                                          "접두어 |  | http://a.kr/2 | 2026-10-07T08:00:00Z first_seen\n",
		`<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"><channel/><item rdf:about="http://a.kr/3"><title>RDF</title></item></rdf:RDF>`:                                         "RDF |  | http://a.kr/3 | 2026-10-07T08:00:00Z first_seen\n",
		`<rss xmlns:c="http://purl.org/rss/1.0/modules/content/" xmlns:media="http://search.yahoo.com/mrss/"><item><media:title>그림</media:title><title>본문</title><link>http://a.kr/4</link><c:encoded>글</c:encoded></item></rss>`: "본문 | 글 | http://a.kr/4 | 2026-10-07T08:00:00Z first_seen\n",
		`<rss><item><title>R&D, a < b <단독></title><link>http://a.kr/5?a=1&b=2</link><description>열린 <p>글<br>과</description></item><item><title>다음</title><link>http://a.kr/6</link></rss>`:                                        "R&D, a < b <단독> | 열린 글 과 | http://a.kr/5?a=1&b=2 | 2026-10-07T08:00:00Z first_seen\n다음 |  | http://a.kr/6 | 2026-10-07T08:00:00Z first_seen\n",
		`<!DOCTYPE rss [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><rss><!-- <item> --><item><title>&b;실체</title><link>http://a.kr/7</link></item></rss>`:                                                                            "&b;실체 |  | http://a.kr/7 | 2026-10-07T08:00:00Z first_seen\n",
		`<rss><item><title>처음 주소</title><link>http://feeds.kr/~r/8</link><feedburner:origLink>http://a.kr/8</feedburner:origLink></item></rss>`:                                                                                   "처음 주소 |  | http://a.kr/8 | 2026-10-07T08:00:00Z first_seen\n",
	} {
		if p, err := parse([]byte(body)); err != nil || lines(p.Entries) != want {
			t.Errorf("%v, got\n%swant\n%s", err, lines(p.Entries), want)
		}
	}
}

// TestACorrectionIsRead: the same address with another text is the newer version, once.
func TestACorrectionIsRead(t *testing.T) {
	t.Parallel()
	const address = "https://up.kr/rss"
	c := newCrawled(t, Feed{Name: "f", URL: address})
	newer := fixture(t, "cases/upd.xml")
	older := bytes.Replace(bytes.Replace(newer, []byte(" (종합)"), nil, 1), []byte("종합: 화재는 오보로 확인됐다. 정정합니다."), []byte("불이 났다."), 1)
	c.net[address] = &served{body: older}
	r, first := c.run(0)
	if r.New != 1 || r.Updated != 0 || len(first) != 1 {
		t.Fatalf("%+v", r)
	}
	c.net[address].body = newer
	r, got := c.run(10 * time.Minute)
	if r.New != 0 || r.Updated != 1 || len(got) != 1 || got[0].ID != first[0].ID || !strings.Contains(got[0].Text, "정정합니다") {
		t.Fatalf("%+v, %s", r, texts(got))
	}
	if !slices.Equal(r.Brought, []string{got[0].ID}) {
		t.Errorf("brought %v", r.Brought)
	}
	if r, got := c.run(20 * time.Minute); r.New+r.Updated+r.Repeated != 0 || len(got) != 0 {
		t.Errorf("unchanged: %+v", r)
	}
	c.net[address].body = older // an outlet that takes it back
	if r, _ := c.run(30 * time.Minute); r.Updated != 1 {
		t.Errorf("taken back: %+v", r)
	}
}

// TestFoldedOnceThenItsOwn: what another feed told first is folded and counted once; corrected under the same title
// it stays so, under a title of its own it becomes a document, and is then followed like any other.
func TestFoldedOnceThenItsOwn(t *testing.T) {
	t.Parallel()
	item := func(link, title, summary string) []byte {
		return []byte("<rss><item><title>" + title + "</title><link>" + link + "</link><description>" + summary + "</description></item></rss>")
	}
	const first, second = "https://a.kr/rss", "https://b.kr/rss"
	c := newCrawled(t, Feed{Name: "a", URL: first})
	c.net[first] = &served{body: item("https://a.kr/1", "가상전자 3분기 영업이익 사상 최대", "통신사")}
	c.net[second] = &served{body: item("https://b.kr/9", "가상전자, 3분기 영업이익 ‘사상 최대’", "옮김")}
	c.run(0)
	c.feeds = fixed{{Name: "a", URL: first}, {Name: "b", URL: second}}
	minutes := time.Duration(0)
	for i, step := range []struct {
		body              []byte
		updated, repeated int
	}{
		{nil, 0, 1}, {nil, 0, 0},
		{item("https://b.kr/9", "가상전자, 3분기 영업이익 ‘사상 최대’", "옮겨 고침"), 0, 1},
		{item("https://b.kr/9", "가상전자 영업이익, 알고 보니 사상 최대 아니다", "새 글"), 1, 0},
		{item("https://b.kr/9", "가상전자 영업이익, 알고 보니 사상 최대 아니다", "새 글을 고침"), 1, 0},
	} {
		if step.body != nil {
			c.net[second].body = step.body
		}
		minutes += 10 * time.Minute
		if r, got := c.run(minutes); r.Updated != step.updated || r.Repeated != step.repeated || r.New != 0 || len(got) != step.updated {
			t.Errorf("step %d: %+v, %s", i, r, texts(got))
		}
	}
}

// TestTwoFeedsOfOneOutlet carry one story under one address, with and without a summary: neither corrects the other.
func TestTwoFeedsOfOneOutlet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrawled(t, Feed{Name: "economy", URL: "https://a.kr/e"}, Feed{Name: "market", URL: "https://a.kr/m"})
		c.net["https://a.kr/e"] = &served{body: []byte("<rss><item><title>가상전자 소식</title><link>https://a.kr/view/AKR1?section=e</link><description>요약</description></item></rss>")}
		c.net["https://a.kr/m"] = &served{body: []byte("<rss><item><title>가상전자 소식</title><link>https://a.kr/view/AKR1?section=m</link></item></rss>")}
		if r, got := c.run(0); r.New != 1 || r.Repeated != 1 || r.Reasons["repeated/same_address"] != 1 || got[0].URL != "https://a.kr/view/AKR1?section=e" ||
			got[0].Fields["canonical"] != "https://a.kr/view/AKR1" {
			t.Errorf("%+v, %+v", r, got)
		}
		for i := range 3 {
			if r, _ := c.run(time.Duration(i+1) * 10 * time.Minute); r.New+r.Updated+r.Repeated != 0 {
				t.Errorf("again: %+v", r)
			}
		}
	})
}

// TestAMendedAddressBeginsAnew: neither the old address's conditions nor its back-off hold for the new one.
func TestAMendedAddressBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		serve := func(name string) *served {
			s := &served{body: fixture(t, "cases/"+name), header: http.Header{"Etag": {`"` + name + `"`}}}
			for line := range strings.SplitSeq(string(fixture(t, "cases/"+name+".hdr")), "\n") {
				if key, value, ok := strings.Cut(line, ": "); ok {
					s.header.Set(key, value)
				}
			}
			return s
		}
		list := func(name string) Feed {
			feeds, err := ParseFeeds(fixture(t, "cases/"+name))
			if err != nil || len(feeds) != 1 {
				t.Fatal(feeds, err)
			}
			return feeds[0]
		}
		before, after := list("feeds-before.json"), list("feeds-after.json")
		c := newCrawled(t, before)
		c.net[before.URL], c.net[after.URL] = serve("old_a.xml"), serve("new_b.xml")
		if r, _ := c.run(0); r.New != 1 {
			t.Fatalf("%+v", r)
		}
		c.net[before.URL].status = 503
		c.feeds = fixed{before, {Name: "well", URL: after.URL, Off: false}}
		c.run(10 * time.Minute)
		if asked := c.net[before.URL].asked; len(asked) != 2 || asked[1].Get("If-Modified-Since") == "" || asked[1].Get("If-None-Match") == "" {
			t.Fatalf("the old address was asked with %v", asked)
		}
		c.feeds = fixed{after}
		c.net[after.URL].asked = nil
		if _, _ = c.run(11 * time.Minute); len(c.net[after.URL].asked) != 1 {
			t.Fatal("the back-off of the old address holds for the new one")
		}
		if h := c.net[after.URL].asked[0]; h.Get("If-None-Match") != "" || h.Get("If-Modified-Since") != "" {
			t.Errorf("the new address is asked with the old one's conditions: %v", h)
		}
	})
}

// TestNoFeedTakesMuchMemory: 5 MB of anything, read within 60 MB and a generous time.
func TestNoFeedTakesMuchMemory(t *testing.T) {
	repeat := func(head, s, tail string) []byte {
		return []byte(head + strings.Repeat(s, (maxBody-len(head)-len(tail))/len(s)) + tail)
	}
	const head, item = `<rss><channel>`, `<item><title>t</title><link>http://a.kr/1</link>`
	bodies := map[string][]byte{
		"nested":              repeat(head, "<a>", ""),
		"nested in an item":   repeat(head+item, "<x:a>", ""),
		"nested in a title":   repeat(head+"<item><title>", "<b>", ""),
		"flat":                repeat(head+item, "<x:a/>", "</item></channel></rss>"),
		"open tags":           repeat(head+item, "<a ", ""),
		"open quotes":         repeat(head+item, `<a b="`, ""),
		"attributes":          repeat(head+item+"<x ", `a="" `, "/></item></channel></rss>"),
		"namespaces":          repeat("<rss ", `xmlns:a="b" `, ">"+item+"</item></rss>"),
		"items":               repeat(head, "<item/>", "</channel></rss>"),
		"whole items":         repeat(head, item+"</item>", "</channel></rss>"),
		"document types":      repeat("", "<!x>", head),
		"comments":            repeat(head, "<!---->", "</channel></rss>"),
		"one title":           repeat(head+"<item><title>", "&lt;b&gt;", "</title></item></channel></rss>"),
		"nested JSON":         repeat(`{"items":`, "[", ""),
		"nested JSON objects": repeat(`{"items":[`, `{"a":`, ""),
		"JSON items":          repeat(`{"items":[{}`, ",{}", "]}"),
		"zeros":               make([]byte, maxBody),
		"UTF-16":              repeat("\xff\xfe<\x00r\x00s\x00s\x00>\x00", "<\x00a\x00>\x00", ""),
		"noise":               randomBytes(maxBody),
	}
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // what is garbage already says little
	for name, body := range bodies {
		runtime.GC()
		before := heap()
		most, done, sampled := atomic.Uint64{}, make(chan struct{}), make(chan struct{})
		go func() {
			defer close(sampled)
			for {
				most.Store(max(most.Load(), heap()))
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		}()
		begin := time.Now()
		_, _ = Parse(Body{Bytes: body, URL: "http://a.kr/"}, casesFetched)
		took := time.Since(begin)
		close(done)
		<-sampled
		took, grown := took.Round(time.Millisecond), (int64(most.Load())-int64(before))>>20
		t.Logf("%-20s %3d MB beside the body, %v", name, grown, took)
		if grown+maxBody>>20 > 60 || took > time.Minute {
			t.Errorf("%s: %d MB beside the body's 5, %v", name, grown, took)
		}
	}
}

// heap returns the bytes of the objects on it.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func randomBytes(n int) []byte {
	chance := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = chance.Read(b) // never fails
	return b
}

// TestNoBodyInAnError: what a server says is not repeated, since it may be another one's secret.
func TestNoBodyInAnError(t *testing.T) {
	t.Parallel()
	const secret = "AKIA-SECRET-7"
	for _, body := range []string{secret, "<html>" + secret, `{"` + secret + `":1}`, "<" + secret + ">", `{"errorCode":"` + secret + `"}`, "<html>captcha " + secret} {
		if _, err := parse([]byte(body)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", body, err)
		}
		for _, code := range []int{200, 401} {
			if err := naverError(code, []byte(body)); err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%q: %v", body, err)
			}
		}
		if _, _, err := ParseNaver([]byte(body), casesFetched); err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if _, err := Parse(Body{Bytes: []byte("x"), Type: secret + "; " + secret, URL: "http://a.kr"}, casesFetched); strings.Contains(err.Error(), secret) {
		t.Error(err)
	}
	if err := plain(&url.Error{Op: "Get", URL: "http://a.kr/?key=" + secret, Err: os.ErrDeadlineExceeded}); strings.Contains(err.Error(), secret) {
		t.Error(err)
	}
}

// listed is the list of a crawled, which changes.
type listed struct{ *crawled }

func (l listed) Feeds() ([]Feed, error) { return l.feeds, nil }
