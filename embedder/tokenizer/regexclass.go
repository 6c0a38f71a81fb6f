package tokenizer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// escape reads what follows a backslash outside of a class.
func (p *reParser) escape() (*reNode, error) {
	switch {
	case p.accept("A"):
		return &reNode{kind: reStart}, nil
	case p.accept("z"):
		return &reNode{kind: reLook, end: true}, nil
	}
	set, class, err := p.escaped()
	if err != nil {
		return nil, err
	}
	if class {
		return &reNode{kind: reSet, set: set}, nil // case makes no difference to a property
	}
	return p.setNode(set)
}

// escaped reads what follows a backslash, in a class or outside. class tells a set of characters from one.
func (p *reParser) escaped() (set runeSet, class bool, err error) {
	if p.rest == "" {
		return nil, false, errors.New("it ends with a backslash")
	}
	switch c := p.char(); c {
	case 's':
		return spaceSet(), true, nil
	case 'S':
		return spaceSet().complement(), true, nil
	case 'w':
		return wordSet(), true, nil
	case 'W':
		return wordSet().complement(), true, nil
	case 'd', 'D':
		set, err = namedSet("Nd")
		if c == 'D' {
			set = set.complement()
		}
		return set, true, err
	case 'p', 'P':
		if set, err = p.property(); c == 'P' {
			set = set.complement()
		}
		return set, true, err
	case 'n':
		return runesOf('\n'), false, nil
	case 'r':
		return runesOf('\r'), false, nil
	case 't':
		return runesOf('\t'), false, nil
	case 'f':
		return runesOf('\f'), false, nil
	case 'v':
		return runesOf('\v'), false, nil
	case 'x', 'u':
		set, err = p.codePoint(c)
		return set, false, err
	default:
		if c < 0x80 && (c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z') {
			return nil, false, fmt.Errorf("\\%c is not supported", c)
		}
		return runesOf(c), false, nil
	}
}

// property reads {name} or {^name}.
func (p *reParser) property() (runeSet, error) {
	name, rest, ok := strings.Cut(strings.TrimPrefix(p.rest, "{"), "}")
	if !ok || !strings.HasPrefix(p.rest, "{") {
		return nil, errors.New("\\p without a property in braces is not supported")
	}
	p.rest = rest
	name, negated := strings.CutPrefix(name, "^")
	set, err := namedSet(name)
	if negated {
		set = set.complement()
	}
	return set, err
}

// codePoint reads the digits of \xHH, \x{H...} or \uHHHH.
func (p *reParser) codePoint(kind rune) (runeSet, error) {
	digits, size := "", 4
	if kind == 'x' {
		size = 2
	}
	if inside, rest, ok := strings.Cut(p.rest, "}"); kind == 'x' && ok && strings.HasPrefix(inside, "{") {
		digits, p.rest = inside[1:], rest
	} else if len(p.rest) >= size {
		digits, p.rest = p.rest[:size], p.rest[size:]
	}
	n, err := strconv.ParseUint(digits, 16, 21)
	if err != nil || kind == 'x' && size == len(digits) && n >= 0x80 {
		return nil, fmt.Errorf("\\%c%s is not supported", kind, digits)
	}
	return runesOf(rune(n)), nil
}

// class reads what follows an opening bracket.
func (p *reParser) class() (*reNode, error) {
	set, err := p.classSet()
	if err != nil {
		return nil, err
	}
	return &reNode{kind: reSet, set: set}, nil
}

func (p *reParser) classSet() (runeSet, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, errors.New("its classes are nested too deep")
	}
	defer func() { p.depth-- }()
	negated := p.accept("^")
	var set runeSet
	for first := true; ; first = false {
		switch {
		case p.rest == "":
			return nil, errors.New("a ] is missing")
		case p.accept("]"):
			if first {
				return nil, errors.New("an empty class is not supported")
			}
			if negated && p.fold {
				return nil, errors.New("a negated class in a group (?i) is not supported")
			}
			if negated {
				set = set.complement()
			}
			return set, nil
		case strings.HasPrefix(p.rest, "&&"), strings.HasPrefix(p.rest, "[:"):
			return nil, fmt.Errorf("%q in a class is not supported", p.rest[:2])
		}
		part, err := p.classPart()
		if err != nil {
			return nil, err
		}
		if p.fold {
			folded, ok := part.foldASCII()
			if !ok {
				return nil, errors.New("other than ASCII in a group (?i) is not supported")
			}
			part = folded
		}
		set = set.union(part)
	}
}

// classPart reads a character, a range, a property or a class inside a class.
func (p *reParser) classPart() (runeSet, error) {
	if p.accept("[") {
		return p.classSet()
	}
	from, several, err := p.classChar()
	if err != nil || several || !strings.HasPrefix(p.rest, "-") || strings.HasPrefix(p.rest, "-]") {
		return from, err
	}
	p.accept("-")
	if strings.HasPrefix(p.rest, "[") {
		return nil, errors.New("a range up to a class is not supported")
	}
	if p.rest == "" {
		return nil, errors.New("a ] is missing")
	}
	to, several, err := p.classChar()
	if err != nil {
		return nil, err
	}
	if several || from[0][0] > to[0][0] {
		return nil, errors.New("a range that runs backwards, or up to a class, is not supported")
	}
	return runeSet{{from[0][0], to[0][0]}}, nil
}

// classChar reads one character of a class, or an escape that stands for several.
func (p *reParser) classChar() (set runeSet, several bool, err error) {
	if p.accept("\\") {
		return p.escaped()
	}
	return runesOf(p.char()), false, nil
}
