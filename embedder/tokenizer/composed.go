package tokenizer

import "unsafe"

// composed is a pipeline of whatever normalisers, splitters and model a file combines. What most models
// combine has pipelines of its own (bert.go, metaspace.go), which do the same in one pass.
type composed struct {
	chain     chain
	splitters []splitter
	model     wordModel
}

// A chunk is a piece of text that is not empty. If it is open the text goes on behind it.
type chunk struct {
	text string
	open bool
}

// A wordModel cuts a piece of text into pieces of the vocabulary.
type wordModel interface {
	// tokens appends the ids of w to r. Of an open one it appends only ids that nothing behind it can change,
	// and sets r.short if those aren't enough.
	tokens(r *run, w chunk)
}

// Of a section, as many bytes are normalised at first as the tokens asked for have in most texts. Most
// sections are shorter.
const (
	bytesBase     = 4096
	bytesPerToken = 8
)

func (p *composed) encode(r *run, s string) {
	size := p.guess(r, len(s))
	mark, first := len(r.ids), r.first
	for {
		n := p.chain.block(s, size)
		text := p.chain.run(r, s[:n])
		r.short = text == "" && n < len(s)
		if text != "" {
			p.begin(r, chunk{text, n < len(s)})
		}
		if !r.short {
			return
		}
		r.ids, r.first = r.ids[:mark], first
		size = 4 * n
	}
}

// guess returns how many of size bytes to normalise at first.
func (p *composed) guess(r *run, size int) int {
	if r.limit < size/bytesPerToken {
		return min(size, bytesBase+bytesPerToken*r.limit)
	}
	return size
}

func (p *composed) normalize(r *run, s string) string { return p.chain.run(r, s) }

func (p *composed) encodeNormalized(r *run, s string) {
	p.begin(r, chunk{text: s})
}

// begin encodes normalised text.
func (p *composed) begin(r *run, c chunk) {
	r.base = unsafe.StringData(c.text)
	p.cut(r, 0, c)
}

// cut hands c to the splitter of the given level, or to the model behind the last.
func (p *composed) cut(r *run, level int, c chunk) {
	if level == len(p.splitters) {
		p.model.tokens(r, c)
		return
	}
	p.splitters[level].split(p, r, level, c)
}

// piece hands a stretch of c on to the next level and reports whether any more are wanted.
func (p *composed) piece(r *run, level int, c chunk, part stretch) bool {
	open := c.open && part.open
	if open && !p.splitters[level].sure() {
		r.short = true
		return false
	}
	p.cut(r, level+1, chunk{c.text[part.start:part.end], open})
	return !open && !r.short && !r.full()
}

// atStart reports whether s is the beginning of the text.
func (p *composed) atStart(r *run, s string) bool { return r.first && unsafe.StringData(s) == r.base }
