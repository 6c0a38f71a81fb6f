package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxMapped is the length in bytes from which a grapheme cluster is not looked up as a whole.
const maxMapped = 6

// A charsmap is SentencePiece's compiled normalisation: a double array (of the Darts kind) over the texts to
// replace, and a blob of zero-terminated replacements.
type charsmap struct {
	units []uint32
	blob  string
	bmp   [1 << 16 / 64]uint64 // characters of the first plane that have a replacement
}

func newCharsmap(encoded string) (*charsmap, error) {
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("decoding precompiled_charsmap: %w", err)
	}
	if len(b) < 4 {
		return nil, errors.New("precompiled_charsmap is cut off")
	}
	// Four bytes of length, the trie of that length, the replacements.
	n := uint64(binary.LittleEndian.Uint32(b))
	b = b[4:]
	if n == 0 || n%4 != 0 || n > uint64(len(b)) {
		return nil, fmt.Errorf("precompiled_charsmap says its trie has %d bytes, of %d that follow", n, len(b))
	}
	m := &charsmap{units: make([]uint32, n/4), blob: string(b[n:])}
	if !utf8.ValidString(m.blob) {
		return nil, errors.New("precompiled_charsmap has replacements that are not UTF-8")
	}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	// Most characters of a text have no replacement; one bit spares them the walk through the trie.
	for r := range rune(1 << 16) {
		if _, ok := m.lookup(string(r)); ok && utf8.ValidRune(r) {
			m.bmp[r/64] |= 1 << (r % 64)
		}
	}
	return m, nil
}

// lookup returns the replacement of the shortest text in the map that s starts with. That it replaces all of
// s, whatever follows, is how Hugging Face reads the map: "\r\n" becomes one space.
func (m *charsmap) lookup(s string) (string, bool) {
	at := offset(m.units[0])
	for i := 0; i < len(s) && s[i] != 0; i++ {
		at ^= uint32(s[i])
		if int64(at) >= int64(len(m.units)) {
			return "", false
		}
		u := m.units[at]
		if u&(1<<31|0xff) != uint32(s[i]) { // the label; the top bit marks a leaf, never a child
			return "", false
		}
		at ^= offset(u)
		if u>>8&1 == 1 { // a text ends here: its leaf is the child under byte 0
			return m.replacement(at)
		}
	}
	return "", false
}

// offset is how far a unit's children lie from it.
func offset(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }

func (m *charsmap) replacement(leaf uint32) (string, bool) {
	if int64(leaf) >= int64(len(m.units)) {
		return "", false
	}
	start := int(m.units[leaf] & (1<<31 - 1))
	if start > len(m.blob) {
		return "", false
	}
	to, _, _ := strings.Cut(m.blob[start:], "\x00")
	return to, true
}

func (m *charsmap) mapped(r rune) bool {
	return r >= 1<<16 || m.bmp[r/64]>>(r%64)&1 == 1
}

// normalize appends the normalised form of about size bytes of s, up to a border between clusters, and
// returns what is left of s.
func (m *charsmap) normalize(dst []byte, s string, size int) (out []byte, rest string) {
	clean := 0 // s[clean:i] is to be copied as it is
	i := 0
	props, n := firstProps(s)
	for i < len(s) && i < size {
		after, next := firstProps(s[i+n:])
		if next > 0 && !simple(props, after) {
			if end := i + clusterSize(s[i:]); end > i+n {
				dst = m.cluster(append(dst, s[clean:i]...), s[i:end])
				i, clean = end, end
				props, n = firstProps(s[i:])
				continue
			}
		}
		if r, _ := utf8.DecodeRuneInString(s[i:]); m.mapped(r) {
			dst = m.char(append(dst, s[clean:i]...), s[i:i+n])
			clean = i + n
		}
		i, props, n = i+n, after, next
	}
	return append(dst, s[clean:i]...), s[i:]
}

// cluster appends the normalised form of a cluster of several characters, as a whole if it is short and the
// map has it, else character by character. That longer ones aren't looked up at all, and that the shortest
// match replaces everything, has no reason but that SentencePiece's results come out that way.
func (m *charsmap) cluster(dst []byte, s string) []byte {
	if len(s) < maxMapped {
		if to, ok := m.lookup(s); ok {
			return append(dst, to...)
		}
	}
	for i, r := range s {
		dst = m.char(dst, s[i:i+utf8.RuneLen(r)])
	}
	return dst
}

func (m *charsmap) char(dst []byte, c string) []byte {
	if to, ok := m.lookup(c); ok {
		return append(dst, to...)
	}
	return append(dst, c...)
}
