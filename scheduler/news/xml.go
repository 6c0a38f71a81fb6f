package news

import (
	"bytes"
	"strings"
)

// longestTag bounds a tag with its attributes.
const longestTag = 16 << 10

// tokenKind is what a token is.
type tokenKind int

const (
	tokenEnd   tokenKind = iota // of the input
	tokenText                   // with entities
	tokenCDATA                  // as it is
	tokenOpen
	tokenClose
)

// A token is a piece of markup. Its slices are of the input.
type token struct {
	kind  tokenKind
	name  string // as written, prefix included
	attrs []byte // what follows the name
	text  []byte
	empty bool // <name/>
}

// A scanner reads markup that claims to be XML, as feeds have it: with bare < and & in texts, unclosed and
// crossed elements, and entities that nobody declared. It keeps nothing, so that neither depth nor length of
// the input cost memory, and never fails: what is no markup is text.
type scanner struct {
	b   []byte
	cut bool // the input ends within a piece of markup
}

// next returns the next token. Comments, instructions and the document type are left out.
func (s *scanner) next() token {
	for len(s.b) > 0 {
		if s.b[0] != '<' {
			return s.textToken(0)
		}
		rest := s.b[1:]
		switch {
		case bytes.HasPrefix(rest, []byte("![CDATA[")):
			return s.cdata()
		case bytes.HasPrefix(rest, []byte("!--")):
			s.skip("-->")
		case bytes.HasPrefix(rest, []byte("?")):
			s.skip("?>")
		case bytes.HasPrefix(rest, []byte("!")):
			s.doctype()
		default:
			if t, ok := s.tag(); ok {
				return t
			}
			return s.textToken(1)
		}
	}
	return token{kind: tokenEnd}
}

// textToken takes text up to the next <, of which it passes over the first skip bytes.
func (s *scanner) textToken(skip int) token {
	n := len(s.b)
	if i := bytes.IndexByte(s.b[skip:], '<'); i >= 0 {
		n = skip + i
	}
	t := token{kind: tokenText, text: s.b[:n]}
	s.b = s.b[n:]
	return t
}

func (s *scanner) cdata() token {
	text, rest, found := bytes.Cut(s.b[len("<![CDATA["):], []byte("]]>"))
	s.b, s.cut = rest, s.cut || !found
	return token{kind: tokenCDATA, text: text}
}

func (s *scanner) skip(end string) {
	if i := bytes.Index(s.b, []byte(end)); i >= 0 {
		s.b = s.b[i+len(end):]
		return
	}
	s.b, s.cut = nil, true
}

// doctype passes over <!DOCTYPE ...>, with what it declares within: no entity of it is ever resolved.
func (s *scanner) doctype() {
	end := bytes.IndexByte(s.b, '>')
	if end >= 0 && bytes.IndexByte(s.b[:end], '[') >= 0 {
		s.skip("]")
		end = bytes.IndexByte(s.b, '>')
	}
	if end < 0 {
		s.b, s.cut = nil, true
		return
	}
	s.b = s.b[end+1:]
}

// tag reads an opening or closing tag. It reports false if there is none: Korean outlets write <단독> in titles.
func (s *scanner) tag() (token, bool) {
	t := token{kind: tokenOpen}
	i := 1
	if i < len(s.b) && s.b[i] == '/' {
		t.kind = tokenClose
		i++
	}
	begin := i
	for i < len(s.b) && isNameByte(s.b[i]) {
		i++
	}
	if i == begin || s.b[begin] == '-' || s.b[begin] == '.' || s.b[begin] >= '0' && s.b[begin] <= '9' {
		if i == len(s.b) {
			s.cut = true
		}
		return t, false
	}
	t.name = string(s.b[begin:i])
	end := tagEnd(s.b[i:min(len(s.b), i+longestTag)])
	if end < 0 {
		if len(s.b) < i+longestTag && bytes.IndexByte(s.b[i:], '<') < 0 {
			s.cut, s.b = true, nil
			return token{kind: tokenEnd}, true
		}
		return t, false
	}
	t.attrs = bytes.TrimRight(s.b[i:i+end], " \t\r\n")
	if n := len(t.attrs); n > 0 && t.attrs[n-1] == '/' {
		t.attrs, t.empty = t.attrs[:n-1], true
	}
	s.b = s.b[i+end+1:]
	return t, true
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ':' || c == '_' || c == '-' || c == '.'
}

// tagEnd finds the > that is not within quotes or, where quotes are not closed, the first. A < ends the search,
// so that each byte is looked at twice at most.
func tagEnd(b []byte) int {
	if n := bytes.IndexByte(b, '<'); n >= 0 {
		b = b[:n]
	}
	quote := byte(0)
	for i, c := range b {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			return i
		}
	}
	return bytes.IndexByte(b, '>')
}

// attr returns an attribute's value as it is written, "" for none.
func (t token) attr(name string) string {
	b := t.attrs
	for len(b) > 0 {
		b = bytes.TrimLeft(b, " \t\r\n/")
		eq := bytes.IndexByte(b, '=')
		if eq < 0 {
			return ""
		}
		key := string(bytes.TrimSpace(b[:eq]))
		if i := strings.LastIndexAny(key, " \t\r\n"); i >= 0 {
			key = key[i+1:] // attributes without a value stand before it
		}
		b = bytes.TrimLeft(b[eq+1:], " \t\r\n")
		var value []byte
		if len(b) > 0 && (b[0] == '"' || b[0] == '\'') {
			end := bytes.IndexByte(b[1:], b[0])
			if end < 0 {
				return ""
			}
			value, b = b[1:end+1], b[end+2:]
		} else {
			end := bytes.IndexAny(b, " \t\r\n")
			if end < 0 {
				end = len(b)
			}
			value, b = b[:end], b[end:]
		}
		if key == name {
			return string(value)
		}
	}
	return ""
}

// spaces returns the prefixes that a tag binds to namespaces; "" is the default one.
func (t token) spaces(yield func(prefix, uri string)) {
	b := t.attrs
	for {
		i := bytes.Index(b, []byte("xmlns"))
		if i < 0 {
			return
		}
		b = b[i+len("xmlns"):]
		eq := bytes.IndexByte(b, '=')
		if eq < 0 {
			return
		}
		prefix := strings.TrimPrefix(strings.TrimSpace(string(b[:eq])), ":")
		value := bytes.TrimLeft(b[eq+1:], " \t\r\n")
		if len(value) == 0 || value[0] != '"' && value[0] != '\'' {
			continue
		}
		if end := bytes.IndexByte(value[1:], value[0]); end >= 0 {
			yield(prefix, string(value[1:end+1]))
		}
	}
}
