package tokenizer

import (
	"bytes"
	"unicode/utf8"
)

// metaspace is the character that stands for a space in the pieces of a Unigram vocabulary.
const metaspace = '▁'

// normBlock is how many bytes are normalised at a time: enough for the work around a block not to matter,
// few enough that a text of megabytes, cut at some hundred ids, costs no more than a short one.
const normBlock = 2048

// sentencePiece is the pipeline of XLM-R and its kin: the charsmap, then words that start with a metaspace.
// Two layouts are in use, and their ids differ on odd spaces. With splitSpace (xlm-roberta, e5) the text is
// split at white space and each word gets a metaspace. Without (bge-m3) spaces turn into metaspaces, after
// several have been collapsed into one; other white space is text like any other.
type sentencePiece struct {
	charsmap   *charsmap // nil if the normaliser has none
	stripRight bool      // drop white space at the end of a section
	collapse   bool      // several spaces count as one
	splitSpace bool
	model      unigram
}

func (p *sentencePiece) encode(r *run, s string) {
	r.startSection()
	for s != "" && !r.full() {
		s = p.block(r, s)
		p.words(r, r.norm[:r.ready])
		r.norm = append(r.norm[:0], r.norm[r.ready:]...)
	}
	if !r.full() {
		p.endWord(r)
	}
}

func (p *sentencePiece) encodeNormalized(r *run, s string) {
	r.startSection()
	for s != "" && !r.full() {
		r.norm, s = copyBlock(r.norm[:0], s)
		p.words(r, r.norm)
	}
	if !r.full() {
		p.endWord(r)
	}
}

func (p *sentencePiece) normalize(r *run, s string) string {
	r.startSection()
	r.late = r.late[:0]
	for s != "" {
		s = p.block(r, s)
		r.late = append(r.late, r.norm[:r.ready]...)
		r.norm = append(r.norm[:0], r.norm[r.ready:]...)
	}
	return view(r.late)
}

// startSection forgets the section before.
func (r *run) startSection() {
	r.norm, r.ready, r.fresh = r.norm[:0], 0, true
	r.startWord()
}

func (r *run) startWord() {
	r.word, r.enough = r.word[:0], normBlock
	r.score, r.unknown = 0, false
}

// copyBlock appends about normBlock bytes of s, whole characters, and returns what is left of s.
func copyBlock(dst []byte, s string) (out []byte, rest string) {
	n := min(len(s), normBlock)
	for n < len(s) && !utf8.RuneStart(s[n]) {
		n++
	}
	return append(dst, s[:n]...), s[n:]
}

// block appends the next block of normalised text to r.norm, of which the first r.ready bytes are then
// final. White space behind them waits for the next block, which decides whether it is stripped, and how
// much of it is collapsed.
func (p *sentencePiece) block(r *run, s string) (rest string) {
	for from := 0; ; from = len(r.norm) {
		if p.charsmap != nil {
			r.norm, s = p.charsmap.normalize(r.norm, s, normBlock)
		} else {
			r.norm, s = copyBlock(r.norm, s)
		}
		r.ready = len(r.norm)
		if !p.stripRight && !p.collapse {
			return s
		}
		end := from + len(bytes.TrimRightFunc(r.norm[from:], isSpace))
		switch {
		case s == "" && p.stripRight:
			r.norm = bytes.TrimRightFunc(r.norm, isSpace)
			r.ready = len(r.norm)
		case s == "":
		case end == from:
			continue // nothing but white space so far
		default:
			r.ready = end
		}
		if p.collapse {
			tight := collapse(r.norm[:r.ready])
			r.norm = append(tight, r.norm[r.ready:]...)
			r.ready = len(tight)
		}
		return s
	}
}

// collapse replaces runs of spaces by one, in place.
func collapse(s []byte) []byte {
	i := bytes.Index(s, []byte("  "))
	if i < 0 {
		return s
	}
	out := s[:i+1]
	for _, c := range s[i+1:] {
		if c != ' ' || out[len(out)-1] != ' ' {
			out = append(out, c)
		}
	}
	return out
}

// words cuts normalised text into words, of which the last may go on in the next block.
func (p *sentencePiece) words(r *run, s []byte) {
	if p.splitSpace {
		p.splitWords(r, s)
	} else {
		p.markWords(r, s)
	}
	if len(r.word) >= r.enough && !r.finish {
		// A language without spaces, or a prank. What can be decided of the word is.
		p.model.cutSettled(r)
		r.enough = max(normBlock, 2*len(r.word))
	}
}

// splitWords is WhitespaceSplit, then Metaspace on each word.
func (p *sentencePiece) splitWords(r *run, s []byte) {
	for i := 0; i < len(s) && !r.full(); {
		c, n := rune(s[i]), 1
		if c >= utf8.RuneSelf {
			c, n = utf8.DecodeRune(s[i:])
		}
		switch {
		case isSpace(c):
			p.endWord(r)
		case c == metaspace:
			p.endWord(r)
			r.word = utf8.AppendRune(r.word, metaspace)
		default:
			if len(r.word) == 0 {
				r.word = utf8.AppendRune(r.word, metaspace)
			}
			r.word = append(r.word, s[i:i+n]...)
		}
		i += n
	}
}

// markWords is Metaspace alone: every space or metaspace starts a word.
func (p *sentencePiece) markWords(r *run, s []byte) {
	for i := 0; i < len(s) && !r.full(); {
		n := wordEnd(s[i:])
		if n > 0 {
			if r.fresh {
				r.word = utf8.AppendRune(r.word, metaspace)
			}
			r.word = append(r.word, s[i:i+n]...)
			i += n
		}
		r.fresh = false
		if i == len(s) {
			return
		}
		p.endWord(r)
		r.word = utf8.AppendRune(r.word, metaspace)
		if s[i] == ' ' {
			i++
		} else {
			i += utf8.RuneLen(metaspace)
		}
	}
}

// wordEnd returns the offset of the next space or metaspace in s, or its length.
func wordEnd(s []byte) int {
	for i, c := range s {
		if c == ' ' || c == "▁"[0] && bytes.HasPrefix(s[i:], []byte("▁")) {
			return i
		}
	}
	return len(s)
}

func (p *sentencePiece) endWord(r *run) {
	if len(r.word) > 0 {
		p.model.cut(r)
	}
	r.startWord()
}
