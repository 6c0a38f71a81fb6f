package news

import (
	"bytes"
	"mime"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

var (
	declaration  = regexp.MustCompile(`^\s*<\?xml[^>]*\?>`)
	declaredName = regexp.MustCompile(`encoding\s*=\s*["']([^"']*)["']`)
)

// decode returns body in UTF-8 and how many characters of it could not be read. What is declared, in the XML
// or in Content-Type, is wrong too often to be believed against the bytes: they are read as UTF-8 wherever
// that makes sense of most of them, and else in that encoding which makes sense of most.
func decode(body []byte, contentType string) (text []byte, broken int) {
	if wide, from := marked(body); wide != nil {
		return decodeBy(wide, from)
	}
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if isJSON(body) { // is UTF-8 by its standard, whatever a server says
		return whole(body)
	}
	names := declared(body, contentType)
	if utf8.Valid(body) {
		if bytes.IndexByte(body, 0x1b) >= 0 { // seven bits, and shifts between tables
			for _, name := range names {
				if strings.HasPrefix(name, "iso-2022-") {
					return decodeBy(body, lookup(name))
				}
			}
		}
		return body, 0
	}
	if isUTF8(body, names) {
		return whole(body)
	}
	return fewest(body, names)
}

// marked returns an encoding of two or four bytes a character that the body begins with: by a mark, or by
// every other byte being 0, as in "<\0?\0". Nil if it is none of them.
func marked(b []byte) ([]byte, encoding.Encoding) {
	zero := func(pattern ...bool) bool {
		for i, want := range pattern {
			if len(b) <= i || (b[i] == 0) != want {
				return false
			}
		}
		return true
	}
	utf16 := func(order unicode.Endianness) encoding.Encoding { return unicode.UTF16(order, unicode.IgnoreBOM) }
	switch {
	case bytes.HasPrefix(b, []byte("\xff\xfe\x00\x00")):
		return b[4:], utf32.UTF32(utf32.LittleEndian, utf32.IgnoreBOM)
	case bytes.HasPrefix(b, []byte("\x00\x00\xfe\xff")):
		return b[4:], utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM)
	case bytes.HasPrefix(b, []byte("\xff\xfe")):
		return b[2:], utf16(unicode.LittleEndian)
	case bytes.HasPrefix(b, []byte("\xfe\xff")):
		return b[2:], utf16(unicode.BigEndian)
	case zero(false, true, false, true):
		return b, utf16(unicode.LittleEndian)
	case zero(true, false, true, false):
		return b, utf16(unicode.BigEndian)
	default:
		return nil, nil
	}
}

func isJSON(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

// whole returns b with what is not UTF-8 replaced.
func whole(b []byte) ([]byte, int) {
	if utf8.Valid(b) {
		return b, 0
	}
	before := bytes.Count(b, []byte("\uFFFD"))
	b = bytes.ToValidUTF8(b, []byte("\uFFFD"))
	return b, bytes.Count(b, []byte("\uFFFD")) - before
}

func decodeBy(b []byte, from encoding.Encoding) ([]byte, int) {
	out, err := from.NewDecoder().Bytes(b)
	if err != nil { // decoders replace; this one can't go on
		return whole(b)
	}
	return out, bytes.Count(out, []byte("\uFFFD"))
}

// declared returns what Content-Type and the XML declaration name, in this order, in lower case.
func declared(body []byte, contentType string) (names []string) {
	if _, params, err := mime.ParseMediaType(contentType); err == nil && params["charset"] != "" {
		names = append(names, strings.ToLower(strings.TrimSpace(params["charset"])))
	}
	if head := declaration.Find(body[:min(len(body), 1024)]); head != nil {
		if m := declaredName.FindSubmatch(head); m != nil {
			names = append(names, strings.ToLower(strings.TrimSpace(string(m[1]))))
		}
	}
	return names
}

// lookup returns an encoding by name; nil if it is not known, or says nothing that the bytes do not.
func lookup(name string) encoding.Encoding {
	switch name {
	case "cp949", "ms949", "uhc", "x-windows-949", "euckr", "euc_kr", "ksc5601", "ks_c_5601":
		return korean.EUCKR
	}
	e, err := htmlindex.Get(name)
	if err != nil {
		return nil
	}
	canonical, _ := htmlindex.Name(e) // it has one
	if strings.HasPrefix(canonical, "utf-") || canonical == "replacement" || canonical == "windows-1252" {
		return nil
	}
	return e
}

// isUTF8 reports whether b, which is not valid UTF-8, is UTF-8 with some characters cut or broken. Bytes in
// whole sequences speak for it, and so does the beginning of one, as is left when a text is cut; others speak
// against it. In CP949 a third of the bytes look like UTF-8 by chance, and in some texts half of them; but then they
// are pairs of common syllables, with hardly an error among them.
func isUTF8(b []byte, names []string) bool {
	right, wrong, all := 0, 0, b
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		switch begun := cutSequence(b); {
		case r != utf8.RuneError || size > 1:
			if size > 1 {
				right += size
			}
		case begun > 1:
			right, size = right+begun, begun
		default:
			wrong++
		}
		b = b[size:]
	}
	if isKorean(all) {
		if _, broken := decodeBy(all, korean.EUCKR); 2*broken < wrong {
			return false
		}
	}
	for _, name := range names {
		if lookup(name) != nil {
			return right >= 3*wrong // something else is declared, and may be true
		}
	}
	return right >= wrong
}

// cutSequence returns how many bytes of the sequence that b begins with are there.
func cutSequence(b []byte) int {
	want := 0
	switch {
	case b[0] >= 0xe1 && b[0] <= 0xef:
		want = 3
	case b[0] >= 0xf1 && b[0] <= 0xf4:
		want = 4
	}
	n := 1
	for n < want && n < len(b) && b[n] >= 0x80 && b[n] < 0xc0 {
		n++
	}
	return n
}

// fewest decodes b by that of the declared encodings which leaves the fewest errors. Where none is declared
// that could be, it is Korean or, if its bytes above ASCII stand alone as accents and curly quotes do,
// Windows-1252.
func fewest(b []byte, names []string) (text []byte, broken int) {
	candidates := []encoding.Encoding{}
	for _, name := range names {
		if e := lookup(name); e != nil {
			candidates = append(candidates, e)
		}
	}
	if isKorean(b) {
		if len(candidates) == 0 || isSingleByte(candidates[0]) {
			candidates = []encoding.Encoding{korean.EUCKR}
		}
	} else if len(candidates) == 0 {
		candidates = []encoding.Encoding{charmap.Windows1252}
	}
	for i, e := range candidates {
		out, n := decodeBy(b, e)
		if i == 0 || n < broken || n == broken && isSingleByte(candidates[i-1]) && !isSingleByte(e) {
			text, broken = out, n
		}
	}
	if other, n := whole(b); n < broken {
		return other, n
	}
	return text, broken
}

// isSingleByte reports whether every text can be read by e, so that a lack of errors says nothing.
func isSingleByte(e encoding.Encoding) bool { _, ok := e.(*charmap.Charmap); return ok }

// isKorean reports whether most bytes above ASCII come in pairs that are common syllables in CP949.
func isKorean(b []byte) bool {
	syllables, others, alone := 0, 0, 0
	for i := 0; i < len(b); i++ {
		if b[i] < 0x80 {
			continue
		}
		pair := i+1 < len(b) && b[i] >= 0xa1 && b[i+1] >= 0xa1 && b[i+1] != 0xff
		switch {
		case !pair: // an accent; or one of the 8,822 rare syllables, whose pairs look like a quote and a letter
			alone++
			continue
		case b[i] >= 0xb0 && b[i] <= 0xc8:
			syllables++
		default:
			others++
		}
		i++
	}
	return syllables > alone && syllables >= others
}
