package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxValue is how many bytes one value of a body may have that has to be in memory as a whole: the largest text, each
// byte of it written as \u0000, and what a document has beside it.
const maxValue = 8 << 20

// A reading is a body of JSON that is read as it comes: what is counted is counted before the next element is looked at, so
// that a body costs no more than what is accepted of it.
//
// Its decoder lets duplicate names and broken UTF-8 pass, for they may be in one element of many; each value that is
// taken out is read strictly ([strictly]).
type reading struct {
	*jsontext.Decoder
	src *metered
}

// members are the fields of a body, each with what reads its value.
type members map[string]func(name string, r *reading) error

// readObject reads a body of one JSON object. A field that members lack is refused: in another case, or twice, too.
func readObject(r io.Reader, m members) error {
	src := &metered{src: r, left: maxValue}
	in := &reading{jsontext.NewDecoder(src, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)), src}
	if err := in.object(m); err != nil {
		return err
	}
	if _, err := in.ReadToken(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("there is something behind the JSON value")
		}
		return broken(err)
	}
	return nil
}

func (r *reading) object(m members) error {
	if kind := r.PeekKind(); kind != '{' && kind != 0 {
		return badRequest("reading the body: it is %s, want an object", describeKind(kind))
	}
	if _, err := r.ReadToken(); err != nil {
		return broken(err)
	}
	seen := make(map[string]bool, len(m))
	for r.PeekKind() != '}' {
		r.src.mark()
		var name string
		if err := r.value("a field's name", &name); err != nil {
			return err
		}
		read := m[name]
		if read == nil {
			return unknownField(name, m)
		}
		if seen[name] {
			return wrongParam(name, "duplicate_field", "%s is there twice", name)
		}
		seen[name] = true
		if err := read(name, r); err != nil {
			return err
		}
	}
	_, err := r.ReadToken()
	return broken(err)
}

// value reads the next value into v, strictly. A null leaves v at its zero value.
func (r *reading) value(name string, v any) error {
	r.src.mark()
	raw, err := r.ReadValue()
	if err != nil {
		return broken(err)
	}
	return strictly(name, raw, r.InputOffset()-int64(len(raw)), v)
}

// into reads a field into v.
func into(v any) func(string, *reading) error {
	return func(name string, r *reading) error { return r.value(name, v) }
}

// ignored reads a field that means nothing here, and is checked all the same.
func ignored(name string, r *reading) error {
	var v jsontext.Value
	return r.value(name, &v)
}

// list reads an array of at most most elements, each with f, which must read one value.
func (r *reading) list(name string, most int, f func(i int) error) error {
	if kind := r.PeekKind(); kind != '[' {
		if kind == 0 {
			_, err := r.ReadToken()
			return broken(err)
		}
		return wrongParam(name, "bad_request", "%s is %s, want a list", name, describeKind(kind))
	}
	if _, err := r.ReadToken(); err != nil {
		return broken(err)
	}
	for i := 0; r.PeekKind() != ']'; i++ {
		if i == most {
			return wrongParam(name, "too_many", "%s has more than %d elements, the most that one request may have", name, most)
		}
		r.src.mark()
		if err := f(i); err != nil {
			return err
		}
	}
	_, err := r.ReadToken()
	return broken(err)
}

// strictly decodes raw, which begins at byte at of the body, into v: in UTF-8, no name twice, no field that v lacks, names
// in the case of v's. The error names the place.
func strictly(name string, raw jsontext.Value, at int64, v any) error {
	err := json.Unmarshal(raw, v, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*requestError](err); ok {
		return own
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return wrongParam(name, "bad_request", "%s%s: %s at byte %d of the body", name, inside(syntax.JSONPointer), cause(syntax), at+syntax.ByteOffset)
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		if errors.Is(semantic.Err, json.ErrUnknownName) {
			return wrongParam(name, "unknown_field", "%s%s is no field that is known here", name, inside(semantic.JSONPointer))
		}
		if semantic.JSONKind != 0 && semantic.GoType != nil {
			detail := ""
			if semantic.Err != nil {
				detail = ": " + semantic.Err.Error()
			}
			return wrongParam(name, "bad_request", "%s%s is %s, want %s%s", name, inside(semantic.JSONPointer), describeKind(semantic.JSONKind), wanted(semantic.GoType.String()), detail)
		}
	}
	return wrongParam(name, "bad_request", "%s: %v", name, err)
}

// inside is the way from a field to what is wrong in it, as "[3].id".
func inside(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		b.WriteString("." + token)
	}
	return b.String()
}

// cause is what a syntax error says without its place, which is told by the caller.
func cause(e *jsontext.SyntacticError) string {
	if errors.Is(e.Err, jsontext.ErrDuplicateName) {
		return "the name is there twice"
	}
	if strings.Contains(e.Err.Error(), "UTF-8") {
		return "not UTF-8"
	}
	if strings.Contains(e.Err.Error(), "surrogate") {
		return "half of a surrogate pair, which is no character"
	}
	return e.Err.Error()
}

// broken says that the body can't be read any further.
func broken(err error) error {
	if err == nil {
		return nil
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return err
	}
	if own, ok := errors.AsType[*requestError](err); ok {
		return own
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return badRequest("reading the body: %s at byte %d", cause(syntax), syntax.ByteOffset)
	}
	return badRequest("reading the body: %v", err)
}

func unknownField(name string, m members) error {
	for known := range m {
		if strings.EqualFold(known, name) {
			return wrongParam(name, "unknown_field", "there is no field %q, but %q: names have a case", name, known)
		}
	}
	return wrongParam(name, "unknown_field", "there is no field %q here; what is not understood is refused, not ignored", name)
}

// describeKind names a JSON value for people.
func describeKind(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a text"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "a list"
	default:
		return "no JSON"
	}
}

// wanted names a Go type for people.
func wanted(goType string) string {
	switch strings.TrimLeft(goType, "*") {
	case "string", "tasks.Lane":
		return "a text"
	case "bool":
		return "true or false"
	case "int", "int64":
		return "a whole number"
	case "time.Time":
		return "a time as 2022-01-03T09:00:00+09:00"
	case "[]string":
		return "a list of texts"
	case "map[string]string":
		return "an object of texts"
	default:
		return "an object"
	}
}

// A metered reader lets no value grow beyond what a value may have: whoever reads marks each element's beginning.
type metered struct {
	src  io.Reader
	left int64 // bytes until the next mark
}

// mark says that a new value begins. What the decoder has read ahead is of no account.
func (m *metered) mark() { m.left = maxValue }

func (m *metered) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, &requestError{
			status: http.StatusRequestEntityTooLarge, code: "too_large",
			message: fmt.Sprintf("one value of the body is larger than %d bytes", maxValue),
		}
	}
	n, err := m.src.Read(p[:min(int64(len(p)), m.left)])
	m.left -= int64(n)
	return n, err
}

// isNull reports whether a value is JSON's null.
func isNull(raw jsontext.Value) bool { return bytes.Equal(raw, []byte("null")) }
