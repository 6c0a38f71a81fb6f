package dart

import (
	"html"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/korean"
)

// Decode returns b as UTF-8. What the bytes declare about themselves is not looked at, for it is wrong in
// both directions: valid UTF-8 is UTF-8, everything else is CP949, which Go calls EUC-KR.
func Decode(b []byte) string {
	b = []byte(strings.TrimPrefix(string(b), "\ufeff"))
	if utf8.Valid(b) {
		return string(b)
	}
	out, err := korean.EUCKR.NewDecoder().Bytes(b)
	if err != nil { // the decoder replaces what it does not know, and fails at nothing
		return strings.ToValidUTF8(string(b), "\uFFFD")
	}
	return string(out)
}

// breaking are elements that end a line; between the others words run on.
var breaking = map[string]bool{
	"p": true, "br": true, "tr": true, "table": true, "title": true, "section-1": true, "section-2": true, "section-3": true,
	"div": true, "li": true, "h1": true, "h2": true, "h3": true, "pgbrk": true, "cover": true, "body": true,
}

// Strip returns the text of a filing's body: tags gone, entities resolved, white space squeezed, a line per
// paragraph or table row, at most limit bytes cut on a character. The markup is not well-formed (a bare & and
// < occur in any text), so a < that begins no tag stays what it is.
func Strip(markup string, limit int) string {
	out := squeezer{limit: limit}
	for len(markup) > 0 && !out.full() {
		at := strings.IndexByte(markup, '<')
		if at < 0 {
			out.text(markup)
			break
		}
		out.text(markup[:at])
		name, size := tag(markup[at:])
		switch {
		case size == 0:
			out.raw("<")
			size = 1
		case breaking[name]:
			out.line = true
		case name == "td" || name == "te" || name == "th" || name == "tu":
			out.blank = true
		}
		markup = markup[at+size:]
	}
	return cut(out.b.String(), limit)
}

// A squeezer writes text with runs of white space made one blank or one line break, up to a limit.
type squeezer struct {
	b           strings.Builder
	limit       int
	blank, line bool // owed before the next character
}

func (q *squeezer) full() bool { return q.b.Len() >= q.limit }

// text writes s with its entities resolved.
func (q *squeezer) text(s string) {
	if strings.IndexByte(s, '&') >= 0 {
		s = html.UnescapeString(s)
	}
	q.raw(s)
}

func (q *squeezer) raw(s string) {
	for _, r := range s {
		switch {
		case r == '\n':
			q.line = true
			continue
		case r == 0 || unicode.IsSpace(r):
			q.blank = true
			continue
		case q.full():
			return
		}
		if q.b.Len() > 0 && q.line {
			q.b.WriteByte('\n')
		} else if q.b.Len() > 0 && q.blank {
			q.b.WriteByte(' ')
		}
		q.blank, q.line = false, false
		q.b.WriteRune(r)
	}
}

// tag returns the lower-case name of the tag that s begins with and the tag's length, 0 if it is none.
func tag(s string) (name string, size int) {
	if strings.HasPrefix(s, "<!--") {
		if end := strings.Index(s, "-->"); end >= 0 {
			return "", end + 3
		}
		return "", len(s)
	}
	i := 1
	if i < len(s) && (s[i] == '/' || s[i] == '?' || s[i] == '!') {
		i++
	}
	start := i
	for i < len(s) && (isLetter(s[i]) || i > start && (s[i] >= '0' && s[i] <= '9' || s[i] == '-' || s[i] == '_' || s[i] == ':')) {
		i++
	}
	if i == start {
		return "", 0
	}
	name = strings.ToLower(s[start:i])
	if i < len(s) && s[i] != '>' && s[i] != '/' && s[i] > ' ' { // "<b가" is text
		return "", 0
	}
	end := strings.IndexAny(s[i:], "<>")
	if end < 0 || s[i+end] == '<' { // never closed: "a <b and c"
		return "", 0
	}
	return name, i + end + 1
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// cut returns at most limit bytes of s, whole characters.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
