package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Of a model, fields are taken before the vocabulary is looked at, so that a file is refused for what it is
// before a megabyte of it is read.

// parseWordPiece reads a WordPiece model.
func (d *definition) parseWordPiece(o *object, c *components) error {
	s := wordPieceSettings{unknown: "[UNK]", inside: "##", maxChars: 100}
	o.into("unk_token", &s.unknown)
	o.into("continuing_subword_prefix", &s.inside)
	o.into("max_input_chars_per_word", &s.maxChars)
	vocab := o.raw("vocab")
	if c.bytes {
		o.refuse(" \"WordPiece\" is not supported with pre_tokenizer \"ByteLevel\"")
	}
	if err := o.finish(); err != nil {
		return err
	}
	pieces, err := scanIDs(vocab)
	if err != nil {
		return err
	}
	return d.useWordPiece(pieces, s, c)
}

// wordPieceSettings are what a WordPiece model has besides its vocabulary.
type wordPieceSettings struct {
	unknown  string // the token of words that can't be cut
	inside   string // the prefix of pieces that don't start a word
	maxChars int
}

func (d *definition) useWordPiece(pieces []piece, s wordPieceSettings, c *components) (err error) {
	if d.vocab, err = newVocabulary(pieces); err != nil {
		return err
	}
	if s.maxChars < 0 {
		return fmt.Errorf("model: %d as max_input_chars_per_word is not supported", s.maxChars)
	}
	unknown, ok := d.vocab.id(s.unknown)
	if !ok {
		return fmt.Errorf("model: the unknown token %q is not in the vocabulary", s.unknown)
	}
	t := newTrie(d.vocab)
	d.lookup = t.lookup
	m := wordPiece{pieces: t, inside: t.walk(s.inside), unknown: unknown, maxChars: s.maxChars}
	if options, ok := c.isBERT(); ok {
		d.pipe = newBERT(options, m)
	} else {
		d.pipe = c.pipeline(&m)
	}
	return nil
}

// parseUnigram reads a Unigram model.
func (d *definition) parseUnigram(o *object, c *components) error {
	s := unigramSettings{unknown: none}
	o.require("unk_id", &s.unknown)
	s.fallback = o.flag("byte_fallback", false)
	vocab := o.raw("vocab")
	if c.bytes {
		o.refuse(" \"Unigram\" is not supported with pre_tokenizer \"ByteLevel\"")
	}
	if err := o.finish(); err != nil {
		return err
	}
	pieces, err := scanScores(vocab)
	if err != nil {
		return err
	}
	return d.useUnigram(pieces, s, c)
}

// unigramSettings are what a Unigram model has besides its vocabulary.
type unigramSettings struct {
	unknown  int32
	fallback bool // unknown characters become their bytes
}

// useUnigram takes pieces in the order of their ids.
func (d *definition) useUnigram(pieces []piece, s unigramSettings, c *components) (err error) {
	unknown := s.unknown
	if unknown < 0 || int(unknown) >= len(pieces) {
		return fmt.Errorf("model: unk_id %d is not an id of the vocabulary (0 to %d)", unknown, len(pieces)-1)
	}
	// The worst score is taken over all entries, special tokens (which have 0) included, as Hugging Face does.
	worst := math.Inf(1)
	scores := make([]float64, len(pieces))
	for i, p := range pieces {
		scores[i] = p.score
		worst = min(worst, p.score)
	}
	if d.vocab, err = newVocabulary(pieces); err != nil { // sorts pieces: scores are taken out before
		return err
	}
	t := newTrie(d.vocab)
	m := unigram{pieces: t, scores: scores, unknown: unknown, unknownScore: worst - unknownPenalty}
	if s.fallback {
		if err := m.fallBack(); err != nil {
			return err
		}
	}
	d.lookup = t.lookup
	if p := c.sentencePiece(); p != nil {
		p.model = m
		d.pipe = p
	} else {
		d.pipe = c.pipeline(&m)
	}
	return nil
}

// hasLate reports whether any added token is sought in normalised text.
func (d *definition) hasLate() bool {
	return slices.ContainsFunc(d.added, func(a addedToken) bool { return a.normalized })
}

// byteFallback returns the ids of the pieces <0x00> to <0xFF>, and none for those that don't exist.
func byteFallback(t trie) *[256]int32 {
	var ids [256]int32
	for b := range ids {
		id, ok := t.lookup(fmt.Sprintf("<0x%02X>", b))
		if !ok {
			id = none
		}
		ids[b] = id
	}
	return &ids
}

// fallBack finds the pieces of bytes. Without any there is none to fall back to, as in Hugging Face; with some,
// what becomes of a character hangs on its neighbours, which is refused.
func (m *unigram) fallBack() error {
	ids := byteFallback(m.pieces)
	missing := slices.Index(ids[:], none)
	if missing < 0 {
		m.fallback = ids
		return nil
	}
	if slices.ContainsFunc(ids[:], func(id int32) bool { return id != none }) {
		return fmt.Errorf("model: \"byte_fallback\" is not supported without the piece \"<0x%02X>\"", missing)
	}
	return nil
}

// parseBPE reads a BPE model, of bytes (GPT-2 and what came after it) or of characters (Gemma, Llama 2).
func (d *definition) parseBPE(o *object, c *components) error {
	m := &bpe{unknown: none}
	var dropout float64
	if o.into("dropout", &dropout); dropout != 0 {
		o.refuse(": dropout of %g makes ids random and is not supported", dropout)
	}
	unknown := o.text("unk_token")
	m.inside, m.suffix = o.text("continuing_subword_prefix"), o.text("end_of_word_suffix")
	m.fuse, m.whole = o.flag("fuse_unk", false), o.flag("ignore_merges", false)
	fallback := o.flag("byte_fallback", false)
	vocab, merges := o.raw("vocab"), o.raw("merges")
	if c.bytes && m.inside+m.suffix != "" {
		o.refuse(": \"continuing_subword_prefix\" and \"end_of_word_suffix\" are not supported with pre_tokenizer \"ByteLevel\"")
	}
	if err := o.finish(); err != nil {
		return err
	}
	pieces, err := scanIDs(vocab)
	if err != nil {
		return err
	}
	if d.vocab, err = newVocabulary(pieces); err != nil {
		return err
	}
	m.pieces = newTrie(d.vocab)
	if c.bytes {
		err = m.alphabet()
	} else {
		if fallback {
			m.fallback = byteFallback(m.pieces)
		}
		err = m.unknowns(unknown)
	}
	if err != nil {
		return err
	}
	if err := m.readMerges(merges); err != nil {
		return err
	}
	d.pipe, d.lookup = c.pipeline(m), m.pieces.lookup
	return nil
}

// alphabet finds the pieces of single bytes. With all of them nothing is ever unknown.
func (m *bpe) alphabet() error {
	m.bytes = newByteAlphabet()
	for b, c := range m.bytes.chars {
		id, ok := m.pieces.lookup(c)
		if !ok {
			return fmt.Errorf("model: no piece %q for byte %#02x in the vocabulary: this is not a byte-level BPE", c, b)
		}
		m.bytes.ids[b] = id
	}
	return nil
}

// unknowns finds what stands for characters that aren't in the vocabulary.
func (m *bpe) unknowns(token string) error {
	if token == "" {
		return nil
	}
	id, ok := m.pieces.lookup(token)
	if !ok {
		return fmt.Errorf("model: the unknown token %q is not in the vocabulary", token)
	}
	m.unknown = id
	return nil
}

// readMerges reads merges in either form, "left right" or ["left", "right"].
func (m *bpe) readMerges(raw json.RawMessage) error {
	pairs, err := scanMerges(raw)
	if err != nil {
		return err
	}
	merges := make([]merge, len(pairs))
	var joins []uint64
	for rank, p := range pairs {
		left, ok1 := m.pieces.lookup(p[0])
		right, ok2 := m.pieces.lookup(p[1])
		rest, inside := strings.CutPrefix(p[1], m.inside)
		whole, ok3 := m.pieces.lookup(p[0] + rest)
		if !ok1 || !ok2 || !ok3 || !inside {
			return fmt.Errorf("model: merge %d, %q and %q, has a token that is not in the vocabulary", rank, p[0], p[1])
		}
		merges[rank] = merge{pair: pairOf(left, right), rank: uint32(rank), id: whole}
		if m.bytes == nil {
			last, _ := utf8.DecodeLastRuneInString(p[0])
			first, _ := utf8.DecodeRuneInString(p[1])
			joins = append(joins, pairOf(last, first))
		}
	}
	m.merges = newMergeTable(merges)
	slices.Sort(joins)
	m.joins = newRunePairs(slices.Compact(joins))
	return nil
}
