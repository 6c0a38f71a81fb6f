package tokenizer

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"unicode/utf8"
	"unsafe"
)

// A Tokenizer holds one model's vocabulary and rules. It never changes after loading and is safe for
// concurrent use.
type Tokenizer struct {
	kind           string   // of the model: WordPiece, Unigram or BPE
	early, late    addedSet // added tokens sought in the raw text, and in the normalised one
	pipe           pipeline
	prefix, suffix []int32   // special tokens around a text
	pair           []segment // what goes around two texts; nil if the files don't say
	pairSpecial    int       // special tokens in it
	lookup         func(token string) (int32, bool)
	highest        namedID
	pad            int32
	warnings       []string
	runs           sync.Pool // of *run
}

// A namedID is a token with its id, for messages.
type namedID struct {
	token string
	id    int32
}

// A pipeline turns one section of a text, the part between two added tokens, into ids.
type pipeline interface {
	// encode appends the ids of a raw section to r until r is full.
	encode(r *run, section string)
	// encodeNormalized does the same with a section that normalize made, or a part of one.
	encodeNormalized(r *run, section string)
	// normalize returns what the model's normaliser makes of a section. The result may use r's memory and
	// is valid until r normalises again.
	normalize(r *run, section string) string
}

// A run is the memory of one Encode, kept in a pool so that none is allocated.
type run struct {
	ids   []int32 // of the text's content, without special tokens around it
	limit int     // how many ids are of use; one more is made, to know whether there were more

	first   bool        // the section is the beginning of the text, and normalising hasn't dropped what it begins with
	finish  bool        // EncodePair: a word is finished even if the limit is reached in it
	added   bool        // the last id is an added token's
	short   bool        // composed.go: more of the section is needed
	base    *byte       // composed.go: where the section's normalised text lies
	chain   [2][]byte   // normalizer.go: normalised text after every other step
	marked  []byte      // splitter.go: the piece with spaces marked
	runes   []rune      // normalform.go
	threads [2][]thread // regexsearch.go
	visits  []int

	word    []byte // the word being collected
	norm    []byte // normalised text of the block at hand
	late    []byte // normalised text in which late tokens are sought
	barrier int    // bert.go: marks of word are not sorted across this byte
	ready   int    // metaspace.go: bytes of norm that are final
	fresh   bool   // metaspace.go: nothing of the section has been seen
	enough  int    // metaspace.go: length from which an unfinished word is looked at
	nodes   []node // unigram.go
	path    []int32
	parts   []part // bpe.go
	waiting bool   // bpe.go: an unknown token has to be added
	heap    mergeHeap

	score   float64 // unigram.go: of the path up to the word's first byte
	unknown bool    // the last id of the word at hand is the unknown token
}

// view returns the text in a run's buffer without a copy. The buffer must not change while it is in use.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (r *run) full() bool { return len(r.ids) > r.limit }

// maxKept is how many elements a run's buffers may have to be kept for the next text. A rare text of
// megabytes should not hold memory for ever.
const maxKept = 1 << 16

func (r *run) reset() {
	if cap(r.ids)+cap(r.word)+cap(r.norm)+cap(r.late)+cap(r.nodes)+cap(r.parts)+
		cap(r.chain[0])+cap(r.chain[1])+cap(r.marked)+cap(r.runes)+cap(r.threads[0])+cap(r.threads[1]) > 6*maxKept {
		*r = run{}
	}
	r.ids, r.word, r.norm, r.late = r.ids[:0], r.word[:0], r.norm[:0], r.late[:0]
}

// New makes a Tokenizer from the content of a tokenizer.json. It refuses, by name, any component, value or
// model type that it does not implement, and ids that contradict each other.
func New(tokenizerJSON []byte) (*Tokenizer, error) {
	return fromJSON("tokenizer.json", tokenizerJSON, false)
}

// fromJSON names the file in every error. lower is sentence-transformers' do_lower_case.
func fromJSON(name string, data []byte, lower bool) (*Tokenizer, error) {
	d, err := parseDefinition(data, lower)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	t, err := d.build()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// Encode appends to dst the ids of text with the special tokens around it, at most max of them, and reports
// whether the text had more. Tokens are dropped from the end of the text, never from the special tokens;
// only if max has no room even for those are they cut too. With max <= 0 there is no limit.
//
// Bytes that are not UTF-8 are read as strings.ToValidUTF8(text, "\uFFFD") reads them. It allocates nothing
// if dst has room and text is valid UTF-8.
func (t *Tokenizer) Encode(dst []int32, text string, max int) (ids []int32, truncated bool) {
	r := t.run(text, max)
	content := r.ids
	if truncated = r.full(); truncated {
		content = content[:r.limit]
	}
	prefix, suffix := t.prefix, t.suffix
	if max > 0 && len(prefix)+len(suffix) > max {
		truncated = true
		prefix = prefix[:min(len(prefix), max)]
		suffix = suffix[:max-len(prefix)]
	}
	dst = append(append(append(dst, prefix...), content...), suffix...)
	t.runs.Put(r)
	return dst, truncated
}

// Count returns how many ids Encode makes of text, special tokens included, but stops counting above max:
// the result is at most max+1. With max <= 0 it counts to the end.
func (t *Tokenizer) Count(text string, max int) int {
	r := t.run(text, max)
	n := len(r.ids)
	if r.full() {
		n = r.limit + 1
	}
	t.runs.Put(r)
	return n + len(t.prefix) + len(t.suffix)
}

// run encodes text until more ids are there than max leaves room for. The caller puts the run back.
func (t *Tokenizer) run(text string, max int) *run {
	limit := math.MaxInt - 1
	if max > 0 {
		limit = maxOf(0, max-len(t.prefix)-len(t.suffix))
	}
	return t.content(text, limit)
}

// newRun takes a run from the pool.
func (t *Tokenizer) newRun(limit int) *run {
	r, ok := t.runs.Get().(*run)
	if !ok { // the pool is empty
		r = new(run)
	}
	r.reset()
	r.limit, r.finish = limit, false
	return r
}

// fill encodes text until r is full.
func (t *Tokenizer) fill(r *run, text string) {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	r.added = false
	for s := t.early.split(text); s.next() && r.wants(s.id); {
		if s.id < 0 {
			r.first = s.start == 0
			t.section(r, s.part)
		}
	}
}

// wants takes the id of an added token, or none for a part of text that comes next, and reports whether the
// latter is to be encoded. Where a word is to be finished, added tokens don't count as words: Hugging Face
// looks at its limit only behind a word.
func (r *run) wants(added int32) bool {
	if r.full() {
		if !r.finish || !r.added {
			return false
		}
		if added < 0 {
			r.limit = len(r.ids)
		}
	}
	if r.added = added >= 0; r.added {
		r.ids = append(r.ids, added)
	}
	return true
}

// maxOf is the built-in max, which the parameter of that name hides.
func maxOf(a, b int) int { return max(a, b) }

// section encodes what lies between two early tokens. Where late tokens are sought, a composed pipeline
// normalises as much as is needed; the others want all of it.
func (t *Tokenizer) section(r *run, text string) {
	if t.late.empty() {
		t.pipe.encode(r, text)
		return
	}
	p, composed := t.pipe.(*composed)
	if !composed {
		t.lateSection(r, nil, chunk{text: text})
		return
	}
	mark, first := len(r.ids), r.first
	for n := p.chain.block(text, p.guess(r, len(text))); ; n = p.chain.block(text, 4*n) {
		if t.lateSection(r, p, chunk{text[:n], n < len(text)}); !r.short {
			return
		}
		r.ids, r.first, r.added = r.ids[:mark], first, false
	}
}

// lateSection encodes a section, or the beginning of one, an open chunk: r.short is set if that isn't enough.
func (t *Tokenizer) lateSection(r *run, p *composed, c chunk) {
	r.short = false
	norm := t.pipe.normalize(r, c.text)
	sure := len(norm)
	if c.open { // what comes may be a token that begins before it and swallows white space
		sure = len(strings.TrimRightFunc(norm[:runeStart(norm, max(0, sure-t.late.longest))], isSpace))
	}
	for s := t.late.split(norm); s.next(); {
		if s.done > sure && s.id < 0 {
			r.first = r.first && s.start == 0
			if s.start < sure && r.wants(none) {
				p.begin(r, chunk{norm[s.start:sure], true})
			}
		}
		if s.done > sure {
			break
		}
		if !r.wants(s.id) {
			return
		}
		if s.id < 0 {
			r.first = r.first && s.start == 0
			t.pipe.encodeNormalized(r, s.part)
		}
	}
	r.short = c.open && !r.full()
}

// PadID returns the id that fills rows of unequal length. It is that of the padding token which
// tokenizer_config.json or special_tokens_map.json names, else of tokenizer.json's padding section, else of
// a token called [PAD] or <pad>, else 0 with a warning; padding is masked, so 0 does no harm. config.json's
// pad_token_id is not asked: published models contradict their tokenizer there.
func (t *Tokenizer) PadID() int32 { return t.pad }

// VocabSize returns the highest id plus one, added tokens included: the rows that the model's embedding
// table must have at least.
func (t *Tokenizer) VocabSize() int { return int(t.highest.id) + 1 }

// CheckTable returns an error that names the first offender if ids exist for which an embedding table of
// that many rows has no vector.
func (t *Tokenizer) CheckTable(rows int) error {
	if t.VocabSize() <= rows {
		return nil
	}
	return fmt.Errorf("token %q has id %d, but the model's embedding table has %d rows (ids 0 to %d)",
		t.highest.token, t.highest.id, rows, rows-1)
}

// Special returns the id of a token by its name, whether an added token or a piece of the vocabulary.
func (t *Tokenizer) Special(token string) (int32, bool) { return t.lookup(token) }

// Warnings returns what was odd about the tokenizer's files without making its ids wrong, one line each.
func (t *Tokenizer) Warnings() []string { return t.warnings }
