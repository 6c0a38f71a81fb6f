package embedder

import (
	"fmt"
	"math"
	"strings"

	"github.com/embedfleet/embedfleet/vector"
)

// A window is a stretch of a text with its row of ids.
type window struct {
	start, end int // bytes of the text, prompt not counted
	ids        []int32
	prompt     int // tokens of ids that belong to a prompt which is not pooled
	truncated  bool
	all        int // tokens of the whole text, if truncated
}

func (w window) embedding(v vector.Vector) vector.Embedding {
	return vector.Embedding{Vector: v, Tokens: len(w.ids), Truncated: w.truncated, TokensIn: w.all}
}

// An encoder makes rows from texts under one prompt.
type encoder struct {
	tok     Tokenizer
	prompt  string
	max     int // tokens of a row
	special int // tokens of an empty text
	bare    int // tokens of the prompt alone, special ones included
	left    int // tokens of the prompt that are left out of the vector
}

// newEncoder measures the prompt. It refuses one that leaves no room for a text.
func newEncoder(tok Tokenizer, set Settings, prompt string) (encoder, error) {
	enc := encoder{tok: tok, prompt: prompt, max: set.MaxTokens}
	enc.special = enc.count("")
	// A space at the prompt's end belongs to the text's first token where there is a text.
	enc.bare = enc.count(strings.TrimRight(prompt, " "))
	if set.PromptExcluded && prompt != "" {
		enc.left = enc.leftOut()
	}
	if enc.bare >= enc.max {
		return encoder{}, fmt.Errorf("prompt %q and the special tokens take %d tokens of %d, no room for a text", prompt, enc.bare, enc.max)
	}
	return enc, nil
}

// tokens encodes text without the prompt, up to the row's limit.
func (enc encoder) tokens(text string) ([]int32, bool) {
	return enc.tok.Encode(nil, text, enc.max)
}

// count returns the tokens of text without the prompt, special ones included, at most the row's limit.
func (enc encoder) count(text string) int {
	ids, _ := enc.tokens(text)
	return len(ids)
}

// countAll is count without a limit.
func (enc encoder) countAll(text string) int {
	enc.max = math.MaxInt32
	return enc.count(text)
}

// whole makes the row of a text, cut at the row's limit. A text of which nothing would reach the model but
// special tokens and prompt is [ErrEmpty]: white space, control characters, nothing.
func (enc encoder) whole(text string) (window, error) {
	if strings.TrimSpace(text) == "" {
		return window{}, ErrEmpty
	}
	ids, truncated := enc.tokens(enc.prompt + text)
	// One token more than the prompt may still be the space between the two.
	if len(ids) <= enc.bare+1 && enc.count(text) <= enc.special {
		return window{}, ErrEmpty
	}
	w := window{end: len(text), ids: ids, prompt: enc.left, truncated: truncated}
	if truncated { // whoever handed it in is told by how much it is too long
		w.all = enc.countAll(enc.prompt + text)
	}
	return w, nil
}

// leftOut counts what sentence-transformers leaves out of the pooling (_get_prompt_length): the tokens of the prompt
// as a text of its own, with the special ones before it and without the one behind it.
func (enc encoder) leftOut() int {
	ids, _ := enc.tokens(enc.prompt)
	special, _ := enc.tokens("")
	if n := len(special); n > 0 && ids[len(ids)-1] == special[n-1] {
		return len(ids) - 1
	}
	return len(ids)
}
