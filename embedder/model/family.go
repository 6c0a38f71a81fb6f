package model

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A family describes an architecture: what it is called, what its tensors are called, and in which traits it
// differs from a BERT. Everything else is done by [encoder] for all of them. docs/add-an-architecture.md adds one.
type family struct {
	types   []string // config.json's model_type
	classes []string // transformers' class names, without Model, ForMaskedLM and the like
	code    []string // classes of code in a repository (auto_map) that does what is described here
	heads   []string // other endings of class names whose head is left out
	fromPad bool     // positions begin behind the padding id
	names   names
	renamed *names // what the tensors are called in files of another origin; nil: nothing else
	// What transformers takes where config.json is silent; without them GELU and 1e-12, as for BERT.
	activation activation
	epsilon    float64
	// traits sets what differs, and refuses what config.json asks for beyond it. The sizes are set, and every other
	// field as [config.basics] says. nil: nothing differs.
	traits func(c *config, n *network) error
}

// names are those of an architecture's tensors, without ".weight" and ".bias". What has no name is not there: the
// norms say by it whether they stand before a branch, at its end, or behind the sum.
type names struct {
	words, positions, types string // tables
	norm                    string // of the sum of the tables
	project                 string // makes it Hidden wide, before or behind the norm
	projectFirst            bool
	projectBias             bias
	relative, relativeNorm  string // table of relative positions

	layer             string // of layer %d, and of group %d with it where weights are shared
	query, key, value string
	packed            string // the three in one
	queryNorm         string // of each head
	keyNorm           string
	attention         string // the projection behind the heads
	up, gate          string
	upGate            string // the two in one
	down              string

	attentionIn, attentionEnd, attentionSum string // norms before the branch, at its end, behind the sum
	feedIn, feedEnd, feedSum                string
	firstIn                                 bool // the first layer has an attentionIn too
	final                                   string
}

// of returns what stands before the names of layer i.
func (n names) of(i int) string { return strings.ReplaceAll(n.layer, "%d", strconv.Itoa(i)) }

// families are the architectures that are compiled.
var families = []*family{
	&bert, &roberta, &distilbert, &electra, &albert, &mpnet, &deberta,
	&modernbert, &gte, &nomic, &jina, &eurobert, &qwen3, &gemma3,
}

// familyOf returns the family of a model_type, or nil.
func familyOf(modelType string) *family {
	for _, f := range families {
		if slices.Contains(f.types, modelType) {
			return f
		}
	}
	return nil
}

// Compiles reports why the weights beside a config.json can't be made into a graph here, or nil. Such a model needs an
// exported graph in its folder.
func Compiles(configJSON []byte) error {
	c := new(config)
	if err := json.Unmarshal(configJSON, c); err != nil {
		return fmt.Errorf("reading config.json: %w", err)
	}
	_, err := c.network()
	return err
}

// known lists the architectures for an error.
func known() string {
	var all []string
	for _, f := range families {
		all = append(all, f.types...)
	}
	return strings.Join(all, ", ")
}

// encoderClass reports whether transformers' class name stands for a body, alone or with the head it was
// pre-trained with, which sentence-transformers ignores. The other heads, a classifier's above all, were
// trained together with a body that then makes poor embeddings: taking such a folder is a mistake.
func (f *family) encoderClass(name string) bool {
	heads := append([]string{"Model", "ForMaskedLM", "ForPreTraining"}, f.heads...)
	for _, class := range f.classes {
		if head, ok := strings.CutPrefix(name, class); ok && slices.Contains(heads, head) {
			return true
		}
	}
	return false
}

// runs reports whether the code that an auto_map names, FILE.Class or REPOSITORY--FILE.Class, is one that the family
// describes. It is never run.
func (f *family) runs(code any) bool {
	name := fmt.Sprint(code)
	return slices.Contains(f.code, name[strings.LastIndexByte(name, '.')+1:])
}
