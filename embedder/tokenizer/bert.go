package tokenizer

import "unicode/utf8"

// bertOptions are the fields of Hugging Face's BertNormalizer.
type bertOptions struct {
	clean bool // drop control characters
	cjk   bool // Chinese characters are words of their own
	strip bool // drop accents, after canonical decomposition
	lower bool
}

// What the splitter does with a character, by the bits of a class.
const (
	classDrop  uint8 = 1 << iota // nothing
	classSpace                   // end the word
	classAlone                   // end the word, be one, end it
	classFold                    // as above, with what the normaliser makes of it
)

// bert is BertNormalizer, BertPreTokenizer and WordPiece in one pass over the text: each character is
// classified once, and the only copy made is that of the word at hand.
type bert struct {
	classes [256]uint8 // by bertProps
	plain   [256]uint8 // the same for text that is normalised already
	bertOptions
	model wordPiece
}

func newBERT(o bertOptions, model wordPiece) *bert {
	b := &bert{bertOptions: o, model: model}
	for p := range b.classes {
		b.classes[p] = o.classify(uint8(p))
		b.plain[p] = bertOptions{}.classify(uint8(p))
	}
	return b
}

// folds are the properties of characters that stripping and lowering may change.
func (o bertOptions) folds() (props uint8) {
	if o.strip {
		props |= bertNonspacing | bertDecompose
	}
	if o.lower {
		props |= bertLower
	}
	return props
}

// classify follows the order of the normaliser: cleaning comes first and sees the raw character.
func (o bertOptions) classify(props uint8) (class uint8) {
	switch {
	case o.clean && props&bertDrop != 0:
		return classDrop
	case props&bertSpace != 0:
		return classSpace
	case o.cjk && props&bertCJK != 0, props&bertPunct != 0:
		class = classAlone
	}
	if props&o.folds() != 0 {
		class |= classFold
	}
	return class
}

func (b *bert) encode(r *run, s string) { b.words(r, s, &b.classes) }

func (b *bert) encodeNormalized(r *run, s string) { b.words(r, s, &b.plain) }

// normalize is only needed where added tokens are sought in normalised text.
func (b *bert) normalize(r *run, s string) string {
	r.late = b.appendNormalized(r, r.late[:0], s)
	return view(r.late)
}

// appendNormalized appends what the normaliser makes of s, white space and all.
func (b *bert) appendNormalized(r *run, w []byte, s string) []byte {
	r.barrier = 0
	for _, c := range s {
		props := bertProps(c)
		chinese := b.cjk && props&bertCJK != 0
		switch {
		case b.classes[props] == classDrop:
			continue
		case b.clean && props&bertSpace != 0:
			c, props = ' ', 0
		}
		if chinese {
			w = append(w, ' ')
		}
		if props&b.folds() != 0 {
			w = b.appendFolded(r, w, c)
		} else {
			w = utf8.AppendRune(w, c)
		}
		if chinese {
			w = append(w, ' ')
		}
	}
	return w
}

// words cuts s into words by the given classes and appends their pieces to r.
func (b *bert) words(r *run, s string, classes *[256]uint8) {
	w := r.word[:0]
	r.barrier = 0
	for i := 0; i < len(s) && !r.full(); {
		c, n := rune(s[i]), 1
		if c >= utf8.RuneSelf {
			c, n = utf8.DecodeRuneInString(s[i:])
		}
		switch class := classes[bertProps(c)]; class {
		case 0:
			w = append(w, s[i:i+n]...)
		case classDrop:
		case classSpace:
			w = b.flush(r, w)
		case classFold:
			w = b.fold(r, w, c)
		default: // alone
			w = b.flush(r, w)
			if class&classFold != 0 {
				w = b.fold(r, w, c)
			} else {
				w = append(w, s[i:i+n]...)
			}
			w = b.flush(r, w)
		}
		i += n
	}
	r.word = b.flush(r, w)
}

// flush appends the pieces of a finished word, unless there are enough, and returns the empty one.
func (b *bert) flush(r *run, w []byte) []byte {
	if len(w) > 0 && !r.full() {
		r.ids = b.model.word(r.ids, w)
		r.barrier = 0
	}
	return w[:0]
}

// fold appends to the word what stripping accents and lowering make of c, and ends the word around
// punctuation that comes out of it (U+2260 falls apart into an equals sign and a stroke).
func (b *bert) fold(r *run, w []byte, c rune) []byte {
	if c < utf8.RuneSelf {
		return append(w, byte(c)+'a'-'A') // only capitals of ASCII are folded
	}
	mark := len(w)
	w = b.appendFolded(r, w, c)
	if c >= hangulBase && c <= hangulLast {
		return w
	}
	for j := mark; j < len(w); {
		q, n := utf8.DecodeRune(w[j:])
		if bertProps(q)&bertPunct == 0 {
			j += n
			continue
		}
		w = b.isolate(r, w, j, n)
		j = 0
	}
	return w
}

// isolate ends the word before and after the n bytes of punctuation at j, and returns the rest of w.
func (b *bert) isolate(r *run, w []byte, j, n int) []byte {
	if j > 0 && !r.full() {
		r.ids = b.model.word(r.ids, w[:j])
	}
	if !r.full() {
		r.ids = b.model.word(r.ids, w[j:j+n])
	}
	r.barrier = max(0, r.barrier-j-n)
	return append(w[:0], w[j+n:]...)
}

// appendFolded appends the folded form of one character.
func (b *bert) appendFolded(r *run, dst []byte, c rune) []byte {
	if !b.strip {
		return appendLower(dst, c)
	}
	if c >= hangulBase && c <= hangulLast {
		return appendJamo(dst, c-hangulBase)
	}
	d := decompose(c)
	if d == "" {
		return b.appendStripped(r, dst, c)
	}
	for _, q := range d {
		dst = b.appendStripped(r, dst, q)
	}
	return dst
}

// appendJamo appends the jamo of the syllable with the given index.
func appendJamo(dst []byte, index rune) []byte {
	dst = utf8.AppendRune(dst, hangulL+index/(hangulVCount*hangulTCount))
	dst = utf8.AppendRune(dst, hangulV+index/hangulTCount%hangulVCount)
	if t := index % hangulTCount; t != 0 {
		dst = utf8.AppendRune(dst, hangulT+t)
	}
	return dst
}

// appendStripped appends one character of a decomposition unless it is an accent.
func (b *bert) appendStripped(r *run, dst []byte, c rune) []byte {
	props := bertProps(c)
	if props&bertNonspacing != 0 {
		if props&bertStarter != 0 {
			r.barrier = len(dst)
		}
		return dst
	}
	mark := len(dst)
	if b.lower {
		dst = appendLower(dst, c)
	} else {
		dst = utf8.AppendRune(dst, c)
	}
	if props&bertDecompose != 0 && len(dst)-r.barrier <= utf8.UTFMax*b.model.maxChars {
		// A longer word is unknown, in whatever order; sorting it would take quadratic time.
		sortMark(dst[r.barrier:], mark-r.barrier, classOf(c))
	}
	return dst
}

// sortMark moves the mark at dst[at:] before marks of a higher combining class: canonical order. Few marks
// outlive the stripping, all outside of everyday scripts.
func sortMark(dst []byte, at int, class uint8) {
	size := len(dst) - at
	for at > 0 {
		before, n := utf8.DecodeLastRune(dst[:at])
		if classOf(before) <= class {
			return
		}
		var mark [utf8.UTFMax]byte
		copy(mark[:], dst[at:at+size])
		copy(dst[at-n+size:], dst[at-n:at])
		copy(dst[at-n:], mark[:size])
		at -= n
	}
}
