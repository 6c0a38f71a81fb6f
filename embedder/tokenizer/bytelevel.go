package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A charClass is what the word pattern tells apart.
type charClass uint8

const (
	classOther charClass = iota
	classWhite
	classLetter
	classNumber
)

// classify returns the class and the length of the first character of s, which is not empty.
func classify(s string) (charClass, int) {
	c, n := rune(s[0]), 1
	if c >= utf8.RuneSelf {
		c, n = utf8.DecodeRuneInString(s)
	}
	switch props := textProps(c); {
	case props&textLetter != 0:
		return classLetter, n
	case props&textNumber != 0:
		return classNumber, n
	case isSpace(c):
		return classWhite, n
	}
	return classOther, n
}

// byteWord returns the length of the word that s, which is not empty, starts with: what GPT-2's pattern
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// matches there. It matches at every place, so words follow each other without gaps.
func byteWord(s string) int {
	if n := contraction(s); n > 0 {
		return n
	}
	class, n := classify(s)
	if class != classWhite {
		return classRun(s, n, class)
	}
	if s[0] == ' ' && len(s) > 1 {
		if class, m := classify(s[1:]); class != classWhite {
			return classRun(s, 1+m, class)
		}
	}
	// White space up to, but not including, its last character: that one belongs to the word behind it.
	end, last := n, 0
	for end < len(s) {
		class, n := classify(s[end:])
		if class != classWhite {
			if last > 0 {
				return last
			}
			return end
		}
		last = end
		end += n
	}
	return end
}

// classRun returns the end of the characters of one class, of which the ones before at are known.
func classRun(s string, at int, class charClass) int {
	for at < len(s) {
		c, n := classify(s[at:])
		if c != class {
			break
		}
		at += n
	}
	return at
}

func contraction(s string) int {
	if s[0] != '\'' {
		return 0
	}
	for _, c := range [...]string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
		if strings.HasPrefix(s, c) {
			return len(c)
		}
	}
	return 0
}

// byteChars returns the character that stands for each byte in a byte-level vocabulary: printable Latin-1
// for itself, the others, in their order, from U+0100 on.
func byteChars() (chars [256]rune) {
	next := rune(0x100)
	for b := range rune(256) {
		if '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || 0xae <= b {
			chars[b] = b
			continue
		}
		chars[b] = next
		next++
	}
	return chars
}
