package tokenizer

import (
	"fmt"
	"strings"
)

// build checks a definition against itself and makes the Tokenizer.
//
// The checks are stricter than Hugging Face's, which warns and goes on: a wrong id doesn't show, it only
// makes every vector a little worse.
func (d *definition) build() (*Tokenizer, error) {
	t := &Tokenizer{kind: d.kind, pipe: d.pipe, highest: d.vocab.highest(), warnings: d.warnings}
	added, err := d.checkAdded()
	if err != nil {
		return nil, err
	}
	t.lookup = func(token string) (int32, bool) {
		if id, ok := added[token]; ok {
			return id, true
		}
		return d.lookup(token)
	}
	for _, a := range d.added {
		if a.id > t.highest.id {
			t.highest = namedID{a.content, a.id}
		}
	}
	if err := d.template(t); err != nil {
		return nil, err
	}
	if err := t.splitAdded(d.added); err != nil {
		return nil, err
	}
	if err := d.choosePad(t); err != nil {
		return nil, err
	}
	d.vocab = nil // the trie has it all
	return t, nil
}

// checkAdded makes sure that every added token has the id that Hugging Face would give it: that of the
// vocabulary, or, if it isn't there, the next one behind the vocabulary.
func (d *definition) checkAdded() (map[string]int32, error) {
	// Hugging Face counts on from the number of entries, not from the highest id; in a vocabulary with gaps
	// the two differ, and a new token may get an id that is taken.
	ids, owners := map[string]int32{}, map[int32]string{}
	next, top := int32(len(d.vocab)), d.vocab.highest().id
	unique := d.added[:0]
	for _, a := range d.added {
		if a.content == "" {
			continue // Hugging Face passes over it
		}
		if other, dup := ids[a.content]; dup {
			if other != a.id {
				return nil, fmt.Errorf("added token %q has two ids, %d and %d", a.content, other, a.id)
			}
			continue
		}
		want, known := d.vocab.id(a.content)
		if !known {
			want = next
			next++
		}
		switch {
		case a.id != want && known:
			return nil, fmt.Errorf("added token %q has id %d, but the vocabulary gives it %d", a.content, a.id, want)
		case a.id != want:
			return nil, fmt.Errorf("added token %q has id %d, but the next one behind the vocabulary is %d", a.content, a.id, want)
		case !known && want <= top: // the vocabulary has gaps
			return nil, fmt.Errorf("added token %q has id %d, but the vocabulary's ids reach %d", a.content, a.id, top)
		}
		if other, dup := owners[a.id]; dup {
			return nil, fmt.Errorf("added tokens %q and %q both have id %d", other, a.content, a.id)
		}
		ids[a.content], owners[a.id] = a.id, a.content
		unique = append(unique, a)
	}
	d.added = unique
	return ids, nil
}

// template sets what goes around texts.
func (d *definition) template(t *Tokenizer) error {
	single, err := d.segments(t, d.single)
	if err != nil {
		return err
	}
	around := &t.prefix
	for _, s := range single {
		if s.text > 0 {
			around = &t.suffix
		}
		*around = append(*around, s.ids...)
	}
	t.pair, err = d.segments(t, d.pair)
	for _, s := range t.pair {
		t.pairSpecial += len(s.ids)
	}
	return err
}

// segments makes sure that the special tokens around texts have the ids that their names have elsewhere.
func (d *definition) segments(t *Tokenizer, parts []templatePart) (list []segment, err error) {
	for _, p := range parts {
		s := segment{text: p.text, typ: p.typ}
		for _, n := range p.tokens {
			id, ok := t.lookup(n.token)
			if !ok {
				return nil, fmt.Errorf("post_processor adds token %q with id %d, but no such token exists", n.token, n.id)
			}
			if id != n.id {
				return nil, fmt.Errorf("post_processor gives token %q id %d, but the vocabulary gives it %d", n.token, n.id, id)
			}
			s.ids = append(s.ids, n.id)
		}
		list = append(list, s)
	}
	return list, nil
}

// splitAdded sorts added tokens by where they are sought. Those for normalised text are normalised, too.
func (t *Tokenizer) splitAdded(added []addedToken) (err error) {
	var early, late []addedToken
	// The name is normalised like a text: with a lower-casing model, "Samsung" is sought as "samsung".
	r := new(run)
	for _, a := range added {
		if !a.normalized {
			early = append(early, a)
			continue
		}
		// A clone, since normalize lends out its buffer.
		a.content = strings.Clone(t.pipe.normalize(r, a.content))
		late = append(late, a)
	}
	if t.early, err = newAddedSet(early); err != nil {
		return err
	}
	t.late, err = newAddedSet(late)
	return err
}

// choosePad finds the padding token; Tokenizer.PadID says by which order.
func (d *definition) choosePad(t *Tokenizer) error {
	if d.padToken != "" {
		id, ok := t.lookup(d.padToken)
		switch {
		case ok && d.padID != none && d.padID != id:
			return fmt.Errorf("padding gives token %q id %d, but the vocabulary gives it %d", d.padToken, d.padID, id)
		case ok:
			t.pad = id
			return nil
		}
		t.warnings = append(t.warnings, fmt.Sprintf("padding token %q does not exist", d.padToken))
	}
	for _, name := range []string{"[PAD]", "<pad>"} {
		if id, ok := t.lookup(name); ok {
			t.pad = id
			return nil
		}
	}
	t.warnings = append(t.warnings, "there is no padding token, id 0 is used")
	return nil
}
