package tokenizer

import (
	"cmp"
	"errors"
	"slices"
	"unicode/utf8"
)

// A reOp is what an instruction of a compiled regular expression does.
type reOp uint8

const (
	opSet   reOp = iota // takes a character of its classes and goes on at next
	opLook              // goes on at next if the next character is of its classes
	opStart             // goes on at next at the start of the text
	opAlt               // goes on at next, or, less preferred, at other
	opMatch
)

type reInst struct {
	op          reOp
	next, other int32
	set         runeSet
	end         bool
	classes     []bool // by class, of set; the last is the end of the text, of end
}

// maxProgram bounds the instructions of a regular expression. GPT-4o's, the longest in use, has about 100.
const maxProgram = 4096

var errTooLarge = errors.New("it is too large")

// A reProgram is a regular expression as instructions, of which the first to run is start.
type reProgram struct {
	code    []reInst
	start   int32
	classes runeClasses
}

// compileProgram writes the instructions from the last to the first: each knows the one that follows.
func compileProgram(n *reNode) (*reProgram, error) {
	p := &reProgram{code: []reInst{{op: opMatch}}}
	var ok bool
	if p.start, ok = p.add(n, 0); !ok {
		return nil, errTooLarge
	}
	var sets []runeSet
	for _, in := range p.code {
		if in.op == opSet || in.op == opLook {
			sets = append(sets, in.set)
		}
	}
	if err := p.classes.divide(sets); err != nil {
		return nil, err
	}
	for i := range p.code {
		in := &p.code[i]
		if in.op == opSet || in.op == opLook {
			in.classes = p.classes.of(in.set, in.end)
		}
	}
	return p, nil
}

func (p *reProgram) emit(in reInst) (int32, bool) {
	p.code = append(p.code, in)
	return int32(len(p.code) - 1), len(p.code) < maxProgram
}

// add writes what n does before it goes on at next, and returns where that starts.
func (p *reProgram) add(n *reNode, next int32) (at int32, ok bool) {
	switch n.kind {
	case reSet:
		return p.emit(reInst{op: opSet, next: next, set: n.set})
	case reLook:
		return p.emit(reInst{op: opLook, next: next, set: n.set, end: n.end})
	case reStart:
		return p.emit(reInst{op: opStart, next: next})
	case reCat:
		at, ok = next, true
		for _, s := range slices.Backward(n.sub) {
			if at, ok = p.add(s, at); !ok {
				return at, false
			}
		}
		return at, true
	case reAlt:
		return p.addAlt(n.sub, next)
	case reRepeat:
		return p.addRepeat(n, next)
	}
	return next, true
}

func (p *reProgram) addAlt(sub []*reNode, next int32) (at int32, ok bool) {
	if at, ok = p.add(sub[len(sub)-1], next); !ok {
		return at, false
	}
	for _, s := range slices.Backward(sub[:len(sub)-1]) {
		first, ok := p.add(s, next)
		if !ok {
			return first, false
		}
		if at, ok = p.emit(reInst{op: opAlt, next: first, other: at}); !ok {
			return at, false
		}
	}
	return at, true
}

// addRepeat writes the required repetitions out, and behind them a loop, or the optional ones.
func (p *reProgram) addRepeat(n *reNode, next int32) (at int32, ok bool) {
	at, ok = next, true
	if n.most == unbounded {
		at, ok = p.addLoop(n, next)
	} else {
		for range n.most - n.least {
			if ok {
				at, ok = p.addOptional(n, at, next)
			}
		}
	}
	for range n.least {
		if ok {
			at, ok = p.add(n.sub[0], at)
		}
	}
	return at, ok
}

func (p *reProgram) addLoop(n *reNode, exit int32) (at int32, ok bool) {
	if at, ok = p.emit(reInst{op: opAlt}); !ok {
		return at, false
	}
	body, ok := p.add(n.sub[0], at)
	if ok {
		p.prefer(n, at, body, exit)
	}
	return at, ok
}

// addOptional writes a repetition that goes on at next, or doesn't take place.
func (p *reProgram) addOptional(n *reNode, next, exit int32) (at int32, ok bool) {
	body, ok := p.add(n.sub[0], next)
	if !ok {
		return body, false
	}
	if at, ok = p.emit(reInst{op: opAlt}); ok {
		p.prefer(n, at, body, exit)
	}
	return at, ok
}

// prefer makes the alternative at at one between once more and no more.
func (p *reProgram) prefer(n *reNode, at, body, exit int32) {
	if n.lazy {
		body, exit = exit, body
	}
	p.code[at].next, p.code[at].other = body, exit
}

// runeClasses divides the characters into classes that no set of a regular expression tells apart.
type runeClasses struct {
	index  [(utf8.MaxRune + 1) / blockSize]uint16 // of a block of characters
	blocks []uint8
	count  int // classes, without the end of the text, whose class is count
}

// divide makes the classes of sets.
func (c *runeClasses) divide(sets []runeSet) error {
	borders := []rune{0}
	for _, s := range sets {
		for _, r := range s {
			borders = append(borders, r[0], r[1]+1)
		}
	}
	slices.SortFunc(borders, cmp.Compare)
	borders = append(slices.Compact(borders), utf8.MaxRune+1)
	all := make([]uint8, utf8.MaxRune+1)
	known := map[string]uint8{}
	member := make([]byte, len(sets))
	for i, lo := range borders[:len(borders)-1] {
		if lo > utf8.MaxRune {
			break
		}
		for k, s := range sets {
			member[k] = 0
			if s.has(lo) {
				member[k] = 1
			}
		}
		class, ok := known[string(member)]
		if !ok {
			if len(known) == 250 {
				return errTooLarge
			}
			class = uint8(len(known))
			known[string(member)] = class
		}
		for r := lo; r < borders[i+1]; r++ {
			all[r] = class
		}
	}
	c.count = len(known)
	c.fold(all)
	return nil
}

// fold keeps each block of 256 characters once.
func (c *runeClasses) fold(all []uint8) {
	seen := map[string]uint16{}
	for at := 0; at < len(all); at += blockSize {
		block := string(all[at : at+blockSize])
		n, ok := seen[block]
		if !ok {
			n = uint16(len(seen))
			seen[block] = n
			c.blocks = append(c.blocks, block...)
		}
		c.index[at/blockSize] = n
	}
}

// class returns the class of a character.
func (c *runeClasses) class(r rune) int {
	return int(c.blocks[int(c.index[uint(r)/blockSize])*blockSize+int(uint(r)%blockSize)])
}

// of returns which classes a set consists of, and whether the end of the text counts among them.
func (c *runeClasses) of(s runeSet, end bool) []bool {
	in := make([]bool, c.count+1)
	for _, r := range s {
		for at := r[0]; at <= r[1]; at++ {
			in[c.class(at)] = true
		}
	}
	in[c.count] = end
	return in
}
