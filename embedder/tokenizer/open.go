package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// maxFile bounds what is read of any one file. The largest tokenizer.json in use has 20 MB.
const maxFile = 256 << 20

// Open loads the tokenizer of a model folder: its tokenizer.json, or, if that is missing, what transformers
// makes of the vocab.txt of a BERT or of the sentencepiece.bpe.model of an XLM-R, with the settings in
// tokenizer_config.json. It may also be given the path of a tokenizer.json itself,
// under any name; then nothing beside it is read.
//
// From the folder's other files come the padding token, sentence-transformers' do_lower_case and
// [Tokenizer.Warnings]; ids that do not fit into
// the vocab_size of its config.json are refused.
func Open(path string) (*Tokenizer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the tokenizer: %w", err)
	}
	if info.IsDir() {
		return openFolder(path)
	}
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return fromJSON(path, data, false)
}

func openFolder(dir string) (*Tokenizer, error) {
	s, err := readSettings(dir)
	if err != nil {
		return nil, err
	}
	var t *Tokenizer
	file := filepath.Join(dir, "tokenizer.json")
	data, err := readFile(file)
	switch {
	case err == nil:
		if t, err = fromJSON(file, data, s.lower()); err == nil {
			err = t.checkBeside(dir)
		}
	case errors.Is(err, fs.ErrNotExist):
		file, t, err = openWithoutJSON(dir, s)
	}
	if err != nil {
		return nil, err
	}
	if s.model.VocabSize > 0 {
		if err := t.CheckTable(s.model.VocabSize); err != nil {
			return nil, fmt.Errorf("%s: %w, says the vocab_size of config.json", file, err)
		}
	}
	s.apply(t)
	return t, nil
}

// openWithoutJSON looks for what older folders have, and otherwise says what to do.
func openWithoutJSON(dir string, s *settings) (file string, t *Tokenizer, err error) {
	for _, older := range []struct {
		name string
		read func(data []byte, s *settings) (*Tokenizer, error)
	}{{"vocab.txt", fromVocabTxt}, {"sentencepiece.bpe.model", fromSentencePiece}} {
		file = filepath.Join(dir, older.name)
		data, err := readFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if t, err = older.read(data, s); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return file, t, err
	}
	for _, name := range []string{"spiece.model", "tokenizer.model", "vocab.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return "", nil, fmt.Errorf("%s: of the tokenizer there is only %s, which is not read here; %s", dir, name, getJSON)
		}
	}
	return "", nil, fmt.Errorf("%s: there is no tokenizer.json, no vocab.txt and no sentencepiece.bpe.model in this folder", dir)
}

// getJSON is what to do about a folder from which the tokenizer can't be made.
const getJSON = "get tokenizer.json from the model's page, or write it in Python with " +
	"AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"

// readFile is os.ReadFile with a bound.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the tokenizer: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the tokenizer: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: more than %d MB, this is not a tokenizer", path, maxFile>>20)
	}
	return data, nil
}

// settings are what the files beside a tokenizer.json say about it.
type settings struct {
	config tokenizerConfig
	model  modelConfig
	module sentenceConfig
	named  map[string]string // role, as "pad_token", to token
	extra  []string          // additional_special_tokens
	from   map[string]string // role to the file that says so
}

// tokenizerConfig is the part of tokenizer_config.json that matters here.
type tokenizerConfig struct {
	Class         string                `json:"tokenizer_class"`
	Lower         *bool                 `json:"do_lower_case"`
	Clean         *bool                 `json:"clean_text"`
	StripAccents  *bool                 `json:"strip_accents"`
	Chinese       *bool                 `json:"tokenize_chinese_chars"`
	BasicTokenize *bool                 `json:"do_basic_tokenize"`
	Added         map[string]tokenValue `json:"added_tokens_decoder"`
}

// modelConfig is the part of config.json that matters here.
type modelConfig struct {
	VocabSize int    `json:"vocab_size"`
	ModelType string `json:"model_type"`
	Class     string `json:"tokenizer_class"`
}

// sentenceConfig is the part of sentence_bert_config.json, or of an older file named after another architecture,
// that matters here. The first of these files counts.
type sentenceConfig struct {
	Lower bool `json:"do_lower_case"`
}

// lower reports whether sentence-transformers lower-cases texts. It puts a normaliser before the tokenizer's
// own, so special tokens written out in a text are found first.
func (s *settings) lower() bool { return s.module.Lower }

// A tokenValue is a token as both files write it: a string, or an object with the string as its content.
type tokenValue string

func (v *tokenValue) UnmarshalJSON(b []byte) error {
	var o struct{ Content string }
	if len(b) > 0 && b[0] == '{' {
		err := json.Unmarshal(b, &o)
		*v = tokenValue(o.Content)
		return err
	}
	return json.Unmarshal(b, (*string)(v))
}

// roles are the fields that name special tokens.
var roles = [...]string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

func readSettings(dir string) (*settings, error) {
	s := &settings{named: map[string]string{}, from: map[string]string{}}
	for _, f := range []struct {
		name string
		into any
	}{{"config.json", &s.model}, {"tokenizer_config.json", &s.config}} {
		if err := readJSON(filepath.Join(dir, f.name), f.into); err != nil {
			return nil, err
		}
	}
	for _, arch := range []string{"bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"} {
		path := filepath.Join(dir, "sentence_"+arch+"_config.json")
		if err := readJSON(path, &s.module); err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	// Of the two files, tokenizer_config.json is the one that transformers believes.
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		var fields map[string]json.RawMessage
		path := filepath.Join(dir, name)
		if err := readJSON(path, &fields); err != nil {
			return nil, err
		}
		if err := s.names(name, fields); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return s, nil
}

// names notes the special tokens that one file names.
func (s *settings) names(file string, fields map[string]json.RawMessage) error {
	for _, role := range roles {
		var v tokenValue
		if raw, ok := fields[role]; ok {
			if err := json.Unmarshal(raw, &v); err != nil {
				return fmt.Errorf("field %q: %w", role, err)
			}
		}
		if v != "" {
			s.named[role], s.from[role] = string(v), file
		}
	}
	var more []tokenValue
	if raw, ok := fields["additional_special_tokens"]; ok {
		if err := json.Unmarshal(raw, &more); err != nil {
			return fmt.Errorf("field \"additional_special_tokens\": %w", err)
		}
	}
	for _, v := range more {
		if !slices.Contains(s.extra, string(v)) {
			s.extra = append(s.extra, string(v))
		}
	}
	return nil
}

// readJSON decodes a file that may be missing.
func readJSON(path string, v any) error {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// apply sets the padding token and notes what the settings say that the tokenizer doesn't bear out. None of
// it is an error: ids come from tokenizer.json alone, and published folders are like that. A much used copy
// of ko-sroberta names <s> and </s>, which its vocabulary of BERT's kind has never had.
func (s *settings) apply(t *Tokenizer) {
	if id, ok := t.lookup(s.named["pad_token"]); ok {
		t.pad = id
	}
	warn := func(format string, args ...any) { t.warnings = append(t.warnings, fmt.Sprintf(format, args...)) }
	for _, role := range roles {
		if token := s.named[role]; token != "" {
			if _, ok := t.lookup(token); !ok {
				warn("%s names %q as %s, but no such token exists", s.from[role], token, role)
			}
		}
	}
	for _, token := range s.extra {
		if _, ok := t.lookup(token); !ok {
			warn("%q is an additional special token, but no such token exists", token)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.config.Added)) {
		token := string(s.config.Added[id])
		if have, ok := t.lookup(token); !ok {
			warn("tokenizer_config.json adds token %q with id %s, which does not exist", token, id)
		} else if fmt.Sprint(have) != id {
			warn("tokenizer_config.json gives token %q id %s, its id is %d", token, id, have)
		}
	}
	if b, ok := t.pipe.(*bert); ok && s.config.Lower != nil && *s.config.Lower != b.lower {
		warn("tokenizer_config.json says do_lower_case is %t, the tokenizer says %t and is followed", *s.config.Lower, b.lower)
	}
}
