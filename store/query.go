package store

import (
	"fmt"

	"github.com/embedfleet/embedfleet/vector"
)

// MaxK is the most hits a search returns.
const MaxK = 1000

// A Query asks for the documents nearest to a vector.
type Query struct {
	Vector vector.Vector // of the index's space, unit length
	K      int           // 1 to MaxK
	Filter Filter
}

// check reports what is wrong with q for an index of dim dimensions; dim 0 is an index that is empty.
func (q Query) check(dim int) error {
	if q.K < 1 || q.K > MaxK {
		return fmt.Errorf("k is %d, want 1 to %d", q.K, MaxK)
	}
	if len(q.Vector) == 0 {
		return fmt.Errorf("query has no vector")
	}
	if dim == 0 {
		dim = len(q.Vector)
	}
	if err := q.Vector.CheckUnit(dim); err != nil {
		return fmt.Errorf("checking the query: %w", err)
	}
	return nil
}

// A Hit is a document that a search found, with the chunk that came nearest.
type Hit struct {
	Document   vector.Document // without its text
	Chunk      int             // the chunk's place in the document, from 0
	Start, End int             // the chunk in bytes of the document's text
	Snippet    string          // the chunk's beginning, cut between characters
	Score      float64         // cosine, -1 to 1
}

// better orders hits: by score, then by id so that equal searches give equal answers.
func (h *found) better(o *found) bool {
	if h.score != o.score {
		return h.score > o.score
	}
	return h.entry.doc.ID < o.entry.doc.ID
}

// A found is a hit before it is written out.
type found struct {
	entry *entry
	chunk int
	score float32
}

// A topK keeps the k best of what it is offered, as a heap with the worst on top.
type topK struct {
	k    int
	heap []found
}

// offer takes f if it is among the k best so far.
func (t *topK) offer(f found) {
	if len(t.heap) < t.k {
		t.heap = append(t.heap, f)
		t.up(len(t.heap) - 1)
		return
	}
	if f.better(&t.heap[0]) {
		t.heap[0] = f
		t.down(0)
	}
}

func (t *topK) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !t.heap[parent].better(&t.heap[i]) {
			return
		}
		t.heap[parent], t.heap[i] = t.heap[i], t.heap[parent]
		i = parent
	}
}

func (t *topK) down(i int) {
	for {
		worst := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < len(t.heap) && t.heap[worst].better(&t.heap[c]) {
				worst = c
			}
		}
		if worst == i {
			return
		}
		t.heap[i], t.heap[worst] = t.heap[worst], t.heap[i]
		i = worst
	}
}
