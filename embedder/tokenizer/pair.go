package tokenizer

import (
	"errors"
	"math"
)

// A segment is a templatePart of a finished Tokenizer.
type segment struct {
	ids  []int32
	text int
	typ  int32
}

var errNoPairs = errors.New("the tokenizer's post_processor has no place for two texts in \"pair\"")

// CheckPairs returns an error if the tokenizer's files don't say how two texts are put together.
func (t *Tokenizer) CheckPairs() error {
	if t.pair == nil {
		return errNoPairs
	}
	return nil
}

// EncodePair appends to ids the ids of two texts put together as the model wants it, and to types the token
// type id of each: a query and a document, for instance, of which a reranker says how well they fit. It
// reports whether anything was cut.
//
// At most max ids are appended. As in Hugging Face (strategy longest_first), tokens are dropped from the end
// of the longer text until both are equally long, then from both. With max <= 0 there is no limit. Special
// tokens are cut only if max has no room for them. Where [Tokenizer.CheckPairs] has an error, the two texts
// follow each other without special tokens and with types 0 and 1, which is what Hugging Face does with a
// tokenizer that has no post_processor.
func (t *Tokenizer) EncodePair(ids, types []int32, first, second string, max int) (_, _ []int32, truncated bool) {
	template, special := t.pair, t.pairSpecial
	if template == nil {
		template = []segment{{text: 1}, {text: 2, typ: 1}}
		special = 0
	}
	room := math.MaxInt32
	if max > 0 {
		room = maxOf(0, max-special)
	}
	a, b := t.content(first, room), t.content(second, room)
	lenA, lenB := share(len(a.ids), len(b.ids), room, func() bool { return t.longer(first, second, max) })
	truncated = lenA < len(a.ids) || lenB < len(b.ids)
	start := len(ids)
	for _, s := range template {
		part := s.ids
		switch s.text {
		case 1:
			part = a.ids[:lenA]
		case 2:
			part = b.ids[:lenB]
		}
		ids = append(ids, part...)
		for range part {
			types = append(types, s.typ)
		}
	}
	t.runs.Put(a)
	t.runs.Put(b)
	if over := len(ids) - start - max; max > 0 && over > 0 { // not even the special tokens fit
		truncated = true
		ids, types = ids[:len(ids)-over], types[:len(types)-over]
	}
	return ids, types, truncated
}

// share returns how many ids of each text stay where there is room for so many. Lengths above room may be
// anything above. Where both texts are cut, the longer one gets an odd id, of equals the second.
func share(lenA, lenB, room int, longer func() bool) (a, b int) {
	half := room / 2
	switch {
	case lenA+lenB <= room:
		return lenA, lenB
	case lenA <= half:
		return lenA, room - lenA
	case lenB <= half:
		return room - lenB, lenB
	case room%2 == 1 && longer():
		return half + 1, half
	}
	return half, room - half
}

// longer reports whether the first of two texts counts as the longer one. Hugging Face stops encoding a text
// behind the word in which max is reached, and compares what it has then.
func (t *Tokenizer) longer(first, second string, max int) bool {
	count := func(text string) int {
		r := t.newRun(max - 1)
		r.finish = true
		t.fill(r, text)
		n := len(r.ids)
		t.runs.Put(r)
		return n
	}
	return count(first) > count(second)
}

// content encodes a text until there are more ids than limit. The caller puts the run back.
func (t *Tokenizer) content(text string, limit int) *run {
	r := t.newRun(limit)
	t.fill(r, text)
	return r
}
