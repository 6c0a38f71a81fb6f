package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
)

// components are the normalisers and pre-tokenisers of a file in their order, Sequences taken apart.
type components struct {
	steps     []normalizer
	splitters []splitter
	kinds     []string // of the pre-tokenisers, which may be several splitters each
	bytes     bool     // the pieces are bytes: the last pre-tokeniser is ByteLevel
	late      bool     // added tokens are sought in normalised text
	buffered  bool     // one of the splitters writes to r.marked
}

// maxSequence bounds how deep Sequences may be nested, and how many components there may be.
const maxSequence = 64

// sequence reads a component, and a Sequence as the components in its field list; each has its type taken
// out and what it doesn't read refused.
func sequence(where, list string, raw json.RawMessage, depth int, each func(kind string, o *object)) error {
	if raw == nil {
		return nil
	}
	o := newObject(where, raw)
	kind := o.text("type")
	o.where = fmt.Sprintf("%s %q", where, kind)
	if kind != "Sequence" {
		if o.err == nil {
			each(kind, o)
		}
		return o.finish()
	}
	var parts []json.RawMessage
	o.require(list, &parts)
	if len(parts) > maxSequence || depth > maxSequence {
		o.refuse(" has more parts than %d", maxSequence)
	}
	if err := o.finish(); err != nil {
		return err
	}
	for _, part := range parts {
		if err := sequence(where, list, part, depth+1, each); err != nil {
			return err
		}
	}
	return nil
}

func (c *components) readNormalizer(where string, raw json.RawMessage) error {
	return sequence(where, "normalizers", raw, 0, func(kind string, o *object) {
		c.steps = append(c.steps, parseNormalizer(kind, o))
	})
}

func (c *components) readPreTokenizer(where string, raw json.RawMessage) error {
	return sequence(where, "pretokenizers", raw, 0, func(kind string, o *object) {
		if c.bytes {
			o.refuse(" behind \"ByteLevel\" is not supported")
			return
		}
		list, bytes := parseSplitters(kind, o)
		for _, s := range list {
			if _, plain := s.(*cutter); !plain {
				if c.buffered {
					o.refuse(": only one component that puts something before words is supported")
				}
				c.buffered = true
			}
		}
		c.kinds, c.splitters, c.bytes = append(c.kinds, kind), append(c.splitters, list...), bytes
	})
}

// pipeline composes the components with a model.
func (c *components) pipeline(m wordModel) *composed {
	return &composed{chain: newChain(c.steps), splitters: c.splitters, model: m}
}

// isBERT returns the options of BERT's normaliser, if there is nothing but that and BERT's pre-tokeniser.
func (c *components) isBERT() (o bertOptions, ok bool) {
	if len(c.steps) != 1 || !slices.Equal(c.kinds, []string{"BertPreTokenizer"}) {
		return o, false
	}
	b, ok := c.steps[0].(*bert)
	if !ok {
		return o, false
	}
	return b.bertOptions, true
}

// sentencePiece returns the pipeline of XLM-R in one of its layouts, or nil if the components are others.
func (c *components) sentencePiece() *sentencePiece {
	p := &sentencePiece{}
	steps := c.steps
	if len(steps) > 0 {
		if m, ok := steps[0].(*charsmap); ok {
			p.charsmap, steps = m, steps[1:]
		}
	}
	if len(steps) > 0 {
		if s, ok := steps[0].(strip); ok && !s.left {
			p.stripRight, steps = s.right, steps[1:]
		}
	}
	if len(steps) > 0 {
		n, ok := steps[0].(*replace)
		if !ok || !n.collapses() {
			return nil
		}
		p.collapse, steps = true, steps[1:]
		// A mark instead of a space makes no difference to Metaspace, but to what looks before it.
		if n.content != " " && (c.late || len(c.kinds) > 1) {
			return nil
		}
	}
	p.splitSpace = slices.Equal(c.kinds, []string{"WhitespaceSplit", "Metaspace"})
	if len(steps) > 0 || !p.splitSpace && !slices.Equal(c.kinds, []string{"Metaspace"}) {
		return nil
	}
	m, ok := c.splitters[len(c.splitters)-1].(*marker)
	if !ok || m.mark != string(metaspace) || m.first || m.never || m.splitter == nil {
		return nil
	}
	return p
}
