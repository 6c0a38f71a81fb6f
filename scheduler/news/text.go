package news

import (
	"html"
	"regexp"
	"strings"
)

// markup finds tags of HTML by name, so that a <연합뉴스> or an a < b of the text stays.
var markup = regexp.MustCompile(`(?is)<!--.*?-->|<(?:script|style)\b.*?</(?:script|style)\s*>|</?(a|abbr|b|big|blockquote|br|center|cite|code|dd|div|dl|dt|em|figcaption|figure|font|h[1-6]|hr|i|iframe|img|li|mark|ol|p|pre|q|s|small|span|strike|strong|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul|video)\b[^<>]*>`)

// inline elements sit inside words; all others stand between them.
var inline = regexp.MustCompile(`(?i)^</?(a|abbr|b|big|cite|code|em|font|i|mark|q|s|small|span|strike|strong|sub|sup|tt|u)\b`)

// Clean returns the text of a title or a summary: tags out, entities resolved, white space squeezed. Feeds
// escape once too often, so both are done twice. An inline tag goes without a trace, for Korean words are
// marked in their middle.
func Clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	for range 2 {
		s = html.UnescapeString(strip(s))
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strip(s))
	return strings.Join(strings.Fields(s), " ")
}

func strip(s string) string {
	if !strings.Contains(s, "<") {
		return s
	}
	return markup.ReplaceAllStringFunc(s, func(tag string) string {
		if inline.MatchString(tag) {
			return ""
		}
		return " "
	})
}
