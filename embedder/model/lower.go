package model

import (
	"strings"
	"unicode"
)

// Input returns what is to be tokenised for a text: the prompt in front of it and, if the folder asks for
// it (do_lower_case in sentence_bert_config.json), lower case.
//
// Lower case is that of the tokenizers library's Lowercase, which sentence-transformers 6 uses: each
// character alone, so that a final Σ becomes σ. Versions before 5 called Python's str.lower(), which makes
// it ς; in nothing else do the two differ.
func (m *Model) Input(prompt, text string) string {
	if !m.Lowercase {
		return prompt + text
	}
	return lower(prompt + text)
}

// lower maps every character to its full lower case. İ is the only one whose has two characters
// (Unicode's SpecialCasing.txt); package strings gives it one.
func lower(s string) string {
	return strings.ReplaceAll(strings.Map(func(r rune) rune {
		if r == 'İ' {
			return r
		}
		return unicode.ToLower(r)
	}, s), "İ", "i̇")
}
