package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// An addedToken is recognised as a whole before the text is split: special tokens, and words somebody added
// to a vocabulary afterwards. The names are those of tokenizer.json.
type addedToken struct {
	id         int32
	content    string
	singleWord bool // not as a part of a longer word
	lstrip     bool // swallows white space before it
	rstrip     bool // swallows white space behind it
	normalized bool // sought in the normalised text, in its own normalised form
}

// An addedSet finds added tokens in a text.
type addedSet struct {
	tokens []addedToken
	names  trie      // of the tokens' places in the list
	first  [256]bool // bytes that a token starts with
	only   int       // that byte if there is but one, else -1

	longest int // bytes of the longest token
}

func newAddedSet(tokens []addedToken) (addedSet, error) {
	a := addedSet{tokens: tokens, only: -1}
	seen := map[string]int32{}
	names := make([]piece, len(tokens))
	for i, t := range tokens {
		if t.content == "" {
			return a, fmt.Errorf("added token %d is empty once normalised", t.id)
		}
		if other, dup := seen[t.content]; dup {
			return a, fmt.Errorf("added tokens %d and %d are both %q once normalised", other, t.id, t.content)
		}
		seen[t.content] = t.id
		a.first[t.content[0]] = true
		names[i] = piece{token: t.content, id: int32(i)}
		a.longest = max(a.longest, len(t.content))
	}
	a.names = newTrie(names)
	if len(tokens) > 0 {
		c := tokens[0].content[0]
		if !slices.ContainsFunc(tokens, func(t addedToken) bool { return t.content[0] != c }) {
			a.only = int(c)
		}
	}
	return a, nil
}

func (a *addedSet) empty() bool { return len(a.tokens) == 0 }

// A finder walks over a text, from added token to added token. After next returned true, either id is an
// added token's or it is -1 and part is the text up to the next one. No part is empty.
type finder struct {
	set  *addedSet
	text string
	at   int // where the next match is sought
	done int // how far the text has been handed out

	start int // of part in the text
	part  string
	id    int32

	pending bool // a match was found but the text before it is handed out first
	found   match
}

// A match is an added token in a text, with the white space it swallows.
type match struct {
	start, stop int
	id          int32
}

func (a *addedSet) split(text string) finder { return finder{set: a, text: text} }

func (s *finder) next() bool {
	s.start = s.done
	if !s.pending {
		s.found, s.pending = s.set.find(s.text, &s.at, s.done)
	}
	if !s.pending {
		s.part, s.id, s.done = s.text[s.done:], -1, len(s.text)
		return s.part != ""
	}
	if s.done < s.found.start {
		s.part, s.id, s.done = s.text[s.done:s.found.start], -1, s.found.start
		return true
	}
	s.part, s.id, s.done, s.pending = "", s.found.id, s.found.stop, false
	return true
}

// find returns the leftmost, longest token at or after *at, and moves *at behind its name. White space that
// rstrip swallows is searched all the same: that is how Hugging Face's matcher, which knows nothing of
// swallowing, sees it.
func (a *addedSet) find(text string, at *int, done int) (match, bool) {
	for {
		start := a.candidate(text, *at)
		if start < 0 {
			return match{}, false
		}
		k, size := a.names.longest(root, text[start:])
		if size == 0 {
			*at = start + 1
			continue
		}
		t := &a.tokens[k]
		stop := start + len(t.content)
		*at = stop
		if t.singleWord && (endsInWord(text[:start]) || startsWithWord(text[stop:])) {
			continue // consumed all the same
		}
		if t.lstrip {
			start = max(len(strings.TrimRightFunc(text[:start], isSpace)), done)
		}
		if t.rstrip {
			stop = len(text) - len(strings.TrimLeftFunc(text[stop:], isSpace))
		}
		return match{start, stop, t.id}, true
	}
}

// candidate returns the next position at or after at where a token may start, or -1.
func (a *addedSet) candidate(text string, at int) int {
	if at >= len(text) || len(a.tokens) == 0 {
		return -1
	}
	if a.only >= 0 {
		i := strings.IndexByte(text[at:], byte(a.only))
		if i < 0 {
			return -1
		}
		return at + i
	}
	for ; at < len(text); at++ {
		if a.first[text[at]] {
			return at
		}
	}
	return -1
}

func endsInWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func startsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}
