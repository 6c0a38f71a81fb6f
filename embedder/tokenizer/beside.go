package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// checkBeside compares the ids of a folder's tokenizer.json with the vocab.txt beside it, where both hold a
// BERT vocabulary. Two exchanged ids leave a tokenizer.json that contradicts itself nowhere, and a model
// that reads one word for another; the second file is the only witness. Tokens that only one of them has
// say nothing: added tokens are not in vocab.txt, and old copies have had pieces replaced.
func (t *Tokenizer) checkBeside(dir string) error {
	if _, isBERT := t.pipe.(*bert); !isBERT {
		return nil
	}
	file := filepath.Join(dir, "vocab.txt")
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pieces, err := new(definition).readLines(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, p := range pieces {
		if id, ok := t.lookup(p.token); ok && id != p.id {
			return fmt.Errorf("%s: token %q has id %d, line %d of vocab.txt beside it says %d; one of the two is damaged",
				filepath.Join(dir, "tokenizer.json"), p.token, id, p.id+1, p.id)
		}
	}
	return nil
}
