package tokenizer

import "unicode/utf8"

// A thread is one way to go on in a search for the leftmost match: an instruction and where its match started.
type thread struct {
	pc    int32
	start int
}

// search finds the leftmost match at or after at by following all starts at once (Pike's algorithm). It is
// slower than the automaton, which has to be told a start, but looks at each character once.
func (re *regex) search(r *run, s string, at int) (start, end int) {
	p := re.program
	now, next := r.threads[0][:0], r.threads[1][:0]
	if len(r.visits) < len(p.code) {
		r.visits = make([]int, maxProgram)
	}
	clear(r.visits[:len(p.code)])
	start, end = -1, -1
	for i := at; ; {
		n, class := 0, re.stride-1
		if i < len(s) {
			c, size := utf8.DecodeRuneInString(s[i:])
			n, class = size, p.classes.class(c)
		}
		if start < 0 {
			now = append(now, thread{p.start, i})
		}
		next = next[:0]
		for _, t := range now {
			if re.advance(r, t, class, i, &next) {
				start, end = t.start, i
				break
			}
		}
		if n == 0 || len(next) == 0 && start >= 0 {
			break
		}
		now, next = next, now
		i += n
	}
	r.threads = [2][]thread{now[:0], next[:0]}
	return start, end
}

// advance is the builder's follow for one thread. An instruction is followed once before each character: the
// first way to it is the preferred one.
func (re *regex) advance(r *run, t thread, class, i int, next *[]thread) (match bool) {
	if r.visits[t.pc] == i+1 {
		return false
	}
	r.visits[t.pc] = i + 1
	switch in := &re.program.code[t.pc]; in.op {
	case opMatch:
		return true
	case opSet:
		if in.classes[class] {
			*next = append(*next, thread{in.next, t.start})
		}
	case opLook:
		return in.classes[class] && re.advance(r, thread{in.next, t.start}, class, i, next)
	case opStart:
		return i == 0 && re.advance(r, thread{in.next, t.start}, class, i, next)
	case opAlt:
		return re.advance(r, thread{in.next, t.start}, class, i, next) || re.advance(r, thread{in.other, t.start}, class, i, next)
	}
	return false
}
