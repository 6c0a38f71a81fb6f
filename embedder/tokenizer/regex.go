package tokenizer

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// A regex finds what Oniguruma's backtracking finds, in time that is linear in the text: a deterministic
// automaton, made when the file is loaded, whose states are lists of ways to go on, the preferred ones first.
// What a state does depends on the next character, or on that there is none, so that an expression may look
// one character ahead.
type regex struct {
	source  string
	program *reProgram
	moves   []move // by state and class; the stride is the number of classes with the end of the text
	stride  int
	first   int32 // the state at the start of a text
	inner   int32 // the state anywhere else
}

// A move is what a state does before a character of one class.
type move struct {
	next  int32 // dead if the text ends or nothing goes on
	match bool  // a match ends before the character
}

const dead = -1

// maxStates bounds the automaton. GPT-4o's expression has some dozens.
const maxStates = 2048

// newRegex compiles an expression of tokenizer.json. One that matches the empty text is refused: among
// characters it would match everywhere, and nobody means that.
func newRegex(pattern string) (*regex, error) {
	wrap := func(err error) error { return fmt.Errorf("regular expression %q: %w", short([]byte(pattern)), err) }
	n, err := parseRegex(pattern)
	if err != nil {
		return nil, wrap(err)
	}
	if n.nullable() {
		return nil, wrap(fmt.Errorf("matching nothing is not supported"))
	}
	p, err := compileProgram(n)
	if err != nil {
		return nil, wrap(err)
	}
	b := &reBuilder{regex: &regex{source: pattern, program: p, stride: p.classes.count + 1}, states: map[string]int32{}}
	if !b.build() {
		return nil, wrap(errTooLarge)
	}
	return b.regex, nil
}

// A reBuilder makes the automaton of a program.
type reBuilder struct {
	*regex
	states map[string]int32
	lists  [][]int32 // of each state: instructions to go on at, the preferred first
	seen   []bool    // by instruction, while one move is made
}

func (b *reBuilder) build() bool {
	b.seen = make([]bool, len(b.program.code))
	b.inner = b.state([]int32{b.program.start})
	// The start of a text is another state with the same list: only there \A holds.
	b.first = int32(len(b.lists))
	b.lists = append(b.lists, []int32{b.program.start})
	for len(b.moves) < len(b.lists)*b.stride { // lists grow
		s := int32(len(b.moves) / b.stride)
		for class := range b.stride {
			b.moves = append(b.moves, b.move(s, class))
		}
		if len(b.lists) > maxStates {
			return false
		}
	}
	return true
}

func (b *reBuilder) state(list []int32) int32 {
	if len(list) == 0 {
		return dead
	}
	key := make([]byte, 0, 4*len(list))
	for _, pc := range list {
		key = binary.LittleEndian.AppendUint32(key, uint32(pc))
	}
	n, ok := b.states[string(key)]
	if !ok {
		n = int32(len(b.lists))
		b.states[string(key)] = n
		b.lists = append(b.lists, list)
	}
	return n
}

// move follows every instruction of a state before a character of the given class.
func (b *reBuilder) move(state int32, class int) move {
	clear(b.seen)
	var next []int32
	match := false
	for _, pc := range b.lists[state] {
		if b.follow(pc, class, state == b.first, &next) {
			match = true // what is less preferred than a match doesn't count any more
			break
		}
	}
	// Two ways to the same instruction are one, the preferred.
	unique := next[:0:0]
	clear(b.seen)
	for _, pc := range next {
		if !b.seen[pc] {
			b.seen[pc] = true
			unique = append(unique, pc)
		}
	}
	return move{b.state(unique), match}
}

// follow appends to next where an instruction leads behind the character, and reports a match before it.
func (b *reBuilder) follow(pc int32, class int, start bool, next *[]int32) (match bool) {
	if b.seen[pc] {
		return false
	}
	b.seen[pc] = true
	switch in := &b.program.code[pc]; in.op {
	case opMatch:
		return true
	case opSet:
		if in.classes[class] {
			*next = append(*next, in.next)
		}
	case opLook:
		return in.classes[class] && b.follow(in.next, class, start, next)
	case opStart:
		return start && b.follow(in.next, class, start, next)
	case opAlt:
		return b.follow(in.next, class, start, next) || b.follow(in.other, class, start, next)
	}
	return false
}

// match returns the end of the match that starts at s[at:], or -1; open says that it might be another one if
// the text went on; far is how far the text was looked at.
func (re *regex) match(s string, at int) (end, far int, open bool) {
	state := re.inner
	if at == 0 {
		state = re.first
	}
	end = -1
	i := at
	for i < len(s) {
		c, n := rune(s[i]), 1
		if c >= utf8.RuneSelf {
			c, n = utf8.DecodeRuneInString(s[i:])
		}
		m := re.moves[int(state)*re.stride+re.program.classes.class(c)]
		if m.match {
			end = i
		}
		if m.next == dead {
			return end, i, false
		}
		state = m.next
		i += n
	}
	if re.moves[int(state)*re.stride+re.stride-1].match {
		end = i
	}
	return end, i, true
}

// patience is how many bytes a search may look at in vain before it gives up trying one start after another.
const patience = 64

// find returns the first match at or after at, the leftmost and of those the preferred; start is -1 if there
// is none. open says that it might be another one if the text went on.
func (re *regex) find(r *run, s string, at int) (start, end int, open bool) {
	for at < len(s) {
		end, far, touched := re.match(s, at)
		open = open || touched
		if end >= 0 {
			return at, end, open
		}
		if far-at > patience {
			start, end = re.search(r, s, at)
			return start, end, true
		}
		_, n := utf8.DecodeRuneInString(s[at:])
		at += n
	}
	return -1, -1, true
}
