package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

// A folder is the folder being opened. Names in it are relative with forward slashes, as in the errors.
//
// A name that a file of the folder gives is followed only if it stays inside by its spelling. Symbolic
// links are followed: the Hugging Face cache consists of them, and whoever can make one in the folder
// could as well have put the file there.
type folder string

func (d folder) path(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

// has reports whether name is a file in the folder.
func (d folder) has(name string) bool {
	info, err := os.Stat(d.path(name))
	return err == nil && info.Mode().IsRegular()
}

// read decodes the JSON file name into v and reports whether there is one. Its errors name the file.
func (d folder) read(name string, v any) (found bool, err error) {
	raw, err := checkpoint.ReadSmall(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", name, plain(err))
	}
	return true, nil
}

// plain takes the absolute path out of an error of package os.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// oneOrMany is a JSON string or a list of them.
type oneOrMany []string

func (o *oneOrMany) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*o = oneOrMany{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(o))
}

// A token is a special token in tokenizer_config.json or special_tokens_map.json: its text, or an object
// whose content is the text.
type token string

func (t *token) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, (*string)(t)) == nil {
		return nil
	}
	var object struct{ Content string }
	err := json.Unmarshal(b, &object)
	*t = token(object.Content)
	return err
}
