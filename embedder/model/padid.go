package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

// The files a tokenizer may be made of. Where tokenizer.json exists it is the whole tokenizer, and the
// others are not consulted. Python sometimes differs: without a
// tokenizer_class it builds the tokenizer of the model type with that one's defaults.
const (
	tokenizerFile = "tokenizer.json"
	vocabFile     = "vocab.txt"
	spmFile       = "sentencepiece.bpe.model"
)

// tokenizerConfig is what we read of tokenizer_config.json and special_tokens_map.json.
type tokenizerConfig struct {
	Pad            token    `json:"pad_token"`
	MaxLength      *float64 `json:"model_max_length"` // 1e30 means that nobody said
	TruncationSide string   `json:"truncation_side"`
}

// readTokenizerConfig merges the two files; tokenizer_config.json wins.
func readTokenizerConfig(d folder, dir string) (tokenizerConfig, error) {
	var c tokenizerConfig
	// Decoding into the same struct leaves what the second file doesn't mention.
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		if _, err := d.read(path.Join(dir, name), &c); err != nil {
			return c, err
		}
	}
	// Cutting on the left keeps other tokens, and no tokenizer of ours does it.
	if c.TruncationSide != "" && c.TruncationSide != "right" {
		return c, fmt.Errorf("tokenizer_config.json: truncation_side %q is not right", c.TruncationSide)
	}
	return c, nil
}

// tokenizerFiles lists what the tokenizer is made of, for its digest.
func tokenizerFiles(d folder, dir string) ([]string, error) {
	if name := path.Join(dir, tokenizerFile); d.has(name) {
		return []string{name}, nil
	}
	older := vocabFile
	if !d.has(path.Join(dir, older)) {
		older = spmFile
	}
	if !d.has(path.Join(dir, older)) {
		return nil, fmt.Errorf("%s is missing, and %s and %s too", path.Join(dir, tokenizerFile), vocabFile, spmFile)
	}
	var names []string
	for _, name := range []string{older, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"} {
		if name = path.Join(dir, name); d.has(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// padID returns the id of the padding token, of which the tokenizer is the witness: config.json's
// pad_token_id is another id in some folders (multilingual-e5-small: 0 there, 1 in the tokenizer), since
// of a BERT it decides nothing. It is -1 if the tokenizer has none.
func padID(d folder, dir string, pad token) (int, error) {
	name := path.Join(dir, tokenizerFile)
	switch {
	case d.has(name):
	case !d.has(path.Join(dir, vocabFile)) && d.has(path.Join(dir, spmFile)):
		return 1, nil // such a folder's tokenizer is XLM-R's, whose <pad> has no other id
	default:
		return lineOf(d, path.Join(dir, vocabFile), string(pad))
	}
	var t struct {
		Added []struct {
			ID      int    `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
		Padding *struct {
			ID int `json:"pad_id"`
		} `json:"padding"`
		Model struct {
			Vocab json.RawMessage `json:"vocab"`
		} `json:"model"`
	}
	if _, err := d.read(name, &t); err != nil {
		return -1, err
	}
	for _, a := range t.Added {
		if a.Content == string(pad) && pad != "" {
			return a.ID, nil
		}
	}
	if pad != "" {
		var ids map[string]int // a WordPiece vocabulary; a Unigram one is a list, its padding an added token
		if json.Unmarshal(t.Model.Vocab, &ids) == nil {
			if id, ok := ids[string(pad)]; ok {
				return id, nil
			}
		}
	}
	// The padding that the file was saved with is the last witness: its id is right even where its length
	// and side are only leftovers of a training run.
	if t.Padding != nil {
		return t.Padding.ID, nil
	}
	return -1, nil
}

// lineOf returns the number of the line of a vocabulary that reads pad, counted from 0.
//
// A vocabulary without tokenizer.json is one token a line, and its line is its id.
func lineOf(d folder, name, pad string) (int, error) {
	raw, err := checkpoint.ReadSmall(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	} else if err != nil {
		return -1, fmt.Errorf("reading %s: %w", name, plain(err))
	}
	if pad == "" {
		pad = "[PAD]" // BertTokenizer's default
	}
	id := 0
	for line := range strings.Lines(string(raw)) {
		if strings.TrimRight(line, "\r\n") == pad {
			return id, nil
		}
		id++
	}
	return -1, nil
}
