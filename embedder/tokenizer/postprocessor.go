package tokenizer

import (
	"encoding/json"
	"fmt"
)

// parsePost reads which special tokens go around a text.
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
	case "BertProcessing", "RobertaProcessing":
		d.parseClsSep(o)
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

// surround sets the tokens around a text. Two processors that both add some are refused: the order in which
// Hugging Face nests them has no use among embedding models, and no test here.
func (d *definition) surround(o *object, prefix, suffix []namedID) {
	if len(d.prefix)+len(d.suffix) > 0 {
		o.refuse(": special tokens are added twice")
	}
	d.prefix, d.suffix = prefix, suffix
}

// parseClsSep reads the two processors that are named after a model.
func (d *definition) parseClsSep(o *object) {
	o.ignore("add_prefix_space", "trim_offsets") // offsets only
	cls, sep := pairField(o, "cls"), pairField(o, "sep")
	d.surround(o, []namedID{cls}, []namedID{sep})
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

// A template lists special tokens and texts in their order. What stands before the text becomes the prefix of
// every encoding, what stands behind it the suffix, which a limit never cuts off.

// A templatePart is either a special token or the place of a text in a template.
type templatePart struct {
	SpecialToken, Sequence *struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	}
}

// templateToken is a special token of a template; it may stand for several ids.
type templateToken struct {
	ID     string   `json:"id"`
	IDs    []int32  `json:"ids"`
	Tokens []string `json:"tokens"`
}

// parseTemplate reads the template for a single text. The one for pairs is not used.
func (d *definition) parseTemplate(o *object) {
	var single []templatePart
	tokens := map[string]templateToken{}
	o.require("single", &single)
	o.into("special_tokens", &tokens)
	o.ignore("pair")
	var around [2][]namedID
	side := 0
	for _, p := range single {
		switch {
		case p.Sequence != nil && side == 0 && p.Sequence.ID == "A" && p.Sequence.TypeID == 0:
			side = 1
		case p.SpecialToken != nil && p.SpecialToken.TypeID == 0:
			t, ok := tokens[p.SpecialToken.ID]
			if !ok || len(t.IDs) != len(t.Tokens) {
				o.refuse(": special token %q has no ids", p.SpecialToken.ID)
				return
			}
			// Names go along with the ids, to be compared with the vocabulary once that is complete.
			for i := range t.IDs {
				around[side] = append(around[side], namedID{t.Tokens[i], t.IDs[i]})
			}
		default:
			o.refuse(": only one text, A, and special tokens of type 0 are supported in \"single\"")
		}
	}
	if side == 0 {
		o.refuse(": \"single\" has no place for the text")
	}
	d.surround(o, around[0], around[1])
}
