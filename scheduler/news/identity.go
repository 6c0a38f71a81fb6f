package news

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/scheduler"
)

// noise are parameters that say how a reader came, not what is read. Everything else may name an article.
var noise = []string{"fbclid", "gclid", "dclid", "msclkid", "igshid", "mc_cid", "mc_eid", "spm", "outputtype", "ref_src"}

// doubtful are parameters that are noise in an address that names its article without them, and name it in others:
// view/AKR1?section=market, and view?cid=101.
var doubtful = []string{"ref", "section", "sid", "sid1", "sid2", "from", "cid", "rss", "input", "cds", "type", "source", "src", "channel", "site", "mode"}

// Canonical returns the address under which the same article is always the same: scheme https, host in lower
// case and without "www." and "m.", no parameters of noise, the others sorted. Where path and other parameters
// name the article, fragment and doubtful parameters are left out too. It fails for what is no web address.
func Canonical(link string) (string, error) {
	u, err := url.Parse(strings.ReplaceAll(strings.TrimSpace(link), "&amp;", "&")) // Naver's JSON has them
	if err != nil {
		return "", errors.New("link can't be parsed")
	}
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("link has scheme %q and host %q, want http or https and one", u.Scheme, u.Host)
	}
	host := strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(u.Host, ":80"), ":443"))
	for _, p := range []string{"www.", "m."} {
		if rest, ok := strings.CutPrefix(host, p); ok && strings.Contains(rest, ".") {
			host = rest
		}
	}
	query, sure := u.Query(), url.Values{}
	for name, values := range query {
		switch lower := strings.ToLower(name); {
		case slices.Contains(noise, lower) || strings.HasPrefix(lower, "utm_"):
			query.Del(name)
		case !slices.Contains(doubtful, lower):
			sure[name] = values
		}
	}
	out := url.URL{Scheme: "https", Host: host, Path: strings.TrimSuffix(u.Path, "/"), RawQuery: sure.Encode()}
	if !namesArticle(out.Path, sure) {
		out.RawQuery = query.Encode()
		out.Fragment = u.Fragment
	}
	return out.String(), nil
}

// namesArticle reports whether an address without fragment and doubtful parameters still names one article: it has
// a number or a long name in it. "/live", "/view.php" and "/" do not.
func namesArticle(path string, query url.Values) bool {
	last := path[strings.LastIndexByte(path, '/')+1:]
	if strings.ContainsAny(path, "0123456789") || len(last) >= 16 || strings.Count(last, "-") > 1 {
		return true
	}
	for _, values := range query {
		for _, v := range values {
			if strings.ContainsAny(v, "0123456789") || len(v) >= 24 {
				return true
			}
		}
	}
	return false
}

// isFront reports whether a canonical address is that of a whole site, which some feeds give every item.
func isFront(canonical string) bool {
	u, err := url.Parse(canonical)
	return err == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == ""
}

// naverArticle finds office and article in the paths of Naver's news, old and new.
var naverArticle = regexp.MustCompile(`^/(?:mnews/)?(?:ranking/)?article/(\d{3})/(\d{10})$`)

// Identity returns a document's id: an article at Naver by office and number, any other by its canonical
// address. Where the address names no article, what the feed calls it in its guid belongs to the id; where there
// is neither, feed, title and day are it.
func Identity(link, guid, feed, title string, at time.Time) string {
	canonical, err := Canonical(link)
	if err != nil || isFront(canonical) {
		switch {
		case guid != "" && err == nil:
			return "news:g:" + short(canonical+"\n"+guid)
		case guid != "":
			return "news:g:" + short(feed+"\n"+guid)
		}
		return "news:t:" + short(feed+"\n"+fold(title)+"\n"+day(at))
	}
	u, err := url.Parse(canonical)
	if err != nil {
		return "news:" + short(canonical)
	}
	if strings.HasSuffix(u.Host, "news.naver.com") {
		if m := naverArticle.FindStringSubmatch(path.Clean(u.Path)); m != nil {
			return "news:naver:" + m[1] + "/" + m[2]
		}
		if q := u.Query(); q.Get("oid") != "" && q.Get("aid") != "" {
			return "news:naver:" + q.Get("oid") + "/" + q.Get("aid")
		}
	}
	if guid != "" && !namesArticle(u.Path, u.Query()) && u.Fragment == "" {
		return "news:g:" + short(canonical+"\n"+guid)
	}
	return "news:" + short(canonical)
}

// exactly is the id of an entry whose address stands, in one feed, for several: by everything that tells them apart.
func (e Entry) exactly(feed string) string {
	return "news:e:" + short(feed+"\n"+e.Link+"\n"+e.GUID+"\n"+fold(e.Title))
}

// short is the first 16 bytes of a SHA-256, in hex.
func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

func day(t time.Time) string { return t.In(scheduler.KST).Format("20060102") }

// fold reduces a title to its letters and numbers, in lower case: outlets differ in quotes and blanks. What makes
// another number of a number stays: sign, point, arrow and percent.
func fold(title string) string {
	var b strings.Builder
	runes := []rune(title)
	at := func(i int) rune {
		if i < 0 || i >= len(runes) {
			return ' '
		}
		return runes[i]
	}
	for i, r := range runes {
		switch {
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(unicode.ToLower(r))
		case strings.ContainsRune("▲▼△▽↑↓%％", r):
			b.WriteRune(r)
		case strings.ContainsRune("+-−＋－", r) && unicode.IsDigit(at(i+1)) && !unicode.IsLetter(at(i-1)) && !unicode.IsDigit(at(i-1)):
			if r == '+' || r == '＋' {
				b.WriteRune('+')
			} else {
				b.WriteRune('-')
			}
		case r == '.' && unicode.IsDigit(at(i-1)) && unicode.IsDigit(at(i+1)):
			b.WriteRune(r)
		}
	}
	return b.String()
}

// titleRunes is how long a title must be to stand for its story; "[부고]" or "오늘의 날씨" does not.
const titleRunes = 12

// TitleName returns the name under which a story is the same in every outlet on one day, "" if its title is
// too short for that.
func TitleName(title string, at time.Time) string {
	folded := fold(title)
	if utf8.RuneCountInString(folded) < titleRunes {
		return ""
	}
	return "title:" + short(folded+"\n"+day(at))
}
