package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// checkBeside compares the ids of a folder's tokenizer.json with the older file beside it that holds the same
// vocabulary. Two exchanged ids leave a tokenizer.json that contradicts itself nowhere, and a model that reads
// one word for another; the second file is the only witness. Tokens that only one of them has say nothing:
// added tokens are not in the older file, and old copies have had pieces replaced.
func (t *Tokenizer) checkBeside(dir string) error {
	name, read := "vocab.txt", readLines
	switch t.kind {
	case "Unigram":
		name, read = "sentencepiece.bpe.model", readXLMR
	case "BPE":
		name, read = "vocab.json", readVocabJSON
	}
	file := filepath.Join(dir, name)
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pieces, err := read(data)
	if err != nil {
		if t.kind != "WordPiece" {
			return nil // of another kind than what tokenizer.json was made from
		}
		return fmt.Errorf("%s: %w", file, err)
	}
	same, first, differ := 0, piece{}, 0
	for _, p := range pieces {
		id, ok := t.lookup(p.token)
		switch {
		case ok && id == p.id:
			same++
		case ok:
			if differ++; differ == 1 {
				first = p
			}
		}
	}
	// A vocabulary that was cut down to a language keeps the older file of the whole one beside it; lines of a
	// vocab.txt are never stale like that.
	if differ == 0 || t.kind != "WordPiece" && 100*differ > same {
		return nil
	}
	id, _ := t.lookup(first.token)
	return fmt.Errorf("%s: token %q has id %d, %s beside it says %d; one of the two is damaged",
		filepath.Join(dir, "tokenizer.json"), first.token, id, name, first.id)
}

func readLines(data []byte) ([]piece, error) { return new(definition).readLines(data) }

func readXLMR(data []byte) ([]piece, error) {
	m, err := readSentencePiece(data)
	if err != nil {
		return nil, err
	}
	return m.xlmr()
}

func readVocabJSON(data []byte) ([]piece, error) {
	if !json.Valid(data) {
		return nil, errors.New("it is not valid JSON")
	}
	return scanIDs(data)
}
