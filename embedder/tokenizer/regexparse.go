package tokenizer

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The functions here read the regular expressions of tokenizer.json as Oniguruma, in its Ruby syntax, reads
// them, as far as tokenizers use them. What a linear-time engine can't do (back references, look-behind,
// look-ahead further than one character) is refused, and so is whatever isn't known.

// A reKind says what a node of a regular expression is.
type reKind uint8

const (
	reEmpty  reKind = iota
	reSet           // one character of set
	reCat           // all of sub, one after the other
	reAlt           // one of sub, the first ones preferred
	reRepeat        // sub[0], least to most times
	reLook          // nothing, if the next character is in set, or, with end, if there is none
	reStart         // nothing, at the start of the text
)

type reNode struct {
	kind        reKind
	set         runeSet
	sub         []*reNode
	least, most int
	lazy        bool // as few as possible
	end         bool
}

const unbounded = math.MaxInt

// A reParser walks over a regular expression.
type reParser struct {
	rest  string
	fold  bool // case doesn't count
	depth int
}

// maxDepth bounds how deep groups may be nested; nobody nests more than three.
const maxDepth = 50

func parseRegex(pattern string) (*reNode, error) {
	if !utf8.ValidString(pattern) {
		return nil, errors.New("it is not UTF-8")
	}
	p := &reParser{rest: pattern}
	n, err := p.alternatives()
	if err == nil && p.rest != "" {
		err = errors.New("there is a ) too many")
	}
	return n, err
}

func (p *reParser) accept(prefix string) bool {
	rest, ok := strings.CutPrefix(p.rest, prefix)
	if ok {
		p.rest = rest
	}
	return ok
}

// char takes the next character; there is one.
func (p *reParser) char() rune {
	c, n := utf8.DecodeRuneInString(p.rest)
	p.rest = p.rest[n:]
	return c
}

// alternatives reads up to the end or a closing parenthesis.
func (p *reParser) alternatives() (*reNode, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, errors.New("its groups are nested too deep")
	}
	defer func() { p.depth-- }()
	alt := &reNode{kind: reAlt}
	for {
		cat := &reNode{kind: reCat}
		for p.rest != "" && p.rest[0] != '|' && p.rest[0] != ')' {
			n, err := p.repeated()
			if err != nil {
				return nil, err
			}
			cat.sub = append(cat.sub, n)
		}
		if p.fold {
			if err := refuseLongFolds(cat.sub); err != nil {
				return nil, err
			}
		}
		alt.sub = append(alt.sub, cat)
		if !p.accept("|") {
			break
		}
	}
	if len(alt.sub) == 1 {
		return alt.sub[0], nil
	}
	return alt, nil
}

// longFolds are letters that, when case doesn't count, are also one character: ß, ﬀ, ﬁ, ﬂ, ﬆ.
var longFolds = [...]string{"ss", "ff", "fi", "fl", "st"}

func refuseLongFolds(nodes []*reNode) error {
	for i := 1; i < len(nodes); i++ {
		a, b := nodes[i-1], nodes[i]
		for _, l := range longFolds {
			if a.kind == reSet && b.kind == reSet && a.set.has(rune(l[0])) && b.set.has(rune(l[1])) {
				return fmt.Errorf("%q in a group (?i) is not supported: a single character may stand for it", l)
			}
		}
	}
	return nil
}

// repeated reads an atom with what says how often.
func (p *reParser) repeated() (*reNode, error) {
	n, err := p.atom()
	for err == nil && p.rest != "" {
		least, most, interval := 0, unbounded, false
		switch {
		case p.accept("*"):
		case p.accept("+"):
			least = 1
		case p.accept("?"):
			most = 1
		case p.interval(&least, &most):
			interval = true
		default:
			return n, nil
		}
		n, err = p.repeat(n, least, most, interval)
	}
	return n, err
}

// interval reads {n}, {n,}, {,m} or {n,m}. Any other brace is a character.
func (p *reParser) interval(least, most *int) bool {
	inside, rest, ok := strings.Cut(p.rest, "}")
	if !ok || !strings.HasPrefix(inside, "{") {
		return false
	}
	from, to, two := strings.Cut(inside[1:], ",")
	if !two {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if from == "" && two && to != "" {
		a, errA = 0, nil
	}
	*least, *most = int(a), int(b)
	if to == "" && two && from != "" {
		*most, errB = unbounded, nil
	}
	if errA != nil || errB != nil {
		*least, *most = 0, unbounded
		return false
	}
	p.rest = rest
	return true
}

// maxRepeat bounds what an interval may say: each repetition is written out.
const maxRepeat = 256

func (p *reParser) repeat(n *reNode, least, most int, interval bool) (*reNode, error) {
	switch {
	case least > most || least > maxRepeat || most != unbounded && most > maxRepeat:
		return nil, fmt.Errorf("{%d,%d} is not supported", least, most)
	case most > 1 && n.nullable():
		return nil, errors.New("repeating what may be empty is not supported")
	}
	r := &reNode{kind: reRepeat, sub: []*reNode{n}, least: least, most: most}
	switch {
	case interval && strings.HasPrefix(p.rest, "?"):
		return nil, errors.New("an interval followed by ? is not supported")
	case interval: // a + behind an interval repeats it, in Ruby's syntax
		return r, nil
	case p.accept("?"):
		r.lazy = true
	case p.accept("+"):
		// Giving nothing back is the same as: what follows is no further one.
		if n.kind != reSet {
			return nil, errors.New("a possessive group is not supported")
		}
		none := &reNode{kind: reLook, set: n.set.complement(), end: true}
		if most == 1 {
			return &reNode{kind: reAlt, sub: []*reNode{n, none}}, nil
		}
		return &reNode{kind: reCat, sub: []*reNode{r, none}}, nil
	}
	return r, nil
}

func (p *reParser) atom() (*reNode, error) {
	switch c := p.char(); c {
	case '(':
		return p.group()
	case '[':
		return p.class()
	case '\\':
		return p.escape()
	case '.':
		return &reNode{kind: reSet, set: runesOf('\n').complement()}, nil
	case '$': // in Ruby's syntax before any line feed, too
		return &reNode{kind: reLook, set: runesOf('\n'), end: true}, nil
	case '^', '*', '+', '?':
		return nil, fmt.Errorf("%q is not supported in this place", c)
	default:
		return p.literal(c)
	}
}

func (p *reParser) literal(c rune) (*reNode, error) {
	return p.setNode(runesOf(c))
}

// setNode folds a set if case doesn't count.
func (p *reParser) setNode(s runeSet) (*reNode, error) {
	if p.fold {
		folded, ok := s.foldASCII()
		if !ok {
			return nil, errors.New("other than ASCII in a group (?i) is not supported")
		}
		s = folded
	}
	return &reNode{kind: reSet, set: s}, nil
}

// group reads what follows an opening parenthesis.
func (p *reParser) group() (n *reNode, err error) {
	fold := p.fold
	look, negated := false, false
	switch {
	case p.accept("?:"):
	case p.accept("?i:"):
		p.fold = true
	case p.accept("?="):
		look = true
	case p.accept("?!"):
		look, negated = true, true
	case strings.HasPrefix(p.rest, "?"):
		return nil, fmt.Errorf("the group (%.3s is not supported", p.rest)
	}
	if n, err = p.alternatives(); err != nil {
		return nil, err
	}
	p.fold = fold
	if !p.accept(")") {
		return nil, errors.New("a ) is missing")
	}
	if look {
		n, err = lookNode(n)
	}
	if err == nil && negated {
		n.set, n.end = n.set.complement(), !n.end
	}
	return n, err
}

// lookNode makes a look-ahead, which may see one character.
func lookNode(n *reNode) (*reNode, error) {
	set, end, ok := n.oneChar()
	if !ok {
		return nil, errors.New("looking further ahead than one character is not supported")
	}
	return &reNode{kind: reLook, set: set, end: end}, nil
}

// oneChar returns the set of a node that matches exactly one character, or the end.
func (n *reNode) oneChar() (set runeSet, end, ok bool) {
	switch {
	case n.kind == reSet:
		return n.set, false, true
	case n.kind == reLook:
		return n.set, n.end, true
	case n.kind == reCat && len(n.sub) == 1:
		return n.sub[0].oneChar()
	case n.kind != reAlt:
		return nil, false, false
	}
	for _, s := range n.sub {
		t, e, one := s.oneChar()
		if !one {
			return nil, false, false
		}
		set, end = set.union(t), end || e
	}
	return set, end, true
}

// nullable reports whether a node may match nothing.
func (n *reNode) nullable() bool {
	switch n.kind {
	case reSet:
		return false
	case reCat:
		for _, s := range n.sub {
			if !s.nullable() {
				return false
			}
		}
	case reAlt:
		for _, s := range n.sub {
			if s.nullable() {
				return true
			}
		}
		return false
	case reRepeat:
		return n.least == 0 || n.sub[0].nullable()
	}
	return true
}
