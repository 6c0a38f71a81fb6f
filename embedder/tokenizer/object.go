package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An object is a JSON object that is read strictly: fields are taken out one by one, and whatever is left at
// the end is something this package does not understand. The first error sticks.
type object struct {
	where  string // for messages: "pre_tokenizer", "model" ...
	fields map[string]json.RawMessage
	err    error
}

func newObject(where string, raw json.RawMessage) *object {
	o := &object{where: where}
	if err := json.Unmarshal(raw, &o.fields); err != nil {
		o.err = fmt.Errorf("%s is not an object: %w", where, err)
	}
	return o
}

// take removes a field. A missing one and null are both nil.
func (o *object) take(name string) json.RawMessage {
	raw := o.fields[name]
	delete(o.fields, name)
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	return raw
}

// into decodes a field and reports whether it was there.
func (o *object) into(name string, v any) bool {
	raw := o.take(name)
	if raw == nil || o.err != nil {
		return false
	}
	if err := json.Unmarshal(raw, v); err != nil {
		o.err = fmt.Errorf("%s: field %q: %w", o.where, name, err)
		return false
	}
	return true
}

// require is into for a field that has no default.
func (o *object) require(name string, v any) {
	if !o.into(name, v) && o.err == nil {
		o.err = fmt.Errorf("%s: field %q is missing", o.where, name)
	}
}

// raw is require for a field that is left undecoded.
func (o *object) raw(name string) json.RawMessage {
	raw := o.take(name)
	if raw == nil {
		o.refuse(": field %q is missing", name)
	}
	return raw
}

func (o *object) text(name string) (s string) {
	o.into(name, &s)
	return s
}

func (o *object) flag(name string, otherwise bool) bool {
	o.into(name, &otherwise)
	return otherwise
}

// only refuses a field whose value is not the one that is implemented. Missing counts as implemented.
func (o *object) only(name string, want any) {
	raw := o.take(name)
	if raw == nil || o.err != nil {
		return
	}
	// Decoded, since a text may be written in several ways.
	var got any
	if err := json.Unmarshal(raw, &got); err != nil || got != want {
		o.err = fmt.Errorf("%s: %q of %s is not supported", o.where, name, short(raw))
	}
}

// ignore removes fields that have no effect on ids.
func (o *object) ignore(names ...string) {
	for _, n := range names {
		o.take(n)
	}
}

// refuse makes what the object describes an error.
func (o *object) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = errors.New(o.where + fmt.Sprintf(format, args...))
	}
}

// finish returns the first error, or one about a field that nobody took. A field that is null, false or
// empty is let pass: that is how a newer writer says that it does not use what we don't know.
func (o *object) finish() error {
	if o.err != nil {
		return o.err
	}
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		switch raw := o.fields[name]; string(raw) {
		case "null", "false", `""`, "[]", "{}":
		default:
			return fmt.Errorf("%s: field %q (%s) is not known", o.where, name, short(raw))
		}
	}
	return nil
}

// short cuts a value to what fits into a message.
func short(raw []byte) string {
	if s := string(raw); len(s) <= 40 {
		return s
	}
	return strings.ToValidUTF8(string(raw[:40]), "") + "…"
}
