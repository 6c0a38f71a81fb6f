package tokenizer

// bpe merges the bytes of a word into pieces, the earliest learned merge first, the leftmost of equals first.
type bpe struct {
	bytes  [256]int32 // ids of single bytes
	merges mergeTable
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

// word appends the ids of a word, which is not empty, to r.
func (m *bpe) word(r *run, w string) {
	r.parts = r.parts[:0]
	for i := range len(w) {
		r.parts = append(r.parts, part{m.bytes[w[i]], int32(i) - 1, int32(i) + 1})
	}
	r.parts[len(w)-1].next = none
	// Every pair that can be merged is proposed; proposals that are overtaken by another merge stay on the
	// heap and are recognised when their turn comes.
	r.heap = r.heap[:0]
	for i := range len(w) - 1 {
		m.propose(r, int32(i))
	}
	for len(r.heap) > 0 {
		m.apply(r, r.heap.pop())
	}
	for i := int32(0); i != none; i = r.parts[i].next {
		r.ids = append(r.ids, r.parts[i].id)
	}
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
