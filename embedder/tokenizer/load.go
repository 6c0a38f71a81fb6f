package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A definition is what a tokenizer.json, or a vocab.txt with its settings, says, before it is checked
// against itself and turned into a Tokenizer.
type definition struct {
	lower    bool // texts are lower-cased before anything else is done to them but finding special tokens
	kind     string
	vocab    vocabulary
	pipe     pipeline
	lookup   func(string) (int32, bool) // in the vocabulary alone
	added    []addedToken
	single   []templatePart // what goes around a text
	pair     []templatePart // what goes around two texts; nil if the file has no use for them
	padToken string         // "" if not said
	padID    int32
	warnings []string
}

// parseDefinition reads a tokenizer.json.
func parseDefinition(data []byte, lower bool) (*definition, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the file is not UTF-8")
	}
	o := newObject("the file", data)
	if o.err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](o.err); ok {
			return nil, fmt.Errorf("the file is not valid JSON (at byte %d of %d): %w", syntax.Offset, len(data), syntax)
		}
		return nil, o.err
	}
	d := &definition{padID: none, lower: lower}
	o.only("version", "1.0")
	// How long a text may be is the model's affair, and padding the batch's. What is said here is what the
	// last training run happened to use; only the name of the padding token is of interest.
	o.ignore("truncation", "decoder")
	padding, added := o.take("padding"), o.take("added_tokens")
	normalizer, preTokenizer := o.take("normalizer"), o.take("pre_tokenizer")
	post, model := o.take("post_processor"), o.take("model")
	if err := o.finish(); err != nil {
		return nil, err
	}
	if model == nil {
		return nil, errors.New("field \"model\" is missing")
	}
	return d, firstError(
		func() error { return d.parseAdded(added) },
		func() error { return d.parseModel(model, normalizer, preTokenizer) },
		func() error { return d.parsePadding(padding) },
		func() error { return d.parsePost("post_processor", post) },
	)
}

// firstError runs steps in order until one fails. The order is that of what a reader of the message would
// look at first: the model, then what is around it.
func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (d *definition) parsePadding(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	o := newObject("padding", raw)
	// The id is kept to be compared with the vocabulary: where they differ, one of them is damaged.
	d.padToken = o.text("pad_token")
	o.into("pad_id", &d.padID)
	return o.err // strategy, direction and multiple are never applied, so none is refused
}

func (d *definition) parseAdded(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("added_tokens: %w", err)
	}
	for i, raw := range list {
		o := newObject(fmt.Sprintf("added_tokens[%d]", i), raw)
		var t addedToken
		o.require("id", &t.id)
		o.require("content", &t.content)
		o.require("normalized", &t.normalized) // no default: the two ways find different tokens
		t.singleWord = o.flag("single_word", false)
		t.lstrip, t.rstrip = o.flag("lstrip", false), o.flag("rstrip", false)
		o.ignore("special") // matters when decoding
		if err := o.finish(); err != nil {
			return err
		}
		d.added = append(d.added, t)
	}
	return nil
}

// parseModel reads the model together with the components that its pipeline is built from.
func (d *definition) parseModel(model, normal, pre json.RawMessage) error {
	o := newObject("model", model)
	kind := o.text("type")
	if kind == "" {
		kind = guessModel(o)
	}
	read, ok := map[string]func(*object, *components) error{
		"WordPiece": d.parseWordPiece, "Unigram": d.parseUnigram, "BPE": d.parseBPE}[kind]
	switch {
	case kind == "":
		return errors.New("model: field \"type\" is missing, and the other fields are not those of a known one")
	case !ok:
		return fmt.Errorf("model type %q is not supported", kind)
	}
	d.kind = kind
	c := &components{late: d.hasLate()}
	if d.lower {
		c.steps = []normalizer{lowercase{}}
	}
	return firstError(
		func() error { return c.readNormalizer("normalizer", normal) },
		func() error { return c.readPreTokenizer("pre_tokenizer", pre) },
		func() error { return read(o, c) },
	)
}

// guessModel tells the type of a model from its fields: older files don't name it.
func guessModel(o *object) string {
	vocab := strings.TrimSpace(string(o.fields["vocab"]))
	switch {
	case o.fields["merges"] != nil:
		return "BPE"
	case o.fields["max_input_chars_per_word"] != nil:
		return "WordPiece"
	case strings.HasPrefix(vocab, "["):
		return "Unigram"
	}
	return ""
}
