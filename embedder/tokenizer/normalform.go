package tokenizer

import (
	"cmp"
	"slices"
	"unicode/utf8"
)

// A normalForm is one of Unicode's: canonical or compatible, decomposed or composed again. Its tables are
// those of the crate that Hugging Face's tokenizers uses, of Unicode 9.
type normalForm struct{ compatible, composed bool }

// normalForms are their names in tokenizer.json.
var normalForms = map[string]normalForm{
	"NFC": {composed: true}, "NFD": {}, "NFKC": {compatible: true, composed: true}, "NFKD": {compatible: true},
}

// A composition says that two characters, one behind the other, become one.
type composition struct{ first, second, to rune }

// An orderRange gives the marks from lo to hi their combining class, which is not 0.
type orderRange struct {
	lo, hi rune
	class  uint8
}

// stable reports whether c stays what it is in every text: nothing decomposes it, and no character before it
// composes with it. What is behind it may. Most characters of everyday texts are found out here.
func (f normalForm) stable(c rune) bool {
	switch {
	case c < 0xa0, 0x4e00 <= c && c <= 0x9fff, 0x3001 <= c && c <= 0x3029:
		return true
	case c < 0x300:
		return f.composed && !f.compatible
	case hangulBase <= c && c <= hangulLast, 0x3041 <= c && c <= 0x3096, 0x30a1 <= c && c <= 0x30fa: // kana with their marks
		return f.composed
	}
	return false
}

func (f normalForm) apply(r *run, dst []byte, s string) []byte {
	clean := 0 // s[clean:i] is to be copied
	last := 0  // where the character before i starts
	for i := 0; i < len(s); {
		c, n := rune(s[i]), 1
		if c >= utf8.RuneSelf {
			c, n = utf8.DecodeRuneInString(s[i:])
		}
		if f.stable(c) {
			last = i
			i += n
			continue
		}
		// The character before may compose with this one; the next stable one begins anew.
		end := i + n
		for end < len(s) {
			c, n := utf8.DecodeRuneInString(s[end:])
			if f.stable(c) {
				break
			}
			end += n
		}
		dst = append(dst, s[clean:max(last, clean)]...)
		dst = f.segment(r, dst, s[max(last, clean):end])
		clean, last, i = end, end, end
	}
	return append(dst, s[clean:]...)
}

// segment appends the normal form of s, which nothing around it can change.
func (f normalForm) segment(r *run, dst []byte, s string) []byte {
	runes := r.runes[:0]
	for _, c := range s {
		runes = f.decompose(runes, c)
	}
	sortMarks(runes)
	if f.composed {
		runes = compose(runes)
	}
	for _, c := range runes {
		dst = utf8.AppendRune(dst, c)
	}
	r.runes = runes
	return dst
}

// decompose appends what c falls apart into.
func (f normalForm) decompose(dst []rune, c rune) []rune {
	if c >= hangulBase && c <= hangulLast {
		index := c - hangulBase
		dst = append(dst, hangulL+index/(hangulVCount*hangulTCount), hangulV+index/hangulTCount%hangulVCount)
		if t := index % hangulTCount; t != 0 {
			dst = append(dst, hangulT+t)
		}
		return dst
	}
	if f.compatible {
		if i, ok := searchDecomposition(compatibilities[:], c); ok {
			d := compatibilities[i]
			for _, q := range compatibilityText[d.at : int(d.at)+int(d.size)] {
				dst = append(dst, q)
			}
			return dst
		}
	}
	d := decompose(c)
	if d == "" {
		return append(dst, c)
	}
	for _, q := range d {
		dst = append(dst, q)
	}
	return dst
}

// orderOf returns the combining class of any character.
func orderOf(c rune) uint8 {
	if c < orderRanges[0].lo {
		return 0
	}
	i, ok := slices.BinarySearchFunc(orderRanges[:], c, func(o orderRange, c rune) int { return compareRange(o.lo, o.hi, c) })
	if !ok {
		return 0
	}
	return orderRanges[i].class
}

// sortMarks puts marks that follow each other in the order of their classes, equal ones as they came.
func sortMarks(runes []rune) {
	for i := 0; i < len(runes); {
		if orderOf(runes[i]) == 0 {
			i++
			continue
		}
		end := i + 1
		for end < len(runes) && orderOf(runes[end]) != 0 {
			end++
		}
		if end > i+1 {
			slices.SortStableFunc(runes[i:end], func(a, b rune) int { return cmp.Compare(orderOf(a), orderOf(b)) })
		}
		i = end
	}
}

// compose joins characters in place (The Unicode Standard, 3.11, D117).
func compose(runes []rune) []rune {
	out := runes[:0]
	starter := -1 // of out: what the following characters may compose with
	last := uint8(0)
	for _, c := range runes {
		class := orderOf(c)
		// Nothing of the same or a higher class, and no other starter, may lie between.
		blocked := starter >= 0 && starter < len(out)-1 && (last == 0 || last >= class)
		if starter >= 0 && !blocked {
			if to, ok := pairUp(out[starter], c); ok {
				out[starter] = to
				continue
			}
		}
		if class == 0 {
			starter = len(out)
		}
		last = class
		out = append(out, c)
	}
	return out
}

// pairUp returns what two characters compose to.
func pairUp(a, b rune) (rune, bool) {
	switch {
	case a >= hangulL && a < hangulL+19 && b >= hangulV && b < hangulV+hangulVCount:
		return hangulBase + ((a-hangulL)*hangulVCount+b-hangulV)*hangulTCount, true
	case a >= hangulBase && a <= hangulLast && (a-hangulBase)%hangulTCount == 0 && b > hangulT && b < hangulT+hangulTCount:
		return a + b - hangulT, true
	}
	i, ok := slices.BinarySearchFunc(compositions[:], composition{first: a, second: b}, func(c, want composition) int {
		return cmp.Or(cmp.Compare(c.first, want.first), cmp.Compare(c.second, want.second))
	})
	if !ok {
		return 0, false
	}
	return compositions[i].to, true
}
