package tokenizer

import (
	"unicode/utf8"
	"unsafe"
)

// wordPiece cuts a word into the longest pieces from the left. Pieces inside a word carry a prefix ("##")
// in the vocabulary: they are what lies below that prefix in the trie.
type wordPiece struct {
	pieces   trie
	inside   int32 // the state of the prefix, none if no piece has it
	unknown  int32
	maxChars int // a longer word is unknown as a whole
}

// word appends the pieces of w, or the unknown token alone if w cannot be cut without a rest.
func (m *wordPiece) word(ids []int32, w []byte) []int32 {
	if len(w) > m.maxChars && utf8.RuneCountInString(view(w)) > m.maxChars {
		return append(ids, m.unknown)
	}
	mark := len(ids)
	for state := int32(root); len(w) > 0; state = m.inside {
		size := 0
		if state != none {
			var id int32
			id, size = m.pieces.longest(state, view(w))
			ids = append(ids, id)
		}
		if size == 0 {
			return append(ids[:mark], m.unknown)
		}
		w = w[size:]
	}
	return ids
}

// tokens makes the model one of a composed pipeline.
func (m *wordPiece) tokens(r *run, w chunk) {
	if w.open {
		r.short = true
		return
	}
	r.ids = m.word(r.ids, unsafe.Slice(unsafe.StringData(w.text), len(w.text)))
}
