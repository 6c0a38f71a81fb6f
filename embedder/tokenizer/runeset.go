package tokenizer

import (
	"cmp"
	"fmt"
	"slices"
	"unicode/utf8"
)

// A runeSet is a set of characters: ranges in ascending order that neither touch nor overlap.
type runeSet [][2]rune

// A namedRange is a part of what \p{name} stands for in a regular expression.
type namedRange struct {
	lo, hi rune
	name   string
}

// newRuneSet puts ranges in order and joins those that touch.
func newRuneSet(ranges [][2]rune) runeSet {
	slices.SortFunc(ranges, func(a, b [2]rune) int { return cmp.Compare(a[0], b[0]) })
	var s runeSet
	for _, r := range ranges {
		if n := len(s) - 1; n >= 0 && r[0] <= s[n][1]+1 {
			s[n][1] = max(s[n][1], r[1])
			continue
		}
		s = append(s, r)
	}
	return s
}

func runesOf(chars ...rune) runeSet {
	ranges := make([][2]rune, len(chars))
	for i, c := range chars {
		ranges[i] = [2]rune{c, c}
	}
	return newRuneSet(ranges)
}

func (s runeSet) union(t runeSet) runeSet { return newRuneSet(slices.Concat(s, t)) }

func (s runeSet) complement() runeSet {
	var out runeSet
	next := rune(0)
	for _, r := range s {
		if r[0] > next {
			out = append(out, [2]rune{next, r[0] - 1})
		}
		next = r[1] + 1
	}
	if next <= utf8.MaxRune {
		out = append(out, [2]rune{next, utf8.MaxRune})
	}
	return out
}

func (s runeSet) has(c rune) bool {
	_, ok := slices.BinarySearchFunc(s, c, func(r [2]rune, c rune) int { return compareRange(r[0], r[1], c) })
	return ok
}

// meets reports whether the two sets have a character in common.
func (s runeSet) meets(t runeSet) bool {
	return slices.ContainsFunc(s, func(r [2]rune) bool {
		return slices.ContainsFunc(t, func(q [2]rune) bool { return r[0] <= q[1] && q[0] <= r[1] })
	})
}

// foldASCII adds, for each ASCII letter of the set, what Oniguruma takes for the same letter when case doesn't
// count. Beyond the other case those are two: the long s and the sign of kelvin. ok is false if the set has
// other letters, whose folding isn't implemented.
func (s runeSet) foldASCII() (folded runeSet, ok bool) {
	folded = slices.Clone(s)
	for _, r := range s {
		if r[1] >= utf8.RuneSelf {
			return nil, false
		}
		for c := r[0]; c <= r[1]; c++ {
			switch lower := c | 0x20; {
			case lower < 'a' || lower > 'z':
			case lower == 's':
				folded = append(folded, runesOf('s', 'S', 'ſ')...)
			case lower == 'k':
				folded = append(folded, runesOf('k', 'K', '\u212a')...)
			default:
				folded = append(folded, runesOf(lower, lower&^0x20)...)
			}
		}
	}
	return newRuneSet(folded), true
}

// namedSet returns what \p{name} matches: a general category, a group of them (L, N ...) or a script.
func namedSet(name string) (runeSet, error) {
	var ranges [][2]rune
	for _, r := range namedRanges {
		if r.name == name || len(name) == 1 && len(r.name) == 2 && r.name[:1] == name {
			ranges = append(ranges, [2]rune{r.lo, r.hi})
		}
	}
	// Unassigned characters are no named ranges, and they are in C.
	if len(ranges) == 0 || name == "C" || name == "word" {
		return nil, fmt.Errorf("the property %q is not supported", name)
	}
	return newRuneSet(ranges), nil
}

func spaceSet() runeSet {
	var ranges [][2]rune
	for c := range rune(0x3001) { // U+3000 is the last one
		if isSpace(c) {
			ranges = append(ranges, [2]rune{c, c})
		}
	}
	return newRuneSet(ranges)
}

func wordSet() runeSet {
	var ranges [][2]rune
	for _, r := range namedRanges {
		if r.name == "word" {
			ranges = append(ranges, [2]rune{r.lo, r.hi})
		}
	}
	return newRuneSet(ranges)
}
