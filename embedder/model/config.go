package model

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// config is what we read of config.json. Fields whose absence means something else than their zero are
// pointers.
type config struct {
	ModelType     string   `json:"model_type"`
	Architectures []string `json:"architectures"`

	VocabSize    int      `json:"vocab_size"`
	Hidden       int      `json:"hidden_size"`
	Layers       int      `json:"num_hidden_layers"`
	Heads        int      `json:"num_attention_heads"`
	Intermediate int      `json:"intermediate_size"`
	Positions    int      `json:"max_position_embeddings"`
	TypeVocab    *int     `json:"type_vocab_size"`
	PadID        *int     `json:"pad_token_id"`
	Epsilon      *float64 `json:"layer_norm_eps"`
	Activation   string   `json:"hidden_act"`

	PositionType   string           `json:"position_embedding_type"`
	IsDecoder      bool             `json:"is_decoder"`
	CrossAttention bool             `json:"add_cross_attention"`
	Quantization   map[string]any   `json:"quantization_config"`
	AutoMap        map[string]any   `json:"auto_map"`
	PrunedHeads    map[string][]int `json:"pruned_heads"`

	// DistilBERT's and others' names of the same things, only to describe a foreign graph.
	Dim     int `json:"dim"`
	DModel  int `json:"d_model"`
	NLayers int `json:"n_layers"`
	NHeads  int `json:"n_heads"`
}

// A network is the checked shape of an encoder that we emit a graph for.
type network struct {
	Type         string
	Layers       int
	Hidden       int
	Heads        int
	Intermediate int
	Vocab        int
	Positions    int // rows of the position table, not all of which a text can use
	TypeVocab    int
	PadID        int // config.json's, which decides RoBERTa's positions; -1 where it decides nothing
	Epsilon      float64
	Activation   activation

	Output string // of a foreign graph, which one is taken
}

// An activation is the function between the two feed-forward layers.
type activation string

const (
	geluErf  activation = "gelu"      // x Φ(x)
	geluTanh activation = "gelu_tanh" // its approximation by tanh
	relu     activation = "relu"
)

// activationOf knows transformers' names (activations.py, ACT2FN) of the functions that we emit exactly.
//
// Approximations that transformers offers under other names (quick_gelu, gelu_10) are refused: near is not
// the same.
func activationOf(name string) (activation, error) {
	switch name {
	case "", "gelu", "gelu_python":
		return geluErf, nil
	case "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh":
		return geluTanh, nil
	case "relu":
		return relu, nil
	}
	return "", fmt.Errorf("hidden_act %q is none of gelu, gelu_new, gelu_pytorch_tanh, relu", name)
}

// compiled reports whether we emit the graph of an architecture ourselves.
func compiled(modelType string) bool {
	return modelType == "bert" || modelType == "roberta" || modelType == "xlm-roberta"
}

// countsFromPad reports whether an architecture's positions begin behind its padding id, so that it reads
// pad + 1 tokens less than it has positions (transformers, create_position_ids_from_input_ids and its
// copies). All but the first two can only come as foreign graphs.
func countsFromPad(modelType string) bool {
	switch modelType {
	case "roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "mpnet",
		"data2vec-text", "ibert", "xmod", "longformer", "luke":
		return true
	}
	return false
}

// usable returns how many tokens a text can have, and 0 if config.json doesn't say.
func (c *config) usable() int {
	if c.Positions > 0 && countsFromPad(c.ModelType) {
		return max(0, c.Positions-c.pad()-1)
	}
	return max(0, c.Positions)
}

// pad returns pad_token_id, or transformers' default of the architecture.
func (c *config) pad() int {
	switch {
	case c.PadID != nil:
		return *c.PadID
	case countsFromPad(c.ModelType):
		return 1
	}
	return 0
}

// network checks that c describes an encoder we can emit and returns its shape. Absent fields have the
// defaults of transformers' BertConfig and RobertaConfig, sizes excepted: those must be there.
func (c *config) network() (network, error) {
	if err := c.checkKind(); err != nil {
		return network{}, err
	}
	if err := c.checkSizes(); err != nil {
		return network{}, err
	}
	act, err := activationOf(c.Activation)
	n := network{
		Type: c.ModelType, Layers: c.Layers, Hidden: c.Hidden, Heads: c.Heads, Intermediate: c.Intermediate,
		Vocab: c.VocabSize, Positions: c.Positions, TypeVocab: 2, PadID: -1, Epsilon: 1e-12, Activation: act,
	}
	if c.TypeVocab != nil {
		n.TypeVocab = *c.TypeVocab
	}
	if c.Epsilon != nil {
		n.Epsilon = *c.Epsilon
	}
	// Of a BERT the padding id decides nothing, since its positions count padding too; leaving it out keeps
	// it out of the space.
	if countsFromPad(c.ModelType) {
		n.PadID = c.pad()
	}
	switch {
	case err != nil:
		return n, err
	case n.TypeVocab < 1:
		return n, fmt.Errorf("type_vocab_size is %d, at least 1 is needed", n.TypeVocab)
	case !(n.Epsilon > 0 && n.Epsilon < 1) || math.IsNaN(n.Epsilon):
		return n, fmt.Errorf("layer_norm_eps is %v, expected is a small positive number", n.Epsilon)
	case n.PadID < -1 || n.PadID >= n.Vocab:
		return n, fmt.Errorf("pad_token_id is %d, outside the vocabulary of %d", n.PadID, n.Vocab)
	case c.usable() < 1:
		return n, fmt.Errorf("max_position_embeddings %d leaves no position behind pad_token_id %d", n.Positions, n.PadID)
	}
	return n, nil
}

// checkKind refuses what would need other mathematics than a plain encoder's.
func (c *config) checkKind() error {
	switch {
	case c.ModelType == "":
		return errors.New("model_type is missing")
	case !compiled(c.ModelType):
		return fmt.Errorf("architecture %s is none of bert, roberta, xlm-roberta", c.ModelType)
	case c.IsDecoder || c.CrossAttention:
		return errors.New("is_decoder or add_cross_attention is set: only encoders make embeddings here")
	case c.PositionType != "" && c.PositionType != "absolute":
		return fmt.Errorf("position_embedding_type %q is not absolute", c.PositionType)
	case len(c.Quantization) > 0:
		return errors.New("quantization_config is set: only unquantised weights are read")
	case len(c.PrunedHeads) > 0:
		return errors.New("pruned_heads is set: layers of different width are not supported")
	case c.AutoMap["AutoModel"] != nil:
		return fmt.Errorf("auto_map names code of its own (%v), which is not run", c.AutoMap["AutoModel"])
	}
	// An older config.json may name no class at all; the type alone is then believed.
	for _, a := range c.Architectures {
		if !encoderClass(a) {
			return fmt.Errorf("architecture %s is not a text encoder with token vectors", a)
		}
	}
	return nil
}

// encoderClass reports whether transformers' class name stands for a body, alone or with the head it was
// pre-trained with, which sentence-transformers ignores. The other heads, a classifier's above all, were
// trained together with a body that then makes poor embeddings: taking such a folder is a mistake.
func encoderClass(name string) bool {
	body, head := name, ""
	for _, family := range []string{"Bert", "Roberta", "XLMRoberta"} {
		if rest, ok := strings.CutPrefix(name, family); ok {
			body, head = family, rest
		}
	}
	return body != name && slices.Contains([]string{"Model", "ForMaskedLM", "ForPreTraining"}, head)
}

// checkSizes demands the sizes of every table and product. They have no defaults here: a config.json
// without them belongs to something else.
func (c *config) checkSizes() error {
	for _, f := range []struct {
		name  string
		value int
	}{
		{"vocab_size", c.VocabSize}, {"hidden_size", c.Hidden}, {"num_hidden_layers", c.Layers},
		{"num_attention_heads", c.Heads}, {"intermediate_size", c.Intermediate},
		{"max_position_embeddings", c.Positions},
	} {
		// The upper bound is far beyond any model and keeps products of two in range.
		if f.value < 1 || f.value > 1<<24 {
			return fmt.Errorf("%s is %d or missing, expected is a positive number", f.name, f.value)
		}
	}
	if c.Hidden%c.Heads != 0 {
		return fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d", c.Hidden, c.Heads)
	}
	return nil
}

// describe fills in what is known of an architecture that we don't emit.
func (c *config) describe() network {
	return network{
		Type:   c.ModelType,
		Layers: cmp.Or(c.Layers, c.NLayers), Hidden: cmp.Or(c.Hidden, c.Dim, c.DModel), Heads: cmp.Or(c.Heads, c.NHeads),
		Vocab: c.VocabSize, Positions: c.Positions, PadID: -1,
	}
}
