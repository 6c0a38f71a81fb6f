package tokenizer

import (
	"cmp"
	"slices"
	"unicode/utf8"
)

//go:generate go run ./gen

// blockSize is the number of code points of one block of a property table; gen has the same.
const blockSize = 256

// Bits of bertProps: what BERT's normaliser and splitter ask of a character. gen has the same list.
const (
	bertDrop       uint8 = 1 << iota // removed by clean_text
	bertSpace                        // White_Space
	bertPunct                        // a word of its own
	bertNonspacing                   // removed by strip_accents
	bertCJK                          // a word of its own where handle_chinese_chars is on
	bertLower                        // has a lower case
	bertDecompose                    // NFD does something to it
	bertStarter                      // bertNonspacing with combining class 0: marks aren't sorted across it
)

// Bits of textProps above its grapheme class. gen has the same list.
const (
	textGrapheme uint8 = 0x0f
	textLinker   uint8 = 1 << (iota + 3) // Indic_Conjunct_Break=Linker
	textExtend                           // Indic_Conjunct_Break=Extend
	textLetter                           // \p{L}
	textNumber                           // \p{N}
)

// Grapheme classes, the low bits of textProps. gen has the same list.
const (
	gcAny uint8 = iota
	gcCR
	gcLF
	gcControl
	gcExtend
	gcZWJ
	gcRegional
	gcPrepend
	gcSpacingMark
	gcL
	gcV
	gcT
	gcLV
	gcLVT
	gcPictographic
	gcConsonant
)

func bertProps(r rune) uint8 {
	return bertBlocks[int(bertIndex[uint(r)/blockSize])*blockSize+int(uint(r)%blockSize)]
}

func textProps(r rune) uint8 {
	return textBlocks[int(textIndex[uint(r)/blockSize])*blockSize+int(uint(r)%blockSize)]
}

// isSpace is Rust's char::is_whitespace and the \s of both of Hugging Face's regular expression engines,
// which agree.
func isSpace(r rune) bool { return bertProps(r)&bertSpace != 0 }

// isWord is the \w of Rust's regex crate.
func isWord(r rune) bool { return inRanges(wordRanges[:], r) }

// isMark is what the normaliser StripAccents drops: \p{M} of Unicode 9.
func isMark(r rune) bool { return r >= 0x300 && inRanges(markRanges[:], r) }

// isNumeric is Rust's char::is_numeric.
func isNumeric(r rune) bool { return inRanges(numericRanges[:], r) }

// isPunctuation is what BERT's splitter and Punctuation isolate.
func isPunctuation(r rune) bool { return bertProps(r)&bertPunct != 0 }

func inRanges(ranges [][2]rune, r rune) bool {
	_, ok := slices.BinarySearchFunc(ranges, r, func(w [2]rune, r rune) int { return compareRange(w[0], w[1], r) })
	return ok
}

func compareRange(lo, hi, r rune) int {
	switch {
	case hi < r:
		return -1
	case lo > r:
		return 1
	}
	return 0
}

// A lowerRange maps the code points with bertLower from lo to hi to those delta further.
type lowerRange struct{ lo, hi, delta rune }

// dottedI is the only character whose lower case is two: an i and a combining dot.
const dottedI = 0x130

// appendLower appends the lower case of r.
func appendLower(dst []byte, r rune) []byte {
	if bertProps(r)&bertLower == 0 {
		return utf8.AppendRune(dst, r)
	}
	if r == dottedI {
		return append(dst, "i\u0307"...)
	}
	i, _ := slices.BinarySearchFunc(lowerRanges[:], r, func(l lowerRange, r rune) int {
		return compareRange(l.lo, l.hi, r)
	})
	return utf8.AppendRune(dst, r+lowerRanges[i].delta) // found: bertLower says so
}

// A decomposition says which bytes of decompositionText r falls apart into.
type decomposition struct {
	r    rune
	at   uint16
	size uint8
}

// Hangul syllables are decomposed by arithmetic (The Unicode Standard, 3.12).
const (
	hangulBase   = 0xac00
	hangulLast   = 0xd7a3
	hangulL      = 0x1100
	hangulV      = 0x1161
	hangulT      = 0x11a7
	hangulVCount = 21
	hangulTCount = 28
)

// decompose returns the canonical decomposition of r, which is not Hangul, and "" if r has none.
func decompose(r rune) string {
	i, ok := searchDecomposition(decompositions[:], r)
	if !ok {
		return ""
	}
	d := decompositions[i]
	return decompositionText[d.at : int(d.at)+int(d.size)]
}

func searchDecomposition(table []decomposition, r rune) (int, bool) {
	return slices.BinarySearchFunc(table, r, func(d decomposition, r rune) int { return cmp.Compare(d.r, r) })
}

// A combiningClass is the canonical combining class of a mark that outlives strip_accents.
type combiningClass struct {
	r     rune
	class uint8
}

// classOf returns the combining class of a mark that outlives strip_accents, and 0 for anything else.
func classOf(r rune) uint8 {
	i, ok := slices.BinarySearchFunc(combiningClasses[:], r, func(c combiningClass, r rune) int {
		return cmp.Compare(c.r, r)
	})
	if !ok {
		return 0
	}
	return combiningClasses[i].class
}
