package jsonapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A pointer is a JSON Pointer (RFC 6901), its tokens unescaped. None of them is the whole document.
type pointer []string

func parsePointer(s string) (pointer, error) {
	if s == "" {
		return nil, nil
	}
	if s[0] != '/' {
		return nil, fmt.Errorf("%q is no JSON Pointer: want one that begins with /, as /data/items", s)
	}
	tokens := strings.Split(s[1:], "/")
	for i, t := range tokens {
		for rest := t; ; {
			at := strings.IndexByte(rest, '~')
			if at < 0 {
				break
			}
			if at+1 == len(rest) || rest[at+1] != '0' && rest[at+1] != '1' {
				return nil, fmt.Errorf("%q is no JSON Pointer: ~ is written ~0, and / within a name ~1", s)
			}
			rest = rest[at+2:]
		}
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return tokens, nil
}

// errAbsent says that there is nothing where a pointer points.
var errAbsent = errors.New("nothing is there")

// in returns what p points at. It goes through the document piece by piece, so that a large one is never unfolded.
func (p pointer) in(doc []byte) (json.RawMessage, error) {
	for _, token := range p {
		next, err := child(doc, token)
		if err != nil {
			return nil, err
		}
		doc = next
	}
	return doc, nil
}

func child(doc []byte, token string) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	open, err := d.Token()
	if err != nil {
		return nil, errBroken
	}
	switch open {
	case json.Delim('{'):
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, errBroken
			}
			var value json.RawMessage
			if err := d.Decode(&value); err != nil {
				return nil, errBroken
			}
			if key == token {
				return value, nil
			}
		}
	case json.Delim('['):
		want, err := strconv.Atoi(token)
		for i := 0; err == nil && d.More(); i++ {
			var value json.RawMessage
			if d.Decode(&value) != nil {
				return nil, errBroken
			}
			if i == want {
				return value, nil
			}
		}
	}
	return nil, errAbsent
}

// errBroken does not say what stands there: that is another's words.
var errBroken = errors.New("the answer is no JSON")

// text returns a value as text: words as they are, numbers as they are written, of a list its texts in lines. It is ""
// for everything else.
func text(value json.RawMessage) string {
	value = bytes.TrimSpace(value)
	if len(value) == 0 {
		return ""
	}
	switch c := value[0]; {
	case c == '"':
		var s string
		if json.Unmarshal(value, &s) != nil {
			return ""
		}
		return s
	case c == '-' || c >= '0' && c <= '9':
		return string(value)
	case c == '[':
		return strings.Join(list(value), "\n")
	}
	return ""
}

// list returns a list's texts, or the one text that stands in a list's place.
func list(value json.RawMessage) (texts []string) {
	if value = bytes.TrimSpace(value); len(value) == 0 {
		return nil
	}
	if value[0] != '[' {
		if s := text(value); s != "" {
			return []string{s}
		}
		return nil
	}
	var parts []json.RawMessage
	if json.Unmarshal(value, &parts) != nil {
		return nil
	}
	for _, p := range parts {
		if p = bytes.TrimSpace(p); len(p) > 0 && p[0] != '[' {
			if s := text(p); s != "" {
				texts = append(texts, s)
			}
		}
	}
	return texts
}
