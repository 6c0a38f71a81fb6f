package embedtest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/vector"
)

// Ids of the special tokens; a rune r of the text is token r+firstRune.
const (
	startID   = 1
	endID     = 2
	firstRune = 3
)

// VocabSize is one more than the highest id that [Tokenizer] makes.
const VocabSize = firstRune + 0x10FFFF + 1

// Tokenizer makes one token of each rune, between a start and an end token. Spaces at both ends of the text
// make no token.
type Tokenizer struct{}

// Encode implements [embedder.Tokenizer]. The end token is kept when the text is cut.
func (Tokenizer) Encode(dst []int32, text string, max int) (ids []int32, truncated bool) {
	dst = append(dst, startID)
	room := max - 2
	for _, r := range strings.TrimSpace(text) {
		if room--; room < 0 {
			truncated = true
			break
		}
		dst = append(dst, r+firstRune)
	}
	return append(dst, endID), truncated
}

// Text returns the text that ids stand for.
func Text(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		if id >= firstRune {
			b.WriteRune(id - firstRune)
		}
	}
	return b.String()
}

// Quote returns the text that a vector of [Model] or [Embedder] stands for.
func Quote(v vector.Vector) string {
	if len(v) == 0 || v[0] == 0 {
		return ""
	}
	var ids []int32
	for _, x := range v[1:] {
		id := int32(math.Round(float64(x) / float64(v[0])))
		if id == 0 {
			break
		}
		ids = append(ids, id)
	}
	return Text(ids)
}

// quote makes the unit vector that [Quote] reads: a 1 and then the ids, scaled to length 1.
func quote(ids []int32, dim int) vector.Vector {
	v := make(vector.Vector, dim)
	v[0] = 1
	for i, id := range ids {
		v[i+1] = float32(id)
	}
	norm := v.Norm()
	for i := range v {
		v[i] = float32(float64(v[i]) / norm)
	}
	return v
}

// Model is an [embedder.Model] whose vectors are the ids it was given. It keeps a record of its batches.
type Model struct {
	maxTokens int

	mu      sync.Mutex
	batches [][]string
	inside  int
	peak    int
	closed  bool
}

// NewModel returns a model of rows of at most maxTokens; its vectors have maxTokens+1 dimensions.
func NewModel(maxTokens int) *Model { return &Model{maxTokens: maxTokens} }

// Dim is the dimension of the vectors.
func (m *Model) Dim() int { return m.maxTokens + 1 }

// Run implements [embedder.Model]. A row that is empty or too long is an error, as is a run after Close.
func (m *Model) Run(ctx context.Context, b embedder.Batch) ([]vector.Vector, error) {
	leave := m.enter(b)
	defer leave()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	vs := make([]vector.Vector, len(b.Rows))
	for i, ids := range b.Rows {
		if len(ids) == 0 || len(ids) > m.maxTokens {
			return nil, fmt.Errorf("row %d has %d tokens, want 1 to %d", i, len(ids), m.maxTokens)
		}
		vs[i] = quote(ids, m.Dim())
	}
	return vs, m.alive()
}

// enter records a batch and returns what is to be done at the run's end.
func (m *Model) enter(b embedder.Batch) (leave func()) {
	texts := make([]string, len(b.Rows))
	for i, ids := range b.Rows {
		texts[i] = Text(ids)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches = append(m.batches, texts)
	m.inside++
	m.peak = max(m.peak, m.inside)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.inside--
	}
}

func (m *Model) alive() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("running a closed model: %w", embedder.ErrClosed)
	}
	return nil
}

// Close implements [embedder.Model]. It is an error while a run is inside, and a second time: what a real
// model would answer with a crash.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.inside > 0 {
		return fmt.Errorf("closing a model: already closed: %t, runs inside: %d", m.closed, m.inside)
	}
	m.closed = true
	return nil
}

// Batches returns the texts of each run so far, in the order in which the runs began.
func (m *Model) Batches() [][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.batches)
}

// Peak returns the most runs that were inside at once.
func (m *Model) Peak() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peak
}

// Closed reports whether Close has been called.
func (m *Model) Closed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}
