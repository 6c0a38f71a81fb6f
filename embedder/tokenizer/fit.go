package tokenizer

import "unicode/utf8"

// Fit returns how many leading bytes of text fit into max ids, special tokens included: Encode(text[:n],
// max) isn't truncated. The cut lies behind white space where there is some, else between two characters,
// and is as far to the right as a search by halves finds it. The result is 0 only if text is empty or max
// has no room for its first character, and len(text) with max <= 0.
//
// The cost is that of encoding a few times max ids, however long the text; so a document is cut into windows
// in linear time by calling Fit on what is left.
func (t *Tokenizer) Fit(text string, max int) int {
	if max <= 0 {
		return len(text)
	}
	fits := func(n int) bool { return t.Count(text[:n], max) <= max }
	// Double the window until it no longer fits. high doesn't fit, low does.
	low, high := 0, minOf(len(text), 4*max)
	for {
		high = runeStart(text, high)
		if !fits(high) {
			break
		}
		if low = high; low == len(text) {
			return low
		}
		high = minOf(len(text), 2*high+utf8.UTFMax)
	}
	low, high = bisect(low, high, fits, func(n int) int { return afterSpace(text, n) })
	if low > 0 {
		return low
	}
	low, _ = bisect(0, high, fits, func(n int) int { return runeStart(text, n) })
	return low
}

// minOf is the built-in min, under a name that goes with max as a parameter.
func minOf(a, b int) int { return min(a, b) }

// bisect narrows low, which fits, and high, which doesn't, to neighbouring candidates. snap moves an offset
// left to the nearest candidate.
func bisect(low, high int, fits func(int) bool, snap func(int) int) (fit, over int) {
	for from := low; high-from > 1; {
		middle := from + (high-from)/2
		n := snap(middle)
		switch {
		case n <= low:
			from = middle // no candidate between low and the middle
		case fits(n):
			low, from = n, max(n, middle)
		default:
			high = n
		}
	}
	return low, high
}

// afterSpace returns the largest offset up to n that lies behind white space, or 0.
func afterSpace(text string, n int) int {
	for n = runeStart(text, n); n > 0; {
		r, size := utf8.DecodeLastRuneInString(text[:n])
		if isSpace(r) {
			return n
		}
		n -= size
	}
	return 0
}

// runeStart returns the largest offset up to n at which a character starts or the text ends; n itself where
// bytes that are not UTF-8 leave no such place nearby.
func runeStart(text string, n int) int {
	for back := range min(n+1, utf8.UTFMax) {
		if at := n - back; at == len(text) || utf8.RuneStart(text[at]) {
			return at
		}
	}
	return n
}
