package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// spModel is the part of a SentencePiece model that the XLM-R tokenizer is made of. The names are those of
// sentencepiece_model.proto.
type spModel struct {
	pieces   []spPiece
	kind     uint64 // trainer_spec.model_type
	charsmap []byte // normalizer_spec.precompiled_charsmap
}

type spPiece struct {
	text  string
	score float32
	kind  uint64
}

// Values of enumerations in sentencepiece_model.proto.
const (
	spUnigram     = 1 // ModelType
	spNormal      = 1 // SentencePiece.Type
	spUserDefined = 4
)

// fromSentencePiece makes of sentencepiece.bpe.model what transformers' converter for XLM-R makes of it: the
// pieces behind the first three, with XLM-R's own special tokens around them.
func fromSentencePiece(data []byte, s *settings) (*Tokenizer, error) {
	if err := s.checkXLMR(); err != nil {
		return nil, err
	}
	m, err := readSentencePiece(data)
	if err != nil {
		return nil, err
	}
	pieces, err := m.xlmr()
	if err != nil {
		return nil, err
	}
	mask := int32(len(pieces) - 1)
	c := &components{kinds: []string{"Metaspace"}}
	if s.lower() {
		c.steps = append(c.steps, lowercase{})
	}
	if len(m.charsmap) > 0 {
		table, err := newCharsmap(base64.StdEncoding.EncodeToString(m.charsmap))
		if err != nil {
			return nil, err
		}
		c.steps = append(c.steps, table)
	}
	spaces, err := newRegex(" {2,}")
	if err != nil {
		return nil, err
	}
	c.steps = append(c.steps, strip{right: true}, &replace{spaces, string(metaspace)})
	mark := string(metaspace)
	c.splitters = []splitter{&marker{mark: mark, splitter: &cutter{pattern: literal(mark), behavior: mergedWithNext}}}
	d := &definition{padID: none}
	for i, token := range xlmrSpecial {
		d.added = append(d.added, addedToken{id: int32(i), content: token})
	}
	d.added = append(d.added, addedToken{id: mask, content: "<mask>", lstrip: true})
	if err := d.useUnigram(pieces, unigramSettings{unknown: 3}, c); err != nil {
		return nil, err
	}
	for _, token := range s.extra {
		id, ok := d.vocab.id(token)
		if !ok {
			return nil, fmt.Errorf("additional special token %q is not among its %d pieces", token, len(pieces))
		}
		d.added = append(d.added, addedToken{id: id, content: token})
	}
	d.around("<s>", "</s>", robertaTemplates)
	return d.build()
}

// xlmrSpecial are the tokens that XLM-R puts in the place of SentencePiece's first three.
var xlmrSpecial = [...]string{"<s>", "<pad>", "</s>", "<unk>"}

// checkXLMR refuses folders whose sentencepiece.bpe.model means something else.
func (s *settings) checkXLMR() error {
	class := s.class()
	switch {
	case class != "" && class != "XLMRobertaTokenizer":
		return fmt.Errorf("tokenizer_class %q is not supported without a tokenizer.json; %s", class, getJSON)
	case class == "" && !slices.Contains([]string{"", "xlm-roberta", "xlm-roberta-xl"}, s.model.ModelType):
		return fmt.Errorf("model_type %q is not supported without a tokenizer.json; %s", s.model.ModelType, getJSON)
	}
	for role, want := range map[string]string{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>",
		"sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"} {
		if got := s.token(role, want); got != want {
			return fmt.Errorf("%s of %q is not supported without a tokenizer.json; %s", role, got, getJSON)
		}
	}
	return nil
}

// xlmr returns the pieces in the order of their ids.
func (m *spModel) xlmr() ([]piece, error) {
	if m.kind != spUnigram {
		return nil, fmt.Errorf("its model_type is %d, only %d, Unigram, is supported; %s", m.kind, spUnigram, getJSON)
	}
	for i, want := range []string{"<unk>", "<s>", "</s>"} {
		if i >= len(m.pieces) || m.pieces[i].text != want {
			return nil, fmt.Errorf("its piece %d is not %q: this is not XLM-R's; %s", i, want, getJSON)
		}
	}
	var pieces []piece
	add := func(token string, score float32) {
		pieces = append(pieces, piece{token: token, id: int32(len(pieces)), score: float64(score)})
	}
	for _, token := range xlmrSpecial {
		add(token, 0)
	}
	for _, p := range m.pieces[3:] {
		if p.kind == spUserDefined {
			return nil, fmt.Errorf("its piece %q is user-defined, which is not supported; %s", p.text, getJSON)
		}
		add(p.text, p.score)
	}
	add("<mask>", 0)
	return pieces, nil
}

var errProto = errors.New("it is cut off, or not a SentencePiece model")

// readSentencePiece reads a ModelProto.
func readSentencePiece(data []byte) (*spModel, error) {
	m := &spModel{kind: spUnigram}
	err := eachField(data, func(field int, _ uint64, b []byte) error {
		switch field {
		case 1: // pieces
			p := spPiece{kind: spNormal}
			m.pieces = append(m.pieces, p)
			return m.pieces[len(m.pieces)-1].read(b)
		case 2: // trainer_spec
			return eachField(b, func(field int, v uint64, _ []byte) error {
				if field == 3 {
					m.kind = v
				}
				return nil
			})
		case 3: // normalizer_spec
			return eachField(b, func(field int, _ uint64, b []byte) error {
				if field == 2 {
					m.charsmap = b
				}
				return nil
			})
		}
		return nil
	})
	return m, err
}

func (p *spPiece) read(b []byte) error {
	return eachField(b, func(field int, v uint64, b []byte) error {
		switch field {
		case 1:
			p.text = string(b)
		case 2:
			p.score = math.Float32frombits(uint32(v))
		case 3:
			p.kind = v
		}
		return nil
	})
}

// eachField walks over a message of Protocol Buffers: a number comes as v, anything else as b.
func eachField(data []byte, each func(field int, v uint64, b []byte) error) error {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 || tag>>3 > math.MaxInt32 {
			return errProto
		}
		data = data[n:]
		var v uint64
		var b []byte
		switch tag & 7 {
		case 0:
			if v, n = binary.Uvarint(data); n <= 0 {
				return errProto
			}
		case 1, 5:
			if n = 8; tag&7 == 5 {
				n = 4
			}
			if len(data) < n {
				return errProto
			}
			for i, c := range data[:n] {
				v |= uint64(c) << (8 * i)
			}
		case 2:
			size, k := binary.Uvarint(data)
			if k <= 0 || size > uint64(len(data)-k) {
				return errProto
			}
			b, n = data[k:k+int(size)], k+int(size)
		default:
			return errProto
		}
		if err := each(int(tag>>3), v, b); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
