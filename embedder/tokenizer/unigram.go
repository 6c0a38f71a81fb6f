package tokenizer

import (
	"slices"
	"unicode/utf8"
)

// unknownPenalty is how much worse than the worst piece an unknown character scores.
const unknownPenalty = 10

// unigram cuts a word into the pieces whose scores (logarithms of probabilities) have the highest sum.
type unigram struct {
	pieces       trie
	scores       []float64 // by id
	unknown      int32
	unknownScore float64
	fallback     *[256]int32 // ids of the bytes of unknown characters; nil if it isn't used
}

// tokens implements wordModel.
func (m *unigram) tokens(r *run, w chunk) {
	r.startWord()
	r.word = append(r.word, w.text...)
	if w.open {
		m.cutSettled(r)
		r.short = !r.full()
		return
	}
	m.cut(r)
}

// A node is the best way found to reach a byte of the word.
type node struct {
	score float64
	from  int32 // where its last piece starts, plus one; 0 if the byte isn't reached yet
	id    int32 // of that piece
}

// reach notes a way to n if it is better than the one known; of two that are as good the first stays.
func (n *node) reach(from int, id int32, score float64) {
	if n.from == 0 || score > n.score {
		*n = node{score, int32(from) + 1, id}
	}
}

// cut appends the pieces of r.word, which is a whole one or the rest of one, and leaves it empty.
func (m *unigram) cut(r *run) {
	nodes := r.firstNode()
	for at := 0; at < len(r.word); {
		size, _, _ := m.extend(nodes, r.word, at)
		at += size
	}
	m.take(r, nodes)
}

// cutSettled is cut for a word that goes on: only the pieces up to the last place that every way through the
// word passes, wherever it goes on, are final; the rest of the word stays.
func (m *unigram) cutSettled(r *run) {
	nodes := r.firstNode()
	// Bytes up to furthest are spanned by pieces seen so far; settled is the last place none spans.
	furthest, settled := 0, 0
	for at := 0; at < len(r.word); {
		if furthest <= at {
			settled = at
		}
		size, end, open := m.extend(nodes, r.word, at)
		if open {
			break // a longer piece may start here
		}
		furthest = max(furthest, end)
		at += size
	}
	m.take(r, nodes[:settled+1])
}

// firstNode returns a node for every byte of the word and for its end, of which the first is reached. Scores
// run on from what was taken of the word before, since sums of floats depend on where they started.
func (r *run) firstNode() []node {
	if cap(r.nodes) <= len(r.word) {
		r.nodes = make([]node, 2*len(r.word)+1)
	}
	nodes := r.nodes[:len(r.word)+1]
	clear(nodes)
	nodes[0].score = r.score
	return nodes
}

// take appends the pieces up to the last node and leaves what is behind it in the word.
func (m *unigram) take(r *run, nodes []node) {
	m.emit(r, nodes)
	last := len(nodes) - 1
	r.score = nodes[last].score
	r.word = r.word[:copy(r.word, r.word[last:])]
}

// extend notes every piece that starts at w[at:], or the unknown token if none is as long as the character
// there. It returns the character's size, the furthest byte reached, and whether the word ended while a
// longer piece was still possible.
func (m *unigram) extend(nodes []node, w []byte, at int) (size, end int, open bool) {
	size = 1
	if w[at] >= utf8.RuneSelf {
		_, size = utf8.DecodeRune(w[at:])
	}
	score := nodes[at].score
	end = at + size
	known, open := false, true
	state := int32(root)
	for i := at; i < len(w); i++ {
		p := m.pieces[state].base + int32(w[i])
		c := m.pieces[p]
		if c.check != state {
			open = false
			break
		}
		state = p
		if c.id < 0 {
			continue
		}
		nodes[i+1].reach(at, c.id, m.scores[c.id]+score)
		end = max(end, i+1)
		known = known || i+1-at == size
	}
	if !known {
		nodes[at+size].reach(at, m.unknown, m.unknownScore+score)
	}
	return size, end, open
}

// emit appends the ids on the best way to the last node. Neighbouring unknown characters are one token, or
// their bytes.
func (m *unigram) emit(r *run, nodes []node) {
	r.path = r.path[:0]
	for at := len(nodes) - 1; at > 0; at = int(nodes[at].from) - 1 {
		r.path = append(r.path, int32(at))
	}
	for _, end := range slices.Backward(r.path) {
		n := nodes[end]
		switch {
		case n.id != m.unknown:
			r.ids = append(r.ids, n.id)
		case m.fallback != nil:
			for _, b := range r.word[n.from-1 : end] {
				r.ids = append(r.ids, m.fallback[b])
			}
		case !r.unknown:
			r.ids = append(r.ids, n.id)
		}
		r.unknown = n.id == m.unknown
	}
}
