// Package tokenids turns token ids of OpenAI's vocabularies back into the text they stand for. Clients that count tokens before
// they send, as LangChain's does, send the ids instead of the text; a model with another tokenizer needs the text.
package tokenids

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/pkoukk/tiktoken-go-loader/assets"
)

// The vocabularies.
const (
	CL100K = "cl100k_base" // of text-embedding-ada-002, text-embedding-3-small and -large, gpt-4
	O200K  = "o200k_base"  // of gpt-4o and later
)

// A table is one vocabulary: the bytes of its tokens one after the other.
type table struct {
	bytes []byte
	ends  []uint32 // of each id's bytes
}

var tables = map[string]func() (*table, error){
	CL100K: sync.OnceValues(func() (*table, error) { return load(CL100K) }),
	O200K:  sync.OnceValues(func() (*table, error) { return load(O200K) }),
}

// load reads lines of a token's bytes in base64, a blank, and its id, in rising order of ids.
func load(name string) (*table, error) {
	file, err := assets.Assets.ReadFile(name + ".tiktoken")
	if err != nil {
		return nil, fmt.Errorf("reading vocabulary %s: %w", name, err)
	}
	t := &table{}
	for line := range bytes.Lines(file) {
		token, id, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if n, err := strconv.Atoi(string(id)); err != nil || n != len(t.ends) {
			return nil, fmt.Errorf("reading vocabulary %s: id %q is out of order", name, id)
		}
		if t.bytes, err = base64.StdEncoding.AppendDecode(t.bytes, token); err != nil {
			return nil, fmt.Errorf("reading vocabulary %s: id %s: %w", name, id, err)
		}
		t.ends = append(t.ends, uint32(len(t.bytes)))
	}
	return t, nil
}

// token returns the bytes of an id.
func (t *table) token(id uint32) []byte {
	start := uint32(0)
	if id > 0 {
		start = t.ends[id-1]
	}
	return t.bytes[start:t.ends[id]]
}

// Size returns how many ids a vocabulary has, its special tokens apart.
func Size(vocabulary string) (int, error) {
	t, err := get(vocabulary)
	if err != nil {
		return 0, err
	}
	return len(t.ends), nil
}

func get(vocabulary string) (*table, error) {
	load := tables[vocabulary]
	if load == nil {
		return nil, fmt.Errorf("there is no vocabulary %q, want %s or %s", vocabulary, CL100K, O200K)
	}
	return load()
}

// Text returns the text of ids, of at most most bytes. Ids that were cut out of a longer list may begin or end within a
// character, whose bytes are left out then; anything else that is not UTF-8 is an error, for then the ids are of
// another vocabulary. So is an id that the vocabulary lacks, special tokens included: they stand for no text.
func Text(vocabulary string, ids []uint32, most int) (string, error) {
	t, err := get(vocabulary)
	if err != nil {
		return "", err
	}
	var text []byte
	for i, id := range ids {
		if int(id) >= len(t.ends) {
			return "", fmt.Errorf("id %d at place %d is none of %s, which has 0 to %d", id, i, vocabulary, len(t.ends)-1)
		}
		text = append(text, t.token(id)...)
		if len(text) > most {
			return "", fmt.Errorf("the text of these ids is longer than %d bytes", most)
		}
	}
	text = trim(text)
	if !utf8.Valid(text) {
		return "", fmt.Errorf("the ids are no text in %s: they are of another vocabulary", vocabulary)
	}
	return string(text), nil
}

// trim leaves out the rest of a character at the beginning and the beginning of one at the end.
func trim(text []byte) []byte {
	for n := 0; n < utf8.UTFMax-1 && len(text) > 0 && !utf8.RuneStart(text[0]); n++ {
		text = text[1:]
	}
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		last := text[len(text)-n:]
		if utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				text = text[:len(text)-n]
			}
			break
		}
	}
	return text
}
