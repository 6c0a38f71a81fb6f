package tokenizer

import "unicode/utf8"

// bpe merges the characters of a word, or its bytes, into pieces: the earliest learned merge first, the
// leftmost of equals first.
type bpe struct {
	pieces  trie
	bytes   *byteAlphabet // nil if words are cut into characters
	merges  mergeTable
	joins   runePairs // characters that some merge joins, the last of its left part and the first of its right
	whole   bool      // a word that is in the vocabulary is not merged (ignore_merges)
	unknown int32     // none: what isn't known is dropped, as Hugging Face does
	fuse    bool      // unknown characters that follow each other are one token
	inside  string    // stands before characters inside a word in the vocabulary
	suffix  string    // stands behind the last character

	fallback *[256]int32 // ids of the bytes of unknown characters, none for those without; nil if it isn't used
}

// A merge says that a pair of pieces becomes one; a lower rank was learned earlier.
type merge struct {
	pair uint64 // left id << 32 | right id
	rank uint32
	id   int32
}

func pairOf(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) }

// A mergeTable is a hash table of merges with open addressing; a Go map takes twice the time here, in what
// is the innermost step. Its length is a power of two, at most half of it is used.
type mergeTable []merge

// unused marks an empty slot; ids are not negative, so no pair is equal to it.
const unused = ^uint64(0)

func newMergeTable(merges []merge) mergeTable {
	size := 16
	for size < 2*len(merges) {
		size *= 2
	}
	t := make(mergeTable, size)
	for i := range t {
		t[i].pair = unused
	}
	for _, m := range merges {
		*t.slot(m.pair) = m // of a merge listed twice the later rank counts, as in Hugging Face
	}
	return t
}

// slot returns where pair is or would be.
func (t mergeTable) slot(pair uint64) *merge {
	mask := uint64(len(t) - 1)
	h := pair * 0x9e3779b97f4a7c15 // 2^64 over the golden ratio: Fibonacci hashing
	for i := h >> 32 & mask; ; i = (i + 1) & mask {
		if m := &t[i]; m.pair == pair || m.pair == unused {
			return m
		}
	}
}

// find returns the merge of two neighbours, or nil.
func (t mergeTable) find(left, right int32) *merge {
	if m := t.slot(pairOf(left, right)); m.pair != unused {
		return m
	}
	return nil
}

// A part is a piece of a word in the making, linked to its neighbours.
type part struct {
	id         int32 // gone if it was merged into the part before it
	prev, next int32 // none at the ends
}

const gone = -1

// tokens implements wordModel.
func (m *bpe) tokens(r *run, c chunk) {
	w := c.text
	switch {
	case c.open && (m.whole || m.bytes != nil || m.inside+m.suffix != ""):
		r.short = true
	case m.whole && m.lookUp(r, w):
	case m.bytes != nil:
		r.parts = r.parts[:0]
		for i := range len(w) {
			r.parts = append(r.parts, part{id: m.bytes.ids[w[i]]})
		}
		m.flush(r)
	case m.inside+m.suffix != "":
		m.affixed(r, w)
	default:
		m.chars(r, c)
	}
}

// lookUp appends the id of w if it is a piece.
func (m *bpe) lookUp(r *run, w string) bool {
	s := int32(root)
	for i := 0; i < len(w) && s != none; i++ {
		if m.bytes == nil {
			s = m.pieces.step(s, w[i])
			continue
		}
		for c := m.bytes.chars[w[i]]; c != "" && s != none; c = c[1:] {
			s = m.pieces.step(s, c[0])
		}
	}
	if s == none || m.pieces[s].id < 0 {
		return false
	}
	r.ids = append(r.ids, m.pieces[s].id)
	return true
}

// chars merges the characters of w. Where no merge joins two neighbours, what lies before is finished: a
// vocabulary that marks spaces itself gets all of a text as one word, of which a limit needs the beginning.
func (m *bpe) chars(r *run, w chunk) {
	r.parts, r.waiting = r.parts[:0], false
	before := rune(-1)
	for i, c := range w.text {
		id, ok := m.pieces.lookup(w.text[i : i+utf8.RuneLen(c)])
		if ok && before >= 0 && !m.joins.has(before, c) {
			if m.flush(r); r.full() && !r.finish {
				return
			}
		}
		before = -1
		if ok {
			before = c
		}
		m.add(r, id, w.text[i:i+utf8.RuneLen(c)])
	}
	if w.open {
		r.short = true
		return
	}
	m.end(r)
}

// add appends the part of one character, whose id is none if it isn't known. An unknown token waits for what
// follows, and bytes don't end the waiting: so Hugging Face has them overtake it.
func (m *bpe) add(r *run, id int32, text string) {
	switch {
	case id >= 0:
		if r.waiting {
			r.parts = append(r.parts, part{id: m.unknown})
		}
		r.parts, r.waiting = append(r.parts, part{id: id}), false
	case m.fallback != nil && m.addBytes(r, text):
	case m.unknown != none:
		if r.waiting && !m.fuse {
			r.parts = append(r.parts, part{id: m.unknown})
		}
		r.waiting = true
	}
}

// addBytes appends a part for each byte, if all have one.
func (m *bpe) addBytes(r *run, text string) bool {
	for i := range len(text) {
		if m.fallback[text[i]] == none {
			return false
		}
	}
	for i := range len(text) {
		r.parts = append(r.parts, part{id: m.fallback[text[i]]})
	}
	return true
}

// affixed is chars for a vocabulary that tells where in a word a character stands.
func (m *bpe) affixed(r *run, w string) {
	r.parts, r.waiting = r.parts[:0], false
	for i, c := range w {
		n := utf8.RuneLen(c)
		r.word = r.word[:0]
		if i > 0 {
			r.word = append(r.word, m.inside...)
		}
		r.word = append(r.word, w[i:i+n]...)
		if i+n == len(w) {
			r.word = append(r.word, m.suffix...)
		}
		id, _ := m.pieces.lookup(view(r.word))
		m.add(r, id, view(r.word))
	}
	m.end(r)
}

// end merges what is there, with the unknown token that waits.
func (m *bpe) end(r *run) {
	if r.waiting {
		r.parts = append(r.parts, part{id: m.unknown})
	}
	m.flush(r)
}

// flush merges the parts, appends their ids to r and leaves none.
func (m *bpe) flush(r *run) {
	if len(r.parts) == 0 {
		return
	}
	for i := range r.parts {
		r.parts[i].prev, r.parts[i].next = int32(i)-1, int32(i)+1
	}
	r.parts[len(r.parts)-1].next = none
	// Every pair that can be merged is proposed; proposals that are overtaken by another merge stay on the
	// heap and are recognised when their turn comes.
	r.heap = r.heap[:0]
	for i := range len(r.parts) - 1 {
		m.propose(r, int32(i))
	}
	for len(r.heap) > 0 {
		m.apply(r, r.heap.pop())
	}
	for i := int32(0); i != none; i = r.parts[i].next {
		r.ids = append(r.ids, r.parts[i].id)
	}
	r.parts = r.parts[:0]
}

// propose puts the merge of part i with its right neighbour on the heap, if there is one.
func (m *bpe) propose(r *run, i int32) {
	if i == none || r.parts[i].next == none {
		return
	}
	if found := m.merges.find(r.parts[i].id, r.parts[r.parts[i].next].id); found != nil {
		r.heap.push(uint64(found.rank)<<32 | uint64(i))
	}
}

// apply carries out a merge taken from the heap, unless its parts have become others since.
func (m *bpe) apply(r *run, top uint64) {
	i := int32(uint32(top))
	left := &r.parts[i]
	if left.id == gone || left.next == none {
		return
	}
	right := &r.parts[left.next]
	found := m.merges.find(left.id, right.id)
	// Parts only grow, so the same rank at the same place means the same pair.
	if found == nil || found.rank != uint32(top>>32) {
		return
	}
	left.id, left.next, right.id = found.id, right.next, gone
	if left.next != none {
		r.parts[left.next].prev = i
	}
	m.propose(r, left.prev)
	m.propose(r, i)
}

// A mergeHeap is a binary heap of proposals, rank << 32 | position of the left part, the least on top. A
// word of 100,000 letters needs it; container/heap would allocate.
type mergeHeap []uint64

func (h *mergeHeap) push(v uint64) {
	s := append(*h, v)
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if s[up] <= v {
			break
		}
		s[i], i = s[up], up
	}
	s[i] = v
	*h = s
}

func (h *mergeHeap) pop() uint64 {
	s := *h
	top, v := s[0], s[len(s)-1]
	s = s[:len(s)-1]
	*h = s
	if len(s) == 0 {
		return top
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= len(s) {
			break
		}
		if down+1 < len(s) && s[down+1] < s[down] {
			down++
		}
		if v <= s[down] {
			break
		}
		s[i], i = s[down], down
	}
	s[i] = v
	return top
}

// runePairs is a set of pairs of characters: a hash table with open addressing, at most half of it used.
type runePairs []uint64

func newRunePairs(pairs []uint64) runePairs {
	size := 16
	for size < 2*len(pairs) {
		size *= 2
	}
	t := make(runePairs, size)
	for i := range t {
		t[i] = unused
	}
	for _, p := range pairs {
		*t.slot(p) = p
	}
	return t
}

func (t runePairs) slot(pair uint64) *uint64 {
	mask := uint64(len(t) - 1)
	h := pair * 0x9e3779b97f4a7c15
	for i := h >> 32 & mask; ; i = (i + 1) & mask {
		if p := &t[i]; *p == pair || *p == unused {
			return p
		}
	}
}

func (t runePairs) has(a, b rune) bool { return *t.slot(pairOf(a, b)) != unused }

// A byteAlphabet is how a byte-level vocabulary writes bytes.
type byteAlphabet struct {
	ids   [256]int32
	chars [256]string
}

func newByteAlphabet() *byteAlphabet {
	var a byteAlphabet
	for b, c := range byteChars() {
		a.chars[b] = string(c)
	}
	return &a
}
