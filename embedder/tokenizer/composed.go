package tokenizer

import "unsafe"

// composed is a pipeline of whatever normalisers, splitters and model a file combines. What most models
// combine has pipelines of its own (bert.go, metaspace.go), which do the same in one pass.
type composed struct {
	chain     chain
	splitters []splitter
	model     wordModel
}

// A wordModel cuts a piece of text into pieces of the vocabulary.
type wordModel interface {
	// tokens appends the ids of w, which is not empty, to r. Where open is true the text goes on behind w:
	// then only ids that nothing can change are appended, and r.short is set if those aren't enough.
	tokens(r *run, w string, open bool)
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
		r.base, r.short = unsafe.StringData(text), text == "" && n < len(s)
		if text != "" {
			p.cut(r, 0, text, n < len(s))
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
	r.base = unsafe.StringData(s)
	p.cut(r, 0, s, false)
}

// encodeOpen is encodeNormalized for a text that goes on.
func (p *composed) encodeOpen(r *run, s string) {
	r.base = unsafe.StringData(s)
	p.cut(r, 0, s, true)
}

// cut hands s, which is not empty, to the splitter of the given level, or to the model behind the last.
func (p *composed) cut(r *run, level int, s string, open bool) {
	if level == len(p.splitters) {
		p.model.tokens(r, s, open)
		return
	}
	p.splitters[level].split(p, r, level, s, open)
}

// piece hands a stretch of s on to the next level and reports whether any more are wanted.
func (p *composed) piece(r *run, level int, s string, part stretch, open bool) bool {
	open = open && part.open
	if open && !p.splitters[level].sure() {
		r.short = true
		return false
	}
	p.cut(r, level+1, s[part.start:part.end], open)
	return !open && !r.short && !r.full()
}

// atStart reports whether s is the beginning of the text.
func (p *composed) atStart(r *run, s string) bool { return r.first && unsafe.StringData(s) == r.base }
