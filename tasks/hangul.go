package tasks

import (
	"strings"
	"unicode/utf8"
)

// The arithmetic of Hangul syllables (The Unicode Standard, section 3.12).
const (
	leadBase, leadCount   = 0x1100, 19
	vowelBase, vowelCount = 0x1161, 21
	tailBase, tailCount   = 0x11A7, 28 // the first tail, U+11A8, has index 1
	syllableBase          = 0xAC00
	syllableCount         = leadCount * vowelCount * tailCount
)

// ComposeHangul returns s with each sequence of conjoining jamo of modern Hangul (lead + vowel, with or
// without a tail, or a syllable without a tail + tail) replaced by its syllable, and everything else
// untouched. Of pure Hangul it is Unicode's NFC; unlike NFC it leaves compatibility ideographs alone, of
// which Korean vocabularies hold several. Applied twice it changes nothing more. s must be valid UTF-8.
func ComposeHangul(s string) string {
	if !hasJamo(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for len(s) > 0 {
		r, size := syllableAt(s)
		if r == 0 { // not Hangul: keep the bytes as they are
			_, size = utf8.DecodeRuneInString(s)
			b.WriteString(s[:size])
		} else {
			b.WriteRune(r)
		}
		s = s[size:]
	}
	return b.String()
}

// hasJamo reports whether s may hold a jamo that composes. U+1100 to U+11FF are the bytes E1 84 80 to
// E1 87 BF, so that nearly every text is cleared by a search for one byte.
func hasJamo(s string) bool {
	for {
		i := strings.IndexByte(s, 0xE1)
		if i < 0 || i+1 >= len(s) {
			return false
		}
		if c := s[i+1]; 0x84 <= c && c <= 0x87 {
			return true
		}
		s = s[i+1:]
	}
}

// syllableAt returns the syllable that s begins with, composed as far as the following jamo allow, and
// the bytes it took; a rune of 0 if s begins with nothing that could be part of one.
func syllableAt(s string) (syllable rune, size int) {
	r, n := utf8.DecodeRuneInString(s)
	if lead := r - leadBase; 0 <= lead && lead < leadCount {
		v, m := utf8.DecodeRuneInString(s[n:])
		vowel := v - vowelBase
		if vowel < 0 || vowel >= vowelCount {
			return r, n
		}
		r, n = syllableBase+(lead*vowelCount+vowel)*tailCount, n+m
	}
	open := r - syllableBase
	if open < 0 || open >= syllableCount {
		return 0, 0
	}
	if open%tailCount != 0 { // has its tail already
		return r, n
	}
	t, m := utf8.DecodeRuneInString(s[n:])
	if tail := t - tailBase; 0 < tail && tail < tailCount {
		return r + tail, n + m
	}
	return r, n
}
