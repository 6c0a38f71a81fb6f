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

// noise are parameters that say how a reader came, not what he reads. What is not named here stays: idxno,
// aid, oid and the like name the article.
var noise = []string{"ref", "section", "sid", "from", "fbclid", "gclid", "cid", "rss", "spm", "outputtype", "input"}

// Canonical returns the address under which the same article is always the same: scheme https, host in lower
// case and without "www." and "m.", no fragment, no parameters of noise, the others sorted.
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
	query := u.Query()
	for name := range query {
		if slices.Contains(noise, strings.ToLower(name)) || strings.HasPrefix(strings.ToLower(name), "utm_") {
			query.Del(name)
		}
	}
	out := url.URL{Scheme: "https", Host: host, Path: strings.TrimSuffix(u.Path, "/"), RawQuery: query.Encode()}
	return out.String(), nil
}

// naverArticle finds office and article in the paths of Naver's news, old and new.
var naverArticle = regexp.MustCompile(`^/(?:mnews/)?(?:ranking/)?article/(\d{3})/(\d{10})$`)

// Identity returns a document's id: an article at Naver by office and number, any other by its canonical
// address, one without a link by source, title and day.
func Identity(link, source, title string, at time.Time) string {
	canonical, err := Canonical(link)
	if err != nil {
		return "news:t:" + short(source+"\n"+fold(title)+"\n"+day(at))
	}
	if u, err := url.Parse(canonical); err == nil && strings.HasSuffix(u.Host, "news.naver.com") {
		if m := naverArticle.FindStringSubmatch(path.Clean(u.Path)); m != nil {
			return "news:naver:" + m[1] + "/" + m[2]
		}
		if q := u.Query(); q.Get("oid") != "" && q.Get("aid") != "" {
			return "news:naver:" + q.Get("oid") + "/" + q.Get("aid")
		}
	}
	return "news:" + short(canonical)
}

// short is the first 16 bytes of a SHA-256, in hex.
func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

func day(t time.Time) string { return t.In(scheduler.KST).Format("20060102") }

// fold reduces a title to its letters and digits, in lower case: outlets differ in quotes and blanks.
func fold(title string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, title)
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
