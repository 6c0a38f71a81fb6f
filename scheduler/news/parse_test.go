package news

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// fetched is when the fixtures were fetched.
var fetched = time.Date(2026, 10, 7, 8, 0, 0, 0, time.UTC)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parse reads a body as it is served from one address.
func parse(b []byte) (Page, error) {
	return Parse(Body{Bytes: b, URL: "https://feeds.example/rss"}, fetched)
}

// lines shows entries as text, a line each.
func lines(entries []Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s | %s | %s | %s %s\n", e.Title, e.Summary, e.Link, e.Published.Format("2006-01-02T15:04:05Z"), e.From)
	}
	return b.String()
}

// TestFixtures reads each feed of the fixtures' table. Times are UTC: Korea's less nine hours.
func TestFixtures(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		dropped int
		want    string
	}{
		"rss_utf8.xml": {2, `
가상에너지, E&S 합병 "주주가치 훼손" 논란 | (서울=연합) 홍길동 기자 = 가상에너지가 자회사 합병을 결정했다. | https://news.example.invalid/view/AKR20261007000100008?section=market/all&utm_source=rss | 2026-10-06T23:40:00Z feed
코스피, 외국인 순매수에 상승 출발 | 코스피가 7일 상승 출발했다. | https://news.example.invalid/view/AKR20261007000200008?section=economy/all | 2026-10-07T00:01:22Z feed
코스피, 외국인 순매수에 상승 출발 | 코스피가 7일 상승 출발했다. | https://news.example.invalid/view/AKR20261007000200008?section=market/all | 2026-10-07T00:01:22Z feed
미래 시각 기사 |  | https://news.example.invalid/view/future | 2026-10-07T08:00:00Z first_seen
`},
		"rss_hankyung_style.xml": {0, `
가상은행, 순이자마진 하락에도 실적 선방…"배당 확대" |  | https://www.hankyung.com/article/202610070001i | 2026-10-07T06:01:06Z feed
가상전자 신형 메모리 양산 & 공급 |  | https://www.hankyung.com/article/2026100700021 | 2026-10-07T05:30:00Z feed
`},
		"rss_mk_style.xml": {0, `
“반도체 끌고 조선 밀고”…가상지수 사상 최고치 | 외국인이 나흘째 순매수했다. | https://www.mk.co.kr/news/stock/19000001 | 2026-10-07T05:37:38Z feed
가상조선, LNG선 2척 수주 | 5천억원 규모다. | https://www.mk.co.kr/news/stock/19000002 | 2026-10-07T05:40:00Z feed
`},
		"rss_lying_header.xml": {0, `
반도체 수출 20% 증가 | 10월 1~10일 수출. | https://news.example.invalid/a/4 | 2026-10-07T07:00:00Z feed
`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := parse(fixture(t, name))
			if got := "\n" + lines(p.Entries); err != nil || got != tt.want || p.Items()-len(p.Entries) != tt.dropped || p.Cut || p.Broken > 0 {
				t.Errorf("%+v, %v, got%swant%s", p, err, got, tt.want)
			}
		})
	}
}

// TestKoreanEncodings: CP949 bytes, with syllables that EUC-KR lacks, under either name.
func TestKoreanEncodings(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		"rss_euckr.xml":         {"똠", "따블", "2026-10-07T06:40:00Z"},
		"rss_ksc5601_alias.xml": {"순유출", "2026-10-07T06:50:00Z"},
	} {
		p, err := parse(fixture(t, name))
		got := lines(p.Entries)
		if err != nil || strings.ContainsRune(got, utf8.RuneError) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: no %q in\n%s", name, part, got)
			}
		}
		// The same bytes without a declaration, and with one of UTF-8.
		for _, declared := range []string{"", `<?xml version="1.0" encoding="UTF-8"?>`} {
			body := declaration.ReplaceAll(fixture(t, name), []byte(declared))
			if again, err := parse(body); err != nil || lines(again.Entries) != got {
				t.Errorf("%s declared %q: %v\n%s", name, declared, err, lines(again.Entries))
			}
		}
	}
	// A few broken bytes do not make UTF-8 another encoding.
	body := bytes.Replace(fixture(t, "rss_utf8.xml"), []byte("상승 출발했다"), []byte("상승\xff 출발했다"), 1)
	if p, err := parse(body); err != nil || !strings.Contains(lines(p.Entries), "가상에너지") || p.Broken != 1 {
		t.Errorf("%v, %d broken\n%s", err, p.Broken, lines(p.Entries))
	}
}

func TestCloudflareBlock(t *testing.T) {
	t.Parallel()
	var blocked *BlockedError
	if _, err := parse(fixture(t, "rss_cloudflare_block.html")); !errors.As(err, &blocked) {
		t.Errorf("%v, want a BlockedError", err)
	}
	for _, body := range []string{"", "{}", "<html><body>404</body></html>", "<rss", "<feed/>x"} {
		var form *FormError
		if p, err := parse([]byte(body)); !errors.As(err, &form) && !p.Cut && body != "<feed/>x" {
			t.Errorf("%q: %+v, %v", body, p, err)
		}
	}
}

func TestOtherForms(t *testing.T) {
	t.Parallel()
	atom := `<feed xmlns="http://www.w3.org/2005/Atom"><entry><title type="html">A &amp;lt;b&amp;gt;x&amp;lt;/b&amp;gt;</title>` +
		`<link href="https://a.example/1"/><updated>2026-10-07T10:00:00+09:00</updated></entry></feed>`
	jsonFeed := `{"version":"https://jsonfeed.org/version/1.1","items":[{"id":"1","url":"https://a.example/2","title":"J","date_published":"2026-10-07T01:00:00Z"}]}`
	dc := `<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/"><channel><item><title>D</title><guid>https://a.example/3</guid><dc:date>2026-10-07T10:00:00</dc:date></item></channel></rss>`
	for body, want := range map[string]string{
		atom:     "A x |  | https://a.example/1 | 2026-10-07T01:00:00Z feed\n",
		jsonFeed: "J |  | https://a.example/2 | 2026-10-07T01:00:00Z feed\n",
		dc:       "D |  | https://a.example/3 | 2026-10-07T01:00:00Z feed\n",
	} {
		if p, err := parse([]byte(body)); err != nil || lines(p.Entries) != want {
			t.Errorf("%v, got %swant %s", err, lines(p.Entries), want)
		}
	}
}

// TestParseDate is the table of dialects. What names no zone is Korean.
func TestParseDate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Wed, 07 Oct 2026 15:40:00 +0900":    "2026-10-07T06:40:00Z",
		"Tue, 22 Sep 2026 14:37:38 +09:00":   "2026-09-22T05:37:38Z",
		"Wed, 07 Oct 2026 14:40:00 KST":      "2026-10-07T05:40:00Z",
		"Wed, 07 Oct 2026 05:30:00 GMT":      "2026-10-07T05:30:00Z",
		"Wed, 7 Oct 2026 05:30 UTC":          "2026-10-07T05:30:00Z",
		"2026-10-07 09:01:22":                "2026-10-07T00:01:22Z",
		"2026-10-07T09:01:22":                "2026-10-07T00:01:22Z",
		"2026-10-07T09:01:22Z":               "2026-10-07T09:01:22Z",
		"2026-10-07T09:01:22.123+09:00":      "2026-10-07T00:01:22Z",
		"20261007090122+0900":                "2026-10-07T00:01:22Z",
		"20261007090122":                     "2026-10-07T00:01:22Z",
		"Sun, 20 09 2026 10:00:00":           "2026-09-20T01:00:00Z",
		"Wed, 07 10 2026 09:03:00":           "2026-10-07T00:03:00Z",
		"2026.09.22 14:37":                   "2026-09-22T05:37:00Z",
		"2026. 9. 22. 14:37":                 "2026-09-22T05:37:00Z",
		"2026/09/22 14:37:01":                "2026-09-22T05:37:01Z",
		"2026-10-07":                         "2026-10-06T15:00:00Z",
		"Wed Oct  7 09:01:22 2026":           "2026-10-07T00:01:22Z",
		"Oct 7, 2026 09:01":                  "2026-10-07T00:01:00Z",
		"Wed, 07 Oct 2026 05:30:00 GMT+0900": "2026-10-06T20:30:00Z",
		"Wed, 07 Oct 2026 05:30:00 EDT":      "2026-10-07T09:30:00Z",
		"Wed, 07 Oct 2026 05:30:00 XYZ":      "",
		"Wed, 07 Oct 2026 05:30:00 +9900":    "",
		"yesterday":                          "",
		"":                                   "",
	} {
		got := ""
		if at, ok := ParseDate(in); ok {
			got = at.Format("2006-01-02T15:04:05Z")
		}
		if got != want {
			t.Errorf("ParseDate(%q) = %q, want %q", in, got, want)
		}
	}
	if at, from := Published("Thu, 01 Jan 1970 00:00:00 GMT", fetched); from != "first_seen" || !at.Equal(fetched) {
		t.Errorf("of 1970: %v %s", at, from)
	}
	if at, from := Published("2026-10-07 17:03:00", fetched); from != "feed" || !at.Equal(fetched) {
		t.Errorf("three minutes ahead: %v %s", at, from)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	same := [][]string{
		{"https://n.news.naver.com/mnews/article/015/0005248202?sid=103", "http://n.news.naver.com/article/015/0005248202",
			"https://news.naver.com/main/read.naver?mode=LSD&oid=015&aid=0005248202&sid1=101"},
		{"https://www.yna.co.kr/view/AKR1?section=market/all", "http://www.yna.co.kr/view/AKR1#x", "https://WWW.yna.co.kr/view/AKR1/?utm_source=rss&ref=naver", "https://m.yna.co.kr/view/AKR1"},
		{"https://a.kr/news/articleView.html?idxno=7&utm_medium=x", "https://a.kr/news/articleView.html?idxno=7"},
	}
	seen := map[string]int{}
	for i, group := range same {
		first := Identity(group[0], "", "s", "t", fetched)
		if j, dup := seen[first]; dup {
			t.Errorf("groups %d and %d are one: %s", i, j, first)
		}
		seen[first] = i
		for _, link := range group[1:] {
			if got := Identity(link, "", "s", "t", fetched); got != first {
				t.Errorf("%s is %s, want %s as %s", link, got, first, group[0])
			}
		}
	}
	if got := Identity(same[0][0], "", "", "", fetched); got != "news:naver:015/0005248202" {
		t.Errorf("naver: %s", got)
	}
	if Identity("https://a.kr/v?idxno=7", "", "", "", fetched) == Identity("https://a.kr/v?idxno=8", "", "", "", fetched) {
		t.Error("the parameter that names the article was dropped")
	}
	if a, b := Identity("", "", "s", "가나", fetched), Identity("", "", "s", "가다", fetched); a == b || !strings.HasPrefix(a, "news:t:") {
		t.Errorf("without a link %s, %s", a, b)
	}
	if TitleName("오늘의 날씨", fetched) != "" {
		t.Error("a short title stands for its story")
	}
	if TitleName("코스피, 외국인 순매수에 상승 출발", fetched) != TitleName("코스피 외국인 순매수에 “상승 출발”", fetched.Add(time.Hour)) {
		t.Error("quotes and blanks make another story")
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"가상<b>전자</b>, &quot;어닝&quot; 전년比":     `가상전자, "어닝" 전년比`,
		"&lt;연합뉴스&gt; 가상<b>전자</b>":            "<연합뉴스> 가상전자",
		"&lt;b&gt;가상&lt;/b&gt;전자 &amp;amp; x": "가상전자 & x",
		"E&amp;amp;S":                   "E&S",
		"a<br/>b<p class=\"x\">c</p>":   "a b c",
		"<script>alert('x')</script>남은": "남은",
		"1 < 2 &#39;x&#39;":             "1 < 2 'x'",
		"<![CDATA[]]>":                  "<![CDATA[]]>",
		"a\x00\x07b\xff":                "a b\uFFFD",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestDamagedFeeds takes real-shaped feeds apart at random: nothing panics, and no date is in a wrong zone,
// that is, every date that is believed is one of the original's.
func TestDamagedFeeds(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/rss_*")
	if err != nil || len(names) < 7 {
		t.Fatal(names, err)
	}
	// Dates are plain text that damage must not touch, so that each has one right reading.
	// Those of the two items that are dropped may come back, with a title or a link of their neighbours.
	dates := map[time.Time]bool{
		fetched: true, time.Date(2026, 10, 7, 0, 2, 0, 0, time.UTC): true, time.Date(2026, 10, 7, 0, 3, 0, 0, time.UTC): true,
	}
	var originals [][]byte
	for _, name := range names {
		b := fixture(t, filepath.Base(name))
		originals = append(originals, b)
		p, _ := parse(b) // one of them is no feed
		for _, e := range p.Entries {
			dates[e.Published] = true
		}
	}
	chance := rand.New(rand.NewPCG(6, 1))
	read, whole := 0, 0
	for i := range 1000 {
		body := damage(chance, bytes.Clone(originals[i%len(originals)]))
		p, err := parse(body)
		if err == nil {
			read++
		}
		for _, e := range p.Entries {
			whole++
			if !utf8.ValidString(e.Title+e.Summary) || strings.ContainsRune(e.Title+e.Summary, 0) || e.Title == "" {
				t.Errorf("feed %d: title %q", i, e.Title)
			}
			if !dates[e.Published] {
				t.Errorf("feed %d: date %v is none of the original's", i, e.Published)
			}
		}
	}
	if read < 100 || whole < 300 {
		t.Errorf("%d feeds and %d items survived: the damage is too great to test anything", read, whole)
	}
}

// damage spoils a few places outside of dates.
func damage(chance *rand.Rand, body []byte) []byte {
	for range 1 + chance.IntN(4) {
		at := chance.IntN(len(body))
		if open := bytes.LastIndex(body[:at], []byte("<pubDate>")); open >= 0 && !bytes.Contains(body[open:at], []byte("</pubDate>")) {
			continue
		}
		n := min(chance.IntN(12), len(body)-at)
		if bytes.Contains(body[at:min(at+n+10, len(body))], []byte("ubDate")) {
			continue
		}
		switch chance.IntN(5) {
		case 0:
			body[at] = byte(chance.IntN(256))
		case 1: // lose
			body = append(body[:at:at], body[at+n:]...)
		case 2: // twice
			body = append(body[:at+n:at+n], body[at:]...)
		case 3:
			body = append(body[:at:at], append([]byte("<![CDATA[&#x;</"), body[at:]...)...)
		default:
			if chance.IntN(4) == 0 {
				body = body[:at]
			}
		}
		if len(body) == 0 {
			return []byte("<")
		}
	}
	return body
}

func FuzzParse(f *testing.F) {
	names, _ := filepath.Glob("testdata/rss_*") // the pattern is valid
	for _, name := range names {
		f.Add(fixture(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _ := parse(b)
		for _, e := range p.Entries {
			if e.Title == "" || !utf8.ValidString(e.Title+e.Summary) || e.Published.After(fetched) {
				t.Errorf("%+v", e)
			}
			e.Item("feed", "f")
		}
	})
}

func FuzzParseDate(f *testing.F) {
	f.Add("Tue, 22 Sep 2026 14:37:38 +09:00")
	f.Add("20261007090122+0900")
	f.Fuzz(func(t *testing.T, s string) {
		if at, from := Published(s, fetched); at.After(fetched) || from != "feed" && from != "first_seen" {
			t.Errorf("%v %s", at, from)
		}
	})
}
