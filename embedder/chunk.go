package embedder

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// blockRunes is the largest piece that a text without spaces is cut into. It is small against a window, so
// that little room is lost at its end.
const blockRunes = 64

// A chunker cuts documents into windows that fit a row.
//
// Windows begin and end where sentences do, or else between words, or else between runes. Neighbours overlap
// by whole sentences, or else by whole words. Every byte is counted at most once per level, so the cost is
// linear in the text, whatever it looks like.
type chunker struct {
	enc       encoder
	room      int // tokens of a window beside prompt and special ones
	overlap   int // tokens shared by neighbours at most
	maxChunks int
}

func newChunker(enc encoder, opts Options) *chunker {
	room := enc.max - enc.bare
	return &chunker{enc: enc, room: room, overlap: min(opts.Overlap, room/2), maxChunks: opts.MaxChunks}
}

// A piece is a stretch of text that is not cut further.
type piece struct {
	start, end int
	tokens     int // without special ones
}

// split returns the windows of a document: one if it fits, else as many as it takes, in order, the first
// beginning at 0, each beginning at or before the end of the one before, the last ending with the text.
// Errors: [ErrEmpty], [ErrTooLong].
func (c *chunker) split(text string) ([]window, error) {
	w, err := c.enc.whole(text)
	if err != nil || !w.truncated {
		return []window{w}, err
	}
	return c.pack(text, c.pieces(text))
}

// tokens counts text alone, without special tokens; fits is false if it is longer than a window.
func (c *chunker) tokens(text string) (n int, fits bool) {
	ids, truncated := c.enc.tokens(text)
	n = len(ids) - c.enc.special
	return n, !truncated && n <= c.room
}

// pieces cuts text into sentences, those too long for a window into words, and those into blocks of runes.
// The pieces follow each other without a gap; white space belongs to the piece before it.
func (c *chunker) pieces(text string) []piece {
	var pieces []piece
	each := func(start int, s string, next func(string) int, tooLong func(start int, s string)) {
		for len(s) > 0 {
			n := next(s)
			if tokens, fits := c.tokens(s[:n]); fits || tooLong == nil {
				pieces = append(pieces, piece{start, start + n, tokens})
			} else {
				tooLong(start, s[:n])
			}
			start, s = start+n, s[n:]
		}
	}
	block := func(start int, s string) { each(start, s, c.blockEnd, nil) }
	words := func(start int, s string) { each(start, s, wordEnd, block) }
	each(0, text, sentenceEnd, words)
	return joinEmpty(pieces)
}

// joinEmpty adds pieces without a token to the one before, leading ones to the one behind, so that there
// is something to embed in every window.
func joinEmpty(pieces []piece) []piece {
	joined := pieces[:0]
	for _, p := range pieces {
		if last := len(joined) - 1; last >= 0 && (p.tokens == 0 || joined[last].tokens == 0) {
			joined[last].end, joined[last].tokens = p.end, joined[last].tokens+p.tokens
		} else {
			joined = append(joined, p)
		}
	}
	return joined
}

// wordEnd returns where the first word of s ends, the white space behind it included.
func wordEnd(s string) int {
	inSpace := false
	for i, r := range s {
		space := unicode.IsSpace(r)
		if inSpace && !space {
			return i
		}
		inSpace = space
	}
	return len(s)
}

// blockEnd returns where the first block of s ends: after some runes, not before a combining mark as long
// as there are not absurdly many. The block fits a window even if each of its bytes becomes a token, as
// far as a whole rune can.
func (c *chunker) blockEnd(s string) int {
	runes := 0
	limit := min(blockRunes, max(1, c.room/utf8.UTFMax))
	for i, r := range s {
		if runes >= limit && (!unicode.Is(unicode.M, r) || runes >= 2*blockRunes) {
			return i
		}
		runes++
	}
	return len(s)
}

// pack puts as many pieces into each window as fit.
func (c *chunker) pack(text string, pieces []piece) ([]window, error) {
	p := packer{chunker: c, text: text, pieces: pieces, density: 1}
	var windows []window
	for before, first := 0, 0; first < len(pieces); {
		if len(windows) == c.maxChunks {
			return nil, fmt.Errorf("%w: more than %d chunks of %d tokens, cut at byte %d of %d", ErrTooLong, c.maxChunks, c.enc.max, pieces[first].start, len(text))
		}
		start, shared := pieces[first].start, 0
		if len(windows) > 0 {
			start, shared = p.overlapBefore(before, first)
		}
		w, next := p.window(start, first, c.room-shared)
		windows = append(windows, w)
		before, first = first, next
	}
	return windows, nil
}

// A packer makes the windows of one text.
type packer struct {
	*chunker
	text   string
	pieces []piece
	// density is how many tokens a window has for each token of its pieces. It is 1 for most tokenizers,
	// which look at one word at a time; others make more of a whole than of its parts.
	density float64
}

// window makes the row of the text from start on, through as many pieces from first on as fit room tokens,
// and returns the piece after them. A window that turns out too dense is made smaller.
func (p *packer) window(start, first, room int) (window, int) {
	next, sum := first, 0
	for next < len(p.pieces) && (next == first || float64(sum+p.pieces[next].tokens)*p.density <= float64(room)) {
		sum += p.pieces[next].tokens
		next++
	}
	for {
		w := window{start: start, end: p.pieces[next-1].end, prompt: p.enc.left}
		text := p.enc.prompt + p.text[w.start:w.end]
		w.ids, w.truncated = p.enc.tokens(text)
		switch {
		case !w.truncated, next == first+1 && start == p.pieces[first].start:
			return w, next
		case next == first+1:
			start = p.pieces[first].start // better no overlap than a cut
		default:
			next = p.shrink(text, first, next)
		}
	}
}

// shrink returns how far a window of the pieces from first to next, which has too many tokens, should go:
// in proportion to the excess, and by an eighth at least, so that few tries are needed.
func (p *packer) shrink(text string, first, next int) int {
	excess := float64(p.enc.countAll(text)-p.enc.bare) / float64(p.room)
	p.density *= excess
	n := next - first
	return first + max(1, min(n-(n+7)/8, int(float64(n)/excess)))
}

// overlapBefore returns where a window whose first own piece is pieces[first] begins, and the tokens it
// shares with the one before, whose first own piece is pieces[before]: whole pieces if any fits, but not all
// of that window, else the last words of the last piece.
func (p *packer) overlapBefore(before, first int) (start, shared int) {
	limit := min(p.overlap, p.room-p.pieces[first].tokens)
	i := first
	for i-1 > before && shared+p.pieces[i-1].tokens <= limit {
		i--
		shared += p.pieces[i].tokens
	}
	if i < first || limit <= 0 {
		return p.pieces[i].start, shared
	}
	lowest := p.pieces[first-1].start
	start, shared = p.lastWords(p.text[:p.pieces[first].start], lowest, limit)
	if start == lowest { // all of the window before
		return p.pieces[first].start, 0
	}
	return start, shared
}

// lastWords returns where the last words of text of at most limit tokens begin, not before lowest, and
// their tokens.
func (c *chunker) lastWords(text string, lowest, limit int) (start, shared int) {
	start = len(text)
	for start > lowest {
		word := lastWord(text, lowest, start)
		n, fits := c.tokens(text[word:start])
		if !fits || shared+n > limit {
			break
		}
		start, shared = word, shared+n
	}
	return start, shared
}

// lastWord returns where the last word of s[lowest:end] begins, which may have white space behind it.
func lastWord(s string, lowest, end int) int {
	word := strings.TrimRightFunc(s[lowest:end], unicode.IsSpace)
	space := strings.LastIndexFunc(word, unicode.IsSpace)
	if space < 0 {
		return lowest
	}
	_, n := utf8.DecodeRuneInString(word[space:])
	return lowest + space + n
}
