package tokenizer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// A vocabFamily is a kind of tokenizers whose vocab.txt is read.
type vocabFamily struct {
	classes []string          // tokenizer classes
	models  []string          // model types whose class is one of them when no file names a class
	special map[string]string // role to token, where no file says otherwise
	around  templates
}

var bertRoles = map[string]string{"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}

var vocabFamilies = [...]vocabFamily{
	{[]string{"BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer", "ConvBertTokenizer", "MobileBertTokenizer"},
		[]string{"", "bert", "electra", "distilbert", "convbert", "mobilebert", "nomic_bert", "new"}, bertRoles, bertTemplates},
	{[]string{"MPNetTokenizer"}, []string{"mpnet"},
		map[string]string{"unk_token": "[UNK]", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}, robertaTemplates},
}

// family tells what a folder's vocab.txt means, and refuses what it doesn't know.
func (s *settings) family() (*vocabFamily, error) {
	class := s.class()
	for i := range vocabFamilies {
		f := &vocabFamilies[i]
		if class == "" && slices.Contains(f.models, s.model.ModelType) || slices.Contains(f.classes, class) {
			if !orDefault(s.config.BasicTokenize, true) {
				return nil, errors.New("do_basic_tokenize false is not supported")
			}
			return f, nil
		}
	}
	if class != "" {
		return nil, fmt.Errorf("tokenizer_class %q is not supported without a tokenizer.json", class)
	}
	return nil, fmt.Errorf("model_type %q is not supported without a tokenizer.json", s.model.ModelType)
}

// class returns the tokenizer class that a folder names.
func (s *settings) class() string {
	return strings.TrimSuffix(cmp.Or(s.config.Class, s.model.Class), "Fast")
}

// fromVocabTxt makes a Tokenizer of BERT's older form: a file with one piece a line, whose number is the id,
// and settings whose defaults are those of transformers' class.
func fromVocabTxt(data []byte, s *settings) (*Tokenizer, error) {
	f, err := s.family()
	if err != nil {
		return nil, err
	}
	d := &definition{padID: none}
	pieces, err := d.readLines(data)
	if err != nil {
		return nil, err
	}
	lower := orDefault(s.config.Lower, true)
	c := &components{kinds: []string{"BertPreTokenizer"}}
	if s.lower() {
		c.steps = []normalizer{lowercase{}}
	}
	c.steps = append(c.steps, newBERT(bertOptions{
		clean: orDefault(s.config.Clean, true),
		cjk:   orDefault(s.config.Chinese, true),
		strip: orDefault(s.config.StripAccents, lower),
		lower: lower,
	}, wordPiece{maxChars: maxSorted}))
	c.splitters, _ = parseSplitters("BertPreTokenizer", &object{})
	w := wordPieceSettings{unknown: s.token("unk_token", f.special["unk_token"]), inside: "##", maxChars: 100}
	if err := d.useWordPiece(pieces, w, c); err != nil {
		return nil, err
	}
	var special []string
	for _, role := range slices.Sorted(maps.Keys(f.special)) {
		special = append(special, s.token(role, f.special[role]))
	}
	// transformers would give a missing one the next id, for which the model has no vector; a vocabulary
	// without them is not of this kind.
	for _, token := range append(special, s.extra...) {
		id, ok := d.vocab.id(token)
		if !ok {
			return nil, fmt.Errorf("special token %q is not among its %d lines", token, len(pieces))
		}
		d.added = append(d.added, addedToken{id: id, content: token})
	}
	d.around(s.token("cls_token", f.special["cls_token"]), s.token("sep_token", f.special["sep_token"]), f.around)
	return d.build()
}

// around puts two tokens of the vocabulary around texts.
func (d *definition) around(cls, sep string, with templates) {
	named := func(token string) namedID {
		id, _ := d.vocab.id(token) // checked before
		return namedID{token, id}
	}
	d.single, d.pair = with(named(cls), named(sep))
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
