package tokenizer

import "unicode/utf8"

// clusters finds the borders of extended grapheme clusters (UAX #29 of Unicode 17, the rules GB3 to GB13) in
// a text, one character after the other. The zero value stands before the first character.
type clusters struct {
	before   uint8 // textProps of the character before
	odd      bool  // GB12, GB13: an odd number of regional indicators lies before
	emoji    uint8 // GB11: 1 after a pictograph and extenders, 2 after these and a joiner
	conjunct uint8 // GB9c: 1 after a consonant, 2 if a linker has followed it
}

// borderless are the classes before which there is a border after any character but those of joining: text
// without marks, jamo and emoji needs no more than this test.
const borderless = 1<<gcAny | 1<<gcLV | 1<<gcLVT
const joining = 1<<gcL | 1<<gcPrepend

// simple reports whether a border surely lies between two characters of these properties, whatever precedes.
func simple(before, after uint8) bool {
	return 1<<(after&textGrapheme)&borderless != 0 && 1<<(before&textGrapheme)&joining == 0
}

// next takes the next character's properties and reports whether a border lies before it.
func (c *clusters) next(after uint8) bool {
	border := c.border(c.before&textGrapheme, after&textGrapheme)
	c.before = after
	g := after & textGrapheme
	c.odd = g == gcRegional && !c.odd
	switch {
	case g == gcPictographic:
		c.emoji = 1
	case g == gcZWJ && c.emoji == 1:
		c.emoji = 2
	case g != gcExtend || c.emoji != 1:
		c.emoji = 0
	}
	switch {
	case g == gcConsonant:
		c.conjunct = 1
	case c.conjunct > 0 && after&textLinker != 0:
		c.conjunct = 2
	case after&textExtend == 0:
		c.conjunct = 0
	}
	return border
}

func (c *clusters) border(before, after uint8) bool {
	switch {
	case before == gcCR && after == gcLF: // GB3
		return false
	case before == gcControl || before == gcCR || before == gcLF: // GB4
		return true
	case after == gcControl || after == gcCR || after == gcLF: // GB5
		return true
	case before == gcL && (after == gcL || after == gcV || after == gcLV || after == gcLVT): // GB6
		return false
	case (before == gcLV || before == gcV) && (after == gcV || after == gcT): // GB7
		return false
	case (before == gcLVT || before == gcT) && after == gcT: // GB8
		return false
	case after == gcExtend || after == gcZWJ || after == gcSpacingMark || before == gcPrepend: // GB9, a, b
		return false
	case after == gcConsonant: // GB9c
		return c.conjunct != 2
	case after == gcPictographic: // GB11
		return c.emoji != 2
	case before == gcRegional && after == gcRegional: // GB12, GB13
		return !c.odd
	}
	return true
}

// clusterSize returns the length in bytes of the cluster that s, which is not empty, starts with.
func clusterSize(s string) int {
	var c clusters
	for i, r := range s {
		if border := c.next(textProps(r)); border && i > 0 {
			return i
		}
	}
	return len(s)
}

// firstProps returns the properties of the first character of s, and its length; s may be empty.
func firstProps(s string) (props uint8, size int) {
	if s == "" {
		return 0, 0
	}
	r, n := utf8.DecodeRuneInString(s)
	return textProps(r), n
}
