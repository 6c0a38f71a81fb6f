package tokenizer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A piece is an entry of a vocabulary.
type piece struct {
	token string
	id    int32
	score float64 // Unigram only
}

// A vocabulary is a model's pieces, sorted by token.
type vocabulary []piece

// maxToken is the longest piece in bytes; published vocabularies stay below 300.
const maxToken = 4096

// newVocabulary sorts pieces and refuses ids or tokens that are there twice.
func newVocabulary(pieces []piece) (vocabulary, error) {
	for _, p := range pieces {
		if len(p.token) > maxToken {
			return nil, fmt.Errorf("model: token %d has %d bytes, at most %d are supported", p.id, len(p.token), maxToken)
		}
	}
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.id, b.id) })
	for i := 1; i < len(pieces); i++ {
		if a, b := pieces[i-1], pieces[i]; a.id == b.id {
			return nil, fmt.Errorf("model: tokens %q and %q both have id %d", a.token, b.token, a.id)
		}
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.token, b.token) })
	for i := 1; i < len(pieces); i++ {
		if a, b := pieces[i-1], pieces[i]; a.token == b.token {
			return nil, fmt.Errorf("model: token %q has two ids, %d and %d", a.token, a.id, b.id)
		}
	}
	return pieces, nil
}

func (v vocabulary) id(token string) (int32, bool) {
	i, ok := slices.BinarySearchFunc(v, token, func(p piece, s string) int { return cmp.Compare(p.token, s) })
	if !ok {
		return none, false
	}
	return v[i].id, true
}

// highest returns the piece with the highest id.
func (v vocabulary) highest() namedID {
	top := namedID{id: none}
	for _, p := range v {
		if p.id > top.id {
			top = namedID{p.token, p.id}
		}
	}
	return top
}

// A vocabScanner reads the vocabulary of a tokenizer.json, which is most of the file: a quarter of a million
// entries are read several times faster than encoding/json would. It relies on the JSON being valid, which
// decoding the outer object has made sure of.
type vocabScanner struct {
	b  []byte
	at int
}

// skip moves behind white space and the separators between values, and returns the byte there.
func (s *vocabScanner) skip() byte {
	for ; s.at < len(s.b); s.at++ {
		switch c := s.b[s.at]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
		default:
			return c
		}
	}
	return 0
}

// open moves behind an opening bracket and reports whether it was there.
func (s *vocabScanner) open(bracket byte) bool {
	if s.skip() != bracket {
		return false
	}
	s.at++
	return true
}

// text reads a string.
func (s *vocabScanner) text() (string, error) {
	if s.skip() != '"' {
		return "", fmt.Errorf("model: %s in the vocabulary is not a string", short(s.b[s.at:]))
	}
	start, escaped := s.at, false
	for s.at++; s.b[s.at] != '"'; s.at++ {
		if s.b[s.at] == '\\' {
			escaped = true
			s.at++
		}
	}
	s.at++
	if !escaped {
		return string(s.b[start+1 : s.at-1]), nil
	}
	var out string
	err := json.Unmarshal(s.b[start:s.at], &out)
	return out, err
}

// value returns the bytes of a number, and of whatever else may wrongly be in its place.
func (s *vocabScanner) value() []byte {
	s.skip()
	start := s.at
	for s.at < len(s.b) {
		switch s.b[s.at] {
		case ' ', '\t', '\n', '\r', ',', ']', '}':
			return s.b[start:s.at]
		}
		s.at++
	}
	return s.b[start:]
}

// scanIDs reads {"token": id, ...}.
func scanIDs(raw []byte) (pieces []piece, err error) {
	s := vocabScanner{b: raw}
	if !s.open('{') {
		return nil, fmt.Errorf("model: field \"vocab\" is %s, not an object", short(raw))
	}
	for s.skip() != '}' {
		var p piece
		if p.token, err = s.text(); err != nil {
			return nil, err
		}
		v := s.value()
		if p.id, err = parseID(v); err != nil {
			return nil, fmt.Errorf("model: token %q: %w", p.token, err)
		}
		pieces = append(pieces, p)
	}
	return pieces, nil
}

// maxID keeps ids, and ids plus one, within int32.
const maxID = 1<<31 - 2

func parseID(digits []byte) (int32, error) {
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' || n > maxID {
			return 0, fmt.Errorf("%s is not an id (0 to %d)", short(digits), maxID)
		}
		n = 10*n + int(c-'0')
	}
	if len(digits) == 0 || n > maxID {
		return 0, fmt.Errorf("%s is not an id (0 to %d)", short(digits), maxID)
	}
	return int32(n), nil
}

// scanScores reads [["token", score], ...]; the id of a piece is its place.
func scanScores(raw []byte) (pieces []piece, err error) {
	s := vocabScanner{b: raw}
	if !s.open('[') {
		return nil, fmt.Errorf("model: field \"vocab\" is %s, not an array", short(raw))
	}
	for s.skip() != ']' {
		p := piece{id: int32(len(pieces))}
		if !s.open('[') {
			return nil, fmt.Errorf("model: vocabulary entry %d is not a pair", p.id)
		}
		if p.token, err = s.text(); err != nil {
			return nil, err
		}
		if p.score, err = parseScore(s.value()); err != nil {
			return nil, fmt.Errorf("model: token %q: %w", p.token, err)
		}
		if s.skip() != ']' {
			return nil, fmt.Errorf("model: vocabulary entry %d is not a pair", p.id)
		}
		s.at++
		pieces = append(pieces, p)
	}
	return pieces, nil
}

// parseScore reads a number as serde_json does, which is what Hugging Face's code reads it with: the digits
// as an integer, times or over a power of ten. With 17 digits that may be one unit in the last place off the
// nearest float64, which strconv would return, and the best of two almost equal ways through a word may
// hang on it.
func parseScore(text []byte) (float64, error) {
	digits, exponent, ok := decimal(text)
	if !ok {
		return 0, fmt.Errorf("%s is not a score", short(text))
	}
	f := float64(digits)
	for ; exponent < -308 && f != 0; exponent += 308 {
		f /= 1e308
	}
	switch {
	case exponent > 308:
		f = math.Inf(1)
	case exponent >= 0:
		f *= math.Pow10(exponent)
	default:
		f /= math.Pow10(-exponent)
	}
	if math.IsInf(f, 0) {
		return 0, fmt.Errorf("%s is too large for a score", short(text))
	}
	if text[0] == '-' {
		f = -f
	}
	return f, nil
}

// decimal splits a JSON number, without its sign, into an integer and a power of ten. Digits that don't fit
// into 64 bits are dropped.
func decimal(text []byte) (digits uint64, exponent int, ok bool) {
	if len(text) > 0 && text[0] == '-' {
		text = text[1:]
	}
	point, full := false, false
	for i, c := range text {
		switch {
		case c == '.' && !point:
			point = true
			continue
		case (c == 'e' || c == 'E') && i > 0:
			e, valid := parseExponent(text[i+1:])
			return digits, exponent + e, valid
		case c < '0' || c > '9':
			return 0, 0, false
		}
		d := uint64(c - '0')
		full = full || digits > (math.MaxUint64-d)/10
		if !full {
			digits = 10*digits + d
		}
		if point && !full {
			exponent--
		} else if !point && full {
			exponent++
		}
	}
	return digits, exponent, len(text) > 0
}

func parseExponent(text []byte) (e int, ok bool) {
	sign := 1
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		if text[0] == '-' {
			sign = -1
		}
		text = text[1:]
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		e = min(10*e+int(c-'0'), 1000) // beyond any float64
	}
	return sign * e, len(text) > 0
}

// scanMerges reads [["left", "right"], ...], or ["left right", ...] as older files have it.
func scanMerges(raw []byte) (pairs [][2]string, err error) {
	s := vocabScanner{b: raw}
	if !s.open('[') {
		return nil, fmt.Errorf("model: field \"merges\" is %s, not an array", short(raw))
	}
	for s.skip() != ']' {
		parts, err := s.merge()
		if err != nil {
			return nil, err
		}
		if len(parts) == 1 && strings.HasPrefix(parts[0], "#version") {
			continue
		}
		if len(parts) != 2 {
			return nil, fmt.Errorf("model: merge %d has %d parts, want 2", len(pairs), len(parts))
		}
		pairs = append(pairs, [2]string(parts))
	}
	return pairs, nil
}

func (s *vocabScanner) merge() (parts []string, err error) {
	if !s.open('[') {
		line, err := s.text()
		if strings.HasPrefix(line, "#version") {
			return []string{line}, err
		}
		return strings.Split(line, " "), err
	}
	for s.skip() != ']' {
		part, err := s.text()
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	s.at++
	return parts, nil
}
