package tokenizer

import (
	"encoding/json"
	"fmt"
)

// A templatePart is special tokens, or the place of a text, in what a model gets to see.
type templatePart struct {
	tokens []namedID
	text   int   // 0 for special tokens, 1 or 2 for the first or second text
	typ    int32 // the token type id of all of it
}

// parsePost reads which special tokens go around texts.
func (d *definition) parsePost(where string, raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	o := newObject(where, raw)
	kind := o.text("type")
	o.where = fmt.Sprintf("%s %q", where, kind)
	switch kind {
	case "TemplateProcessing":
		d.parseTemplate(o)
	case "BertProcessing":
		d.parseClsSep(o, bertTemplates)
	case "RobertaProcessing":
		d.parseClsSep(o, robertaTemplates)
	case "ByteLevel":
		o.ignore("add_prefix_space", "trim_offsets", "use_regex") // offsets only
	case "Sequence":
		var list []json.RawMessage
		o.require("processors", &list)
		for _, raw := range list {
			if o.err == nil {
				o.err = d.parsePost(where, raw)
			}
		}
	default:
		if o.err == nil {
			return fmt.Errorf("%s is not supported", o.where)
		}
	}
	return o.finish()
}

// surround sets what goes around texts. Two processors that both add tokens are refused: the order in which
// Hugging Face nests them has no use among embedding models, and no test here.
func (d *definition) surround(o *object, single, pair []templatePart) {
	if d.single != nil {
		o.refuse(": special tokens are added twice")
	}
	d.single, d.pair = single, pair
}

// templates make what goes around one text, and around two.
type templates func(cls, sep namedID) (single, pair []templatePart)

// parseClsSep reads the two processors that are named after a model.
func (d *definition) parseClsSep(o *object, with templates) {
	o.ignore("add_prefix_space", "trim_offsets") // offsets only
	cls, sep := pairField(o, "cls"), pairField(o, "sep")
	single, pair := with(cls, sep)
	d.surround(o, single, pair)
}

func bertTemplates(cls, sep namedID) (single, pair []templatePart) {
	single = []templatePart{{tokens: []namedID{cls}}, {text: 1}, {tokens: []namedID{sep}}}
	return single, append(single[:3:3], templatePart{text: 2, typ: 1}, templatePart{tokens: []namedID{sep}, typ: 1})
}

// robertaTemplates put two separators between texts and know no types.
func robertaTemplates(cls, sep namedID) (single, pair []templatePart) {
	around := []templatePart{{tokens: []namedID{cls}}, {text: 1}, {tokens: []namedID{sep}}}
	return around, append(around[:3:3], templatePart{tokens: []namedID{sep}}, templatePart{text: 2}, templatePart{tokens: []namedID{sep}})
}

// pairField reads ["token", id].
func pairField(o *object, name string) (n namedID) {
	var pair []json.RawMessage
	o.require(name, &pair)
	if o.err != nil {
		return n
	}
	if len(pair) != 2 || json.Unmarshal(pair[0], &n.token) != nil || json.Unmarshal(pair[1], &n.id) != nil {
		o.refuse(": field %q is not a token with its id", name)
	}
	return n
}

// templatePiece is a part of a template as the file has it.
type templatePiece struct {
	SpecialToken, Sequence *struct {
		ID     string `json:"id"`
		TypeID int32  `json:"type_id"`
	}
}

// templateToken is a special token of a template; it may stand for several ids.
type templateToken struct {
	ID     string   `json:"id"`
	IDs    []int32  `json:"ids"`
	Tokens []string `json:"tokens"`
}

// parseTemplate reads the templates for one text and for two.
func (d *definition) parseTemplate(o *object) {
	var single, pair []templatePiece
	tokens := map[string]templateToken{}
	o.require("single", &single)
	o.into("pair", &pair)
	o.into("special_tokens", &tokens)
	if o.err != nil {
		return
	}
	one := parseParts(o, "single", single, tokens)
	for _, p := range one {
		// Encode returns ids alone, and a model that is given none takes all types for 0.
		if p.text == 2 || p.typ != 0 {
			o.refuse(": only one text, A, and special tokens of type 0 are supported in \"single\"")
		}
	}
	if places(one, 1) != 1 {
		o.refuse(": \"single\" has no place for the text, or several")
	}
	var two []templatePart
	if len(pair) > 0 {
		two = parseParts(o, "pair", pair, tokens)
		if places(two, 1) != 1 || places(two, 2) != 1 {
			two = nil // of use to nobody but who has pairs: CheckPairs
		}
	}
	d.surround(o, one, two)
}

func places(parts []templatePart, text int) (n int) {
	for _, p := range parts {
		if p.text == text {
			n++
		}
	}
	return n
}

func parseParts(o *object, field string, pieces []templatePiece, tokens map[string]templateToken) (parts []templatePart) {
	for _, p := range pieces {
		switch {
		case p.Sequence != nil && p.SpecialToken == nil && (p.Sequence.ID == "A" || p.Sequence.ID == "B"):
			parts = append(parts, templatePart{text: int(p.Sequence.ID[0]-'A') + 1, typ: p.Sequence.TypeID})
		case p.SpecialToken != nil && p.Sequence == nil:
			t, ok := tokens[p.SpecialToken.ID]
			if !ok || len(t.IDs) != len(t.Tokens) {
				o.refuse(": special token %q has no ids", p.SpecialToken.ID)
				return nil
			}
			// Names go along with the ids, to be compared with the vocabulary once that is complete.
			part := templatePart{typ: p.SpecialToken.TypeID}
			for i := range t.IDs {
				part.tokens = append(part.tokens, namedID{t.Tokens[i], t.IDs[i]})
			}
			parts = append(parts, part)
		default:
			o.refuse(": a part of %q is neither a special token nor a text, A or B", field)
			return nil
		}
	}
	return parts
}
