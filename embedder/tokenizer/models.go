package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// The functions here read a model with the normaliser and pre-tokeniser that belong to it. The three are read
// together because only certain combinations are in use, and only those are tested: a WordPiece with some
// other pre-tokeniser would load and be wrong without anybody noticing. Fields are taken before the vocabulary
// is looked at, so that a file is refused for what it is before a megabyte of it is read.

// parseWordPiece reads a WordPiece model with BERT's normaliser and pre-tokeniser.
func (d *definition) parseWordPiece(o *object, n, p *components) error {
	s := wordPieceSettings{unknown: "[UNK]", inside: "##", maxChars: 100}
	o.into("unk_token", &s.unknown)
	o.into("continuing_subword_prefix", &s.inside)
	o.into("max_input_chars_per_word", &s.maxChars)
	vocab := o.raw("vocab")

	b := n.must("BertNormalizer", "WordPiece")
	s.clean, s.cjk = b.flag("clean_text", true), b.flag("handle_chinese_chars", true)
	s.lower = b.flag("lowercase", true)
	s.strip = b.flag("strip_accents", s.lower) // null, the usual value, follows lowercase
	p.must("BertPreTokenizer", "WordPiece")
	if err := firstError(n.finish, p.finish, o.finish); err != nil {
		return err
	}
	pieces, err := scanIDs(vocab)
	if err != nil {
		return err
	}
	return d.useWordPiece(pieces, s)
}

// wordPieceSettings are what a WordPiece tokenizer has besides its vocabulary.
type wordPieceSettings struct {
	bertOptions
	unknown  string // the token of words that can't be cut
	inside   string // the prefix of pieces that don't start a word
	maxChars int
}

func (d *definition) useWordPiece(pieces []piece, s wordPieceSettings) (err error) {
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
	d.pipe = newBERT(s.bertOptions, wordPiece{pieces: t, inside: t.walk(s.inside), unknown: unknown, maxChars: s.maxChars})
	return nil
}

// parseUnigram reads a Unigram model with the normalisers and pre-tokenisers of XLM-R in any of its layouts.
func (d *definition) parseUnigram(o *object, n, p *components) error {
	o.only("byte_fallback", false)
	unknown := int32(none)
	o.require("unk_id", &unknown)
	vocab := o.raw("vocab")
	sp := &sentencePiece{}
	if err := sp.normalizers(n); err != nil {
		return err
	}
	if p.next("WhitespaceSplit") != nil {
		sp.splitSpace = true
	}
	m := p.must("Metaspace", "Unigram")
	m.only("replacement", string(metaspace))
	m.only("prepend_scheme", "always")
	m.only("add_prefix_space", true) // the older name of "always"
	m.only("split", true)
	m.ignore("str_rep") // the replacement once more
	if err := firstError(n.finish, p.finish, o.finish); err != nil {
		return err
	}
	pieces, err := scanScores(vocab)
	if err != nil {
		return err
	}
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
	sp.model = unigram{pieces: t, scores: scores, unknown: unknown, unknownScore: worst - unknownPenalty}
	d.lookup, d.pipe = t.lookup, sp
	return nil
}

// normalizers reads what may precede XLM-R's words: Precompiled, Strip of the right side, and Replace of
// several spaces by one, each optional, in this order.
func (p *sentencePiece) normalizers(n *components) error {
	if o := n.next("Precompiled"); o != nil {
		var encoded string
		o.require("precompiled_charsmap", &encoded)
		if o.err != nil {
			return o.err
		}
		m, err := newCharsmap(encoded)
		if err != nil {
			return fmt.Errorf("%s: %w", o.where, err)
		}
		p.charsmap = m
	}
	if o := n.next("Strip"); o != nil {
		o.only("strip_left", false)
		p.stripRight = o.flag("strip_right", true)
	}
	if o := n.next("Replace"); o != nil {
		var pattern struct{ Regex, String *string }
		o.require("pattern", &pattern)
		if pattern.Regex == nil || *pattern.Regex != " {2,}" {
			o.refuse(": only the pattern \" {2,}\" is supported")
		}
		if to := o.text("content"); to != " " {
			o.refuse(": only a space is supported as content, not %q", to)
		}
		p.collapse = true
	}
	return nil
}

// parseBPE reads a byte-level BPE model, as GPT-2 and RoBERTa have it.
func (d *definition) parseBPE(o *object, n, p *components) error {
	for _, name := range []string{"continuing_subword_prefix", "end_of_word_suffix"} {
		o.only(name, "")
	}
	var dropout float64
	if o.into("dropout", &dropout); dropout != 0 {
		o.refuse(": dropout of %g makes ids random and is not supported", dropout)
	}
	o.only("ignore_merges", false)
	// Each byte has a piece, which is checked below, so nothing is ever unknown.
	o.ignore("unk_token", "fuse_unk", "byte_fallback")
	vocab, merges := o.raw("vocab"), o.raw("merges")
	b := p.must("ByteLevel", "BPE")
	b.only("use_regex", true)
	b.ignore("trim_offsets") // offsets are not computed
	pipe := &byteLevel{prefixSpace: b.flag("add_prefix_space", true)}
	if err := firstError(n.finish, p.finish, o.finish); err != nil {
		return err
	}
	pieces, err := scanIDs(vocab)
	if err != nil {
		return err
	}
	if d.vocab, err = newVocabulary(pieces); err != nil {
		return err
	}
	for b, c := range byteChars() {
		id, ok := d.vocab.id(string(c))
		if !ok {
			return fmt.Errorf("model: no piece %q for byte %#02x in the vocabulary: this is not a byte-level BPE", string(c), b)
		}
		pipe.model.bytes[b] = id
	}
	list, err := d.parseMerges(merges)
	if err != nil {
		return err
	}
	// The trie is only for looking up names here: merging needs pairs, not prefixes.
	pipe.model.merges = newMergeTable(list)
	d.pipe, d.lookup = pipe, newTrie(d.vocab).lookup
	return nil
}

// parseMerges reads merges in either form, "left right" or ["left", "right"].
func (d *definition) parseMerges(raw json.RawMessage) ([]merge, error) {
	var pairs [][]string
	if json.Unmarshal(raw, &pairs) != nil {
		var lines []string
		if err := json.Unmarshal(raw, &lines); err != nil {
			return nil, fmt.Errorf("model: field \"merges\": %w", err)
		}
		pairs = pairs[:0]
		for _, l := range lines {
			if !strings.HasPrefix(l, "#version") {
				pairs = append(pairs, strings.Split(l, " "))
			}
		}
	}
	merges := make([]merge, len(pairs))
	for rank, p := range pairs {
		if len(p) != 2 {
			return nil, fmt.Errorf("model: merge %d has %d parts, want 2", rank, len(p))
		}
		left, ok1 := d.vocab.id(p[0])
		right, ok2 := d.vocab.id(p[1])
		whole, ok3 := d.vocab.id(p[0] + p[1])
		if !ok1 || !ok2 || !ok3 {
			return nil, fmt.Errorf("model: merge %d, %q and %q, has a token that is not in the vocabulary", rank, p[0], p[1])
		}
		merges[rank] = merge{pair: pairOf(left, right), rank: uint32(rank), id: whole}
	}
	return merges, nil
}
