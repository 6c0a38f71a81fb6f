package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// bertClasses are the tokenizer classes whose vocab.txt is read as BERT's; bertModels the model types whose
// class is one of them when no file names a class.
var (
	bertClasses = [...]string{"BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer"}
	bertModels  = [...]string{"", "bert", "electra", "distilbert"}
)

// fromVocabTxt makes a Tokenizer of BERT's older form: a file with one piece a line, whose number is the id,
// and settings whose defaults are those of transformers' BertTokenizer.
func fromVocabTxt(data []byte, s *settings) (*Tokenizer, error) {
	if err := s.checkBERT(); err != nil {
		return nil, err
	}
	d := &definition{padID: none}
	pieces, err := d.readLines(data)
	if err != nil {
		return nil, err
	}
	lower := orDefault(s.config.Lower, true)
	w := wordPieceSettings{
		bertOptions: bertOptions{
			clean: orDefault(s.config.Clean, true),
			cjk:   orDefault(s.config.Chinese, true),
			strip: orDefault(s.config.StripAccents, lower),
			lower: lower,
		},
		unknown: s.token("unk_token", "[UNK]"), inside: "##", maxChars: 100,
	}
	if err := d.useWordPiece(pieces, w); err != nil {
		return nil, err
	}
	special := append([]string{w.unknown, s.token("sep_token", "[SEP]"), s.token("pad_token", "[PAD]"),
		s.token("cls_token", "[CLS]"), s.token("mask_token", "[MASK]")}, s.extra...)
	// transformers would give a missing one the next id, for which the model has no vector; a vocabulary
	// without them is not BERT's.
	for _, token := range special {
		id, ok := d.vocab.id(token)
		if !ok {
			return nil, fmt.Errorf("special token %q is not among its %d lines", token, len(pieces))
		}
		d.added = append(d.added, addedToken{id: id, content: token})
	}
	d.prefix = []namedID{{special[3], d.added[3].id}}
	d.suffix = []namedID{{special[1], d.added[1].id}}
	return d.build()
}

// checkBERT refuses folders whose vocab.txt means something else.
func (s *settings) checkBERT() error {
	class := s.config.Class
	if class == "" {
		class = s.model.Class
	}
	switch {
	case class != "" && !slices.Contains(bertClasses[:], strings.TrimSuffix(class, "Fast")):
		return fmt.Errorf("tokenizer_class %q is not supported without a tokenizer.json", class)
	case class == "" && !slices.Contains(bertModels[:], s.model.ModelType):
		return fmt.Errorf("model_type %q is not supported without a tokenizer.json", s.model.ModelType)
	case !orDefault(s.config.BasicTokenize, true):
		return errors.New("do_basic_tokenize false is not supported")
	}
	return nil
}

func (s *settings) token(role, otherwise string) string {
	if t := s.named[role]; t != "" {
		return t
	}
	return otherwise
}

func orDefault(v *bool, otherwise bool) bool {
	if v == nil {
		return otherwise
	}
	return *v
}

// readLines reads one piece a line, with line ends as Python reads them. Of a piece that is there twice the
// later line counts, as in Python.
func (d *definition) readLines(data []byte) ([]piece, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the file is not UTF-8")
	}
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
	at := map[string]int{}
	var pieces []piece
	for line := range strings.Lines(text) {
		token := strings.TrimSuffix(line, "\n")
		p := piece{token: token, id: int32(len(pieces))}
		if before, dup := at[token]; dup {
			d.warnings = append(d.warnings, fmt.Sprintf("token %q is in lines %d and %d of vocab.txt, the latter counts",
				token, before+1, len(pieces)+1))
			pieces[before].token = "" // keeps its number, without a piece
		}
		at[token] = len(pieces)
		pieces = append(pieces, p)
	}
	return slices.DeleteFunc(pieces, func(p piece) bool { return p.token == "" }), nil
}
