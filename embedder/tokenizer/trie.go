package tokenizer

import (
	"cmp"
	"slices"
)

// A trie maps pieces of a vocabulary to ids, byte by byte: a double array, in which the child of state s
// under byte c lies at cell base(s)+c, if that cell's check is s. Base, check and id of a cell lie together
// because a step reads all three.
type trie []cell

type cell struct {
	base  int32
	check int32 // parent state, free for none
	id    int32 // of the piece that ends here, none for none
}

const (
	none = -1
	free = -2
	root = 0
)

// step returns the child of state under c, or none.
func (t trie) step(state int32, c byte) int32 {
	if p := t[state].base + int32(c); t[p].check == state {
		return p
	}
	return none
}

// walk returns the state that key leads to from the root, or none.
func (t trie) walk(key string) int32 {
	s := int32(root)
	for i := 0; i < len(key) && s != none; i++ {
		s = t.step(s, key[i])
	}
	return s
}

// lookup returns the id of a whole piece.
func (t trie) lookup(piece string) (int32, bool) {
	s := t.walk(piece)
	if s == none || t[s].id < 0 {
		return none, false
	}
	return t[s].id, true
}

// longest returns the id and length of the longest piece that, from state, is a prefix of s; length 0 if
// there is none.
func (t trie) longest(state int32, s string) (id int32, size int) {
	// A piece may be a prefix of another, so the walk goes on past a match.
	for i := range len(s) {
		p := t[state].base + int32(s[i])
		if t[p].check != state {
			break
		}
		state = p
		if t[p].id >= 0 {
			id, size = t[p].id, i+1
		}
	}
	return id, size
}

// A trieBuilder places states. Free cells form a ring through cell 0, so that a place for a state's children
// is found without looking at taken ones.
type trieBuilder struct {
	pieces     []piece // sorted by token
	cells      trie
	prev, next []int32
}

// newTrie builds a trie of pieces, leaving out an empty one.
func newTrie(pieces []piece) trie {
	sorted := slices.Clone(pieces)
	slices.SortFunc(sorted, func(a, b piece) int { return cmp.Compare(a.token, b.token) })
	b := &trieBuilder{pieces: sorted, cells: trie{{check: none, id: none}}, prev: []int32{0}, next: []int32{0}}
	b.grow(4096)
	b.place(root, 0, len(sorted), 0)
	b.cells[root].id = none
	used := len(b.cells)
	for used > 1 && b.cells[used-1].check == free {
		used--
	}
	b.grow(used + 256) // a step reads at most base+255
	return slices.Clone(b.cells[:used+256])
}

func (b *trieBuilder) grow(n int) {
	for i := len(b.cells); i < n; i++ {
		last := b.prev[0]
		b.cells = append(b.cells, cell{check: free, id: none})
		b.prev, b.next = append(b.prev, last), append(b.next, 0)
		b.next[last], b.prev[0] = int32(i), int32(i)
	}
}

func (b *trieBuilder) take(p int32) {
	b.next[b.prev[p]], b.prev[b.next[p]] = b.next[p], b.prev[p]
}

// place gives state its children: the pieces lo to hi, which share depth bytes.
func (b *trieBuilder) place(state int32, lo, hi, depth int) {
	for lo < hi && len(b.pieces[lo].token) == depth {
		b.cells[state].id = b.pieces[lo].id
		lo++
	}
	if lo == hi {
		return
	}
	var labels []byte
	var starts []int
	for i := lo; i < hi; i++ {
		if c := b.pieces[i].token[depth]; len(labels) == 0 || c != labels[len(labels)-1] {
			labels, starts = append(labels, c), append(starts, i)
		}
	}
	starts = append(starts, hi)
	// Cells are taken for all children before any child places its own.
	base := b.base(labels)
	b.cells[state].base = base
	for _, c := range labels {
		b.cells[base+int32(c)].check = state
		b.take(base + int32(c))
	}
	for i, c := range labels {
		b.place(base+int32(c), starts[i], starts[i+1], depth+1)
	}
}

// maxTries bounds the search for a place; beyond it the array grows instead. Dense regions near the start
// would otherwise be looked through again for every state.
const maxTries = 256

func (b *trieBuilder) base(labels []byte) int32 {
	tries := 0
	for p := b.next[0]; p != 0 && tries < maxTries; p = b.next[p] {
		base := p - int32(labels[0])
		if base <= 0 {
			continue // cell 0 is the root's
		}
		tries++
		b.grow(int(base) + 256)
		if !slices.ContainsFunc(labels, func(c byte) bool { return b.cells[base+int32(c)].check != free }) {
			return base
		}
	}
	base := int32(len(b.cells))
	b.grow(int(base) + 256)
	return base
}
