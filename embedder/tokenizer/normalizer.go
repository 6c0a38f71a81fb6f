package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// A normalizer is one step of a normaliser: it appends what it makes of s, a whole section or a block of one,
// to dst. Where it drops the beginning it sets r.first to false: Metaspace's scheme "first" asks whether a
// piece still begins where the text did.
type normalizer interface {
	apply(r *run, dst []byte, s string) []byte
}

// normalizerKinds read the normalisers of tokenizer.json by their type.
var normalizerKinds = map[string]func(o *object) normalizer{
	"Lowercase":      func(*object) normalizer { return lowercase{} },
	"StripAccents":   func(*object) normalizer { return stripAccents{} },
	"Strip":          func(o *object) normalizer { return strip{o.flag("strip_left", true), o.flag("strip_right", true)} },
	"Prepend":        func(o *object) normalizer { return prepend(o.text("prepend")) },
	"Nmt":            func(*object) normalizer { return nmt{} },
	"Replace":        parseReplace,
	"Precompiled":    parsePrecompiled,
	"BertNormalizer": parseBertNormalizer,
}

func parseNormalizer(kind string, o *object) normalizer {
	if f, ok := normalForms[kind]; ok {
		return f
	}
	parse, ok := normalizerKinds[kind]
	if !ok {
		o.refuse(" is not supported")
		return nil
	}
	return parse(o)
}

// lowercase lowers character by character: a final sigma becomes a common one.
type lowercase struct{}

func (lowercase) apply(_ *run, dst []byte, s string) []byte {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		c, n := utf8.DecodeRuneInString(s[i:])
		dst = appendLower(dst, c)
		i += n
	}
	return dst
}

type stripAccents struct{}

func (stripAccents) apply(r *run, dst []byte, s string) []byte {
	for i, c := range s {
		if !isMark(c) {
			dst = utf8.AppendRune(dst, c)
		} else if i == 0 {
			r.first = false
		}
	}
	return dst
}

type strip struct{ left, right bool }

func (n strip) apply(r *run, dst []byte, s string) []byte {
	if n.left {
		t := strings.TrimLeftFunc(s, isSpace)
		r.first = r.first && len(t) == len(s)
		s = t
	}
	if n.right {
		s = strings.TrimRightFunc(s, isSpace)
	}
	return append(dst, s...)
}

// prepend puts something before a section.
type prepend string

func (n prepend) apply(_ *run, dst []byte, s string) []byte {
	if s != "" {
		dst = append(dst, n...)
	}
	return append(dst, s...)
}

// nmt is SentencePiece's cleaning of a text for translation, without its table.
type nmt struct{}

func (nmt) apply(r *run, dst []byte, s string) []byte {
	for i, c := range s {
		switch {
		case c >= 1 && c <= 8, c == 0xb, c >= 0xe && c <= 0x1f, c == 0x7f, c == 0x8f, c == 0x9f:
			r.first = r.first && i > 0
		case c == 9, c == 0xa, c == 0xc, c == 0xd, c == 0x1680, c >= 0x200b && c <= 0x200f, c == 0x2028, c == 0x2029,
			c == metaspace, c == 0xfeff, c == 0xfffd:
			dst = append(dst, ' ')
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return dst
}

// replace replaces what a pattern finds.
type replace struct {
	pattern pattern
	content string
}

// collapses reports whether what is replaced is several spaces by one, or by what stands for one.
func (n *replace) collapses() bool {
	re, ok := n.pattern.(*regex)
	return ok && re.source == " {2,}" && (n.content == " " || n.content == string(metaspace))
}

func (n *replace) apply(r *run, dst []byte, s string) []byte {
	done := 0
	for {
		start, end, _ := n.pattern.find(r, s, done)
		if start < 0 {
			return append(dst, s[done:]...)
		}
		// What replaces several characters counts as where the last of them was.
		if _, size := utf8.DecodeRuneInString(s); start == 0 && (n.content == "" || end > size) {
			r.first = false
		}
		dst = append(append(dst, s[done:start]...), n.content...)
		done = end
	}
}

func parseReplace(o *object) normalizer {
	n := &replace{pattern: parsePattern(o)}
	o.require("content", &n.content)
	return n
}

func (m *charsmap) apply(r *run, dst []byte, s string) []byte {
	out, _ := m.normalize(dst, s, len(s))
	if s != "" && r.first {
		// Only a table that maps a text's first characters to nothing moves its beginning.
		size := clusterSize(s)
		head := m.cluster(r.late[:0], s[:size])
		r.first = len(head) > 0
		r.late = head
	}
	return out
}

func parsePrecompiled(o *object) normalizer {
	var encoded string
	o.require("precompiled_charsmap", &encoded)
	if o.err != nil {
		return nil
	}
	m, err := newCharsmap(encoded)
	if err != nil {
		o.refuse(": %v", err)
		return nil
	}
	return m
}

func parseBertNormalizer(o *object) normalizer {
	b := bertOptions{clean: o.flag("clean_text", true), cjk: o.flag("handle_chinese_chars", true), lower: o.flag("lowercase", true)}
	b.strip = o.flag("strip_accents", b.lower) // null, the usual value, follows lowercase
	return newBERT(b, wordPiece{maxChars: maxSorted})
}

// maxSorted is how many characters of a word BERT's normaliser puts marks in order among, where nothing makes
// longer words unknown.
const maxSorted = 1 << 12

// apply makes a bert the normaliser that it has in it.
func (b *bert) apply(r *run, dst []byte, s string) []byte {
	if c, _ := utf8.DecodeRuneInString(s); b.classes[bertProps(c)] == classDrop {
		r.first = false
	}
	return b.appendNormalized(r, dst, s)
}

// A chain is the normalisers of a file in their order.
type chain struct {
	steps []normalizer
	// blockwise says that a section may be normalised in blocks that are cut between two inert characters.
	blockwise bool
}

// run returns the normalised form of s, in a buffer of r that the next call uses again.
func (c *chain) run(r *run, s string) string {
	for i, step := range c.steps {
		buf := &r.chain[i%2]
		*buf = step.apply(r, (*buf)[:0], s)
		s = view(*buf)
	}
	return s
}

// inert reports whether c, beside another inert character, is a place where any text can be cut for
// normalising: no normal form, grapheme cluster or pattern reaches across (newChain sees to the patterns).
func inert(c rune) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' ||
		0x4e00 <= c && c <= 0x9fff || hangulBase <= c && c <= hangulLast
}

// inertForms are the characters that inert ones may become before a pattern sees them.
var inertForms = newRuneSet([][2]rune{{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {0x1100, 0x11ff}, {0x4e00, 0x9fff}, {hangulBase, hangulLast}})

func newChain(steps []normalizer) chain {
	c := chain{steps: steps, blockwise: true}
	for _, step := range steps {
		switch n := step.(type) {
		case *replace:
			c.blockwise = c.blockwise && !n.pattern.meets(inertForms)
		case *bert: // puts spaces around Chinese characters, which a pattern may collapse
			c.blockwise = c.blockwise && len(steps) == 1
		}
	}
	return c
}

// block returns how many bytes of s, size or more, may be normalised without the rest.
func (c *chain) block(s string, size int) int {
	if !c.blockwise || len(c.steps) == 0 || size >= len(s) {
		return len(s)
	}
	for size > 0 && !utf8.RuneStart(s[size]) {
		size--
	}
	before := false
	for i, r := range s[size:] {
		now := inert(r)
		if before && now {
			return size + i
		}
		before = now
	}
	return len(s)
}

// A pattern finds parts of a text.
type pattern interface {
	// find returns the first match at or after at, or -1; open says that it might be another one if the
	// text went on.
	find(r *run, s string, at int) (start, end int, open bool)
	// meets reports whether a match may have one of the characters in it.
	meets(set runeSet) bool
}

// parsePattern reads {"String": ...} or {"Regex": ...}.
func parsePattern(o *object) pattern {
	var p struct{ Regex, String *string }
	var fields map[string]json.RawMessage
	raw := o.raw("pattern")
	if o.err != nil {
		return literal("")
	}
	if json.Unmarshal(raw, &p) != nil || json.Unmarshal(raw, &fields) != nil || len(fields) != 1 || p.Regex == nil && p.String == nil {
		o.refuse(": \"pattern\" of %s is not supported", short(raw))
		return literal("")
	}
	if p.String != nil {
		if *p.String == "" {
			o.refuse(": an empty pattern is not supported")
		}
		return literal(*p.String)
	}
	re, err := newRegex(*p.Regex)
	if err != nil {
		o.refuse(": %v", err)
		return literal("")
	}
	return re
}

// A literal is a pattern that is a text.
type literal string

func (l literal) find(_ *run, s string, at int) (start, end int, open bool) {
	i := strings.Index(s[at:], string(l))
	if i < 0 {
		return -1, -1, true
	}
	return at + i, at + i + len(l), false
}

func (l literal) meets(set runeSet) bool { return strings.ContainsFunc(string(l), set.has) }

func (re *regex) meets(set runeSet) bool {
	for _, in := range re.program.code {
		if in.op == opStart || in.op == opLook && in.end || in.op == opSet && in.set.meets(set) {
			return true // an anchor has to see the section's borders
		}
	}
	return false
}
