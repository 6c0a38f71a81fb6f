package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A splitter is one step of a pre-tokeniser: it cuts a piece into pieces and hands each on with p.piece.
type splitter interface {
	// split cuts c, the piece that reached the given level. Pieces of an open one that what comes may change
	// are handed on as open ones.
	split(p *composed, r *run, level int, c chunk)
	// sure reports whether what it does to an open piece's beginning doesn't depend on what follows.
	sure() bool
}

// A behavior says what becomes of the matches of a pattern. The names are those of tokenizer.json.
type behavior uint8

const (
	removed    behavior = iota
	isolated            // pieces of their own
	contiguous          // neighbouring ones are one piece
	mergedWithPrevious
	mergedWithNext
)

var behaviors = map[string]behavior{"Removed": removed, "Isolated": isolated, "Contiguous": contiguous,
	"MergedWithPrevious": mergedWithPrevious, "MergedWithNext": mergedWithNext}

// cutter splits at what a pattern finds.
type cutter struct {
	pattern  pattern
	behavior behavior
	invert   bool // what lies between matches counts as matches, and the other way round
}

// A stretch is a match or what lies between two.
type stretch struct {
	start, end int
	match      bool
	open       bool // it might end elsewhere if the text went on
}

// stretches walks over a text, match by match.
type stretches struct {
	cutter  *cutter
	text    string
	done    int
	match   stretch // found, but not handed out yet
	pending bool
}

func (w *stretches) next(r *run) (s stretch, ok bool) {
	if w.done == len(w.text) {
		return s, false
	}
	if !w.pending {
		start, end, open := w.cutter.pattern.find(r, w.text, w.done)
		if start < 0 {
			start, end, open = len(w.text), len(w.text), true
		}
		w.match, w.pending = stretch{start, end, true, open || end == len(w.text)}, true
	}
	if w.done < w.match.start {
		s = stretch{w.done, w.match.start, false, w.match.open}
	} else {
		s, w.pending = w.match, false
	}
	s.match = s.match != w.cutter.invert
	w.done = s.end
	return s, true
}

func (c *cutter) split(p *composed, r *run, level int, s chunk) {
	w := stretches{cutter: c, text: s.text}
	var held stretch // a piece that the next stretch may belong to
	have, before := false, false
	for {
		next, ok := w.next(r)
		if !ok {
			break
		}
		if have && c.joins(before, next.match) {
			held.end, held.open = next.end, next.open
			// A stretch that took the one before it can't be taken itself.
			before = next.match
			continue
		}
		if have && !p.piece(r, level, s, held) {
			return
		}
		held, have, before = next, true, next.match
		if c.behavior == removed && next.match {
			have = false
		}
	}
	if !have {
		r.short = r.short || s.open
		return
	}
	held.open = true
	p.piece(r, level, s, held)
}

// sure reports whether a piece that reaches the end of a text which goes on begins where it does whatever
// comes: a pattern of one character decides by that character alone.
func (c *cutter) sure() bool {
	switch p := c.pattern.(type) {
	case charPattern:
		return true
	case literal:
		return utf8.RuneCountInString(string(p)) == 1
	}
	return false
}

// joins reports whether a stretch belongs to the piece of the one before it.
func (c *cutter) joins(before, now bool) bool {
	switch c.behavior {
	case contiguous:
		return before == now
	case mergedWithPrevious:
		return now && !before
	case mergedWithNext:
		return before && !now
	}
	return false
}

// A charPattern finds single characters.
type charPattern func(r rune) bool

func (f charPattern) find(_ *run, s string, at int) (start, end int, open bool) {
	i := strings.IndexFunc(s[at:], f)
	if i < 0 {
		return -1, -1, true
	}
	_, n := utf8.DecodeRuneInString(s[at+i:])
	return at + i, at + i + n, false
}

func (f charPattern) meets(runeSet) bool { return true }

// wordPattern finds runs of word characters, and runs of what is neither that nor white space.
type wordPattern struct{}

func (wordPattern) find(_ *run, s string, at int) (start, end int, open bool) {
	start = strings.IndexFunc(s[at:], func(c rune) bool { return !isSpace(c) })
	if start < 0 {
		return -1, -1, true
	}
	start += at
	c, _ := utf8.DecodeRuneInString(s[start:])
	word := isWord(c)
	end = strings.IndexFunc(s[start:], func(c rune) bool { return isWord(c) != word || !word && isSpace(c) })
	if end < 0 {
		return start, len(s), true
	}
	return start, start + end, false
}

func (wordPattern) meets(runeSet) bool { return true }

// gptPattern finds the words of GPT-2, which follow each other without gaps.
type gptPattern struct{}

func (gptPattern) find(_ *run, s string, at int) (start, end int, open bool) {
	end = at + byteWord(s[at:])
	// One more character may decide over white space, two over a contraction.
	return at, end, end+2*utf8.UTFMax > len(s)
}

func (gptPattern) meets(runeSet) bool { return true }

// marker is Metaspace: spaces become a mark, which words begin with.
type marker struct {
	mark     string
	first    bool // only what begins where the text does gets a mark put before it
	never    bool
	splitter *cutter // nil: no splitting
}

func (m *marker) split(p *composed, r *run, level int, c chunk) {
	w, s := r.marked[:0], c.text
	if !strings.HasPrefix(s, " ") && !strings.HasPrefix(s, m.mark) && !m.never && (!m.first || p.atStart(r, s)) {
		w = append(w, m.mark...)
	}
	for s != "" {
		i := strings.IndexByte(s, ' ')
		if i < 0 {
			w = append(w, s...)
			break
		}
		w = append(append(w, s[:i]...), m.mark...)
		s = s[i+1:]
	}
	r.marked = w
	marked := view(w)
	if m.splitter == nil {
		p.piece(r, level, chunk{marked, c.open}, stretch{0, len(marked), false, true})
		return
	}
	m.splitter.split(p, r, level, chunk{marked, c.open})
}

func (m *marker) sure() bool { return true }

// spacer is ByteLevel's add_prefix_space.
type spacer struct{}

func (spacer) split(p *composed, r *run, level int, c chunk) {
	if c.text[0] != ' ' {
		r.marked = append(append(r.marked[:0], ' '), c.text...)
		c.text = view(r.marked)
	}
	p.piece(r, level, c, stretch{0, len(c.text), false, true})
}

func (spacer) sure() bool { return true }

// parseSplitters reads a component of a pre-tokeniser. bytes is true behind ByteLevel, whose pieces are bytes
// that nothing else can cut.
func parseSplitters(kind string, o *object) (list []splitter, bytes bool) {
	cut := func(p pattern, b behavior, invert bool) []splitter { return []splitter{&cutter{p, b, invert}} }
	switch kind {
	case "BertPreTokenizer":
		return append(cut(charPattern(isSpace), removed, false), cut(charPattern(isPunctuation), isolated, false)...), false
	case "WhitespaceSplit":
		return cut(charPattern(isSpace), removed, false), false
	case "Whitespace":
		return cut(wordPattern{}, removed, true), false
	case "Punctuation":
		return cut(charPattern(isPunctuation), parseBehavior(o, "Isolated"), false), false
	case "Digits":
		if o.flag("individual_digits", false) {
			return cut(charPattern(isNumeric), isolated, false), false
		}
		return cut(charPattern(isNumeric), contiguous, false), false
	case "CharDelimiterSplit":
		return cut(literal(oneRune(o, "delimiter")), removed, false), false
	case "Split":
		p := parsePattern(o)
		b := parseBehavior(o, "")
		return cut(p, b, o.flag("invert", false)), false
	case "Metaspace":
		return []splitter{parseMarker(o)}, false
	case "ByteLevel":
		o.ignore("trim_offsets") // offsets are not computed
		if o.flag("add_prefix_space", true) {
			list = append(list, spacer{})
		}
		if o.flag("use_regex", true) {
			list = append(list, cut(gptPattern{}, isolated, false)...)
		}
		return list, true
	}
	o.refuse(" is not supported")
	return nil, false
}

func parseBehavior(o *object, otherwise string) behavior {
	name := o.text("behavior")
	if name == "" {
		name = otherwise
	}
	b, ok := behaviors[name]
	if !ok {
		o.refuse(": \"behavior\" of %q is not supported", name)
	}
	return b
}

// oneRune reads a field that is one character.
func oneRune(o *object, name string) string {
	s := o.text(name)
	if utf8.RuneCountInString(s) != 1 {
		o.refuse(": %q of %q is not one character", name, s)
		return " "
	}
	return s
}

func parseMarker(o *object) *marker {
	m := &marker{mark: oneRune(o, "replacement")}
	var prefix *bool
	o.into("add_prefix_space", &prefix) // the older name of "always" and "never"
	scheme := o.text("prepend_scheme")
	switch scheme {
	case "", "always":
	case "first":
		m.first = true
	case "never":
		m.never = true
	default:
		o.refuse(": \"prepend_scheme\" of %q is not supported", scheme)
	}
	if prefix != nil && !*prefix && !m.never { // Hugging Face refuses it too
		o.refuse(": \"add_prefix_space\" of false contradicts \"prepend_scheme\" of %q", scheme)
	}
	if o.flag("split", true) {
		m.splitter = &cutter{pattern: literal(m.mark), behavior: mergedWithNext}
	}
	o.ignore("str_rep") // the replacement once more
	if m.mark == " " {
		o.refuse(": a space as \"replacement\" is not supported")
	}
	return m
}
