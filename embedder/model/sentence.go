package model

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A module is an entry of modules.json.
type module struct {
	Path string `json:"path"`
	Type string `json:"type"`
}

// kind is the last part of the module's type: "sentence_transformers.models.Pooling" and
// "sentence_transformers.sentence_transformer.modules.pooling.Pooling" are both a Pooling.
func (m module) kind() string { return m.Type[strings.LastIndexByte(m.Type, '.')+1:] }

// A layout is what modules.json and the files it points at say: where the network lies and what happens
// to its token vectors.
type layout struct {
	transformer string // folder with config.json, the weights and the tokenizer; "" is the folder itself
	pooling     Pooling
	poolingFrom string // the file that named the pooling, or "" if none did
	poolingDim  int    // the width it was made for, or 0
	behind      []step // the modules behind the pooling

	// promptExcluded is set if the prompt's tokens are read but left out of the pooling.
	promptExcluded bool
}

// readLayout reads modules.json. Without one the network lies in the folder itself and its token vectors
// are averaged, as sentence-transformers does.
func readLayout(d folder) (layout, error) {
	var modules []module
	found, err := d.read("modules.json", &modules)
	if err != nil {
		return layout{}, err
	}
	// A folder that was only pre-trained, or published without sentence-transformers (KoSimCSE), ends here.
	if !found {
		return layout{pooling: Pooling{Mean}}, nil
	}
	var l layout
	for i, m := range modules {
		if err := l.add(d, i, m); err != nil {
			return layout{}, fmt.Errorf("modules.json: module %d: %w", i, err)
		}
	}
	if len(l.pooling) == 0 {
		return layout{}, errors.New("modules.json: no Transformer followed by a Pooling")
	}
	return l, nil
}

// add takes the i-th module, which is only understood in its usual place.
//
// An order that we don't know is refused rather than guessed at: each module changes every vector.
func (l *layout) add(d folder, i int, m module) error {
	if m.Path != "" && !filepath.IsLocal(filepath.FromSlash(m.Path)) {
		return fmt.Errorf("path %q leaves the folder", m.Path)
	}
	switch kind := m.kind(); {
	case kind == "Transformer" && i == 0:
		l.transformer = m.Path
	case kind == "Pooling" && i > 0 && len(l.pooling) == 0:
		return l.readPooling(d, path.Join(m.Path, "config.json"))
	case kind == "Normalize" && len(l.pooling) > 0:
		l.behind = append(l.behind, step{normalize: true})
	case kind == "Dense" && len(l.pooling) > 0:
		dense, err := readDense(d, m.Path)
		l.behind = append(l.behind, step{dense: dense})
		return err
	case kind == "Dropout" && i > 0: // does nothing outside training
	case kind == "Transformer", kind == "Pooling", kind == "Normalize", kind == "Dense":
		return fmt.Errorf("%s in this place is not supported", kind)
	default:
		return fmt.Errorf("a module of type %.100q is not supported", m.Type)
	}
	return nil
}

// readPooling reads a Pooling module's configuration.
func (l *layout) readPooling(d folder, name string) error {
	var c poolingConfig
	found, err := d.read(name, &c)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%s is missing", name)
	}
	l.poolingFrom = name
	l.poolingDim = max(c.OldDimension, c.NewDimension)
	l.promptExcluded = c.IncludePrompt != nil && !*c.IncludePrompt
	if l.pooling, err = c.pooling(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// sentenceConfig is sentence_bert_config.json.
type sentenceConfig struct {
	MaxLength      *int   `json:"max_seq_length"`
	Lowercase      bool   `json:"do_lower_case"`
	QueryLength    *int   `json:"query_length"`
	DocumentLength *int   `json:"document_length"`
	Task           string `json:"transformer_task"`
	Output         string `json:"module_output_name"`
}

// readSentence reads the Transformer module's own configuration under the first of its names that exists;
// the older ones were made after the architecture.
func readSentence(d folder, dir string) (c sentenceConfig, name string, err error) {
	for _, arch := range []string{"bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"} {
		name = path.Join(dir, "sentence_"+arch+"_config.json")
		found, err := d.read(name, &c)
		if err != nil {
			return c, name, err
		}
		if found {
			return c, name, c.check(name)
		}
	}
	return c, "", nil
}

// check refuses what would change which tokens are read, or what is made of them, in a way that we don't.
func (c *sentenceConfig) check(name string) error {
	switch {
	case c.MaxLength != nil && *c.MaxLength < 1:
		return fmt.Errorf("%s: max_seq_length is %d, at least 1 is needed", name, *c.MaxLength)
	case c.QueryLength != nil || c.DocumentLength != nil:
		return fmt.Errorf("%s: query_length and document_length are not supported", name)
	case c.Task != "" && c.Task != "feature-extraction":
		return fmt.Errorf("%s: transformer_task %q is not feature-extraction", name, c.Task)
	case c.Output != "" && c.Output != "token_embeddings":
		return fmt.Errorf("%s: module_output_name %q is not token_embeddings", name, c.Output)
	}
	return nil
}

// Prompts are put in front of a text before it is tokenised, by what the text is for.
type Prompts struct {
	Query    string
	Document string
}

// modelConfig is config_sentence_transformers.json.
type modelConfig struct {
	ModelType     string             `json:"model_type"`
	Prompts       map[string]*string `json:"prompts"`
	DefaultPrompt *string            `json:"default_prompt_name"`
	TruncateDim   *int               `json:"truncate_dim"`
}

// readModelConfig reads config_sentence_transformers.json.
func readModelConfig(d folder) (c modelConfig, err error) {
	const name = "config_sentence_transformers.json"
	if _, err := d.read(name, &c); err != nil {
		return c, err
	}
	switch {
	case c.ModelType != "" && c.ModelType != "SentenceTransformer":
		return c, fmt.Errorf("%s: model_type %.100q is not SentenceTransformer", name, c.ModelType)
	case c.TruncateDim != nil && *c.TruncateDim < 1:
		return c, fmt.Errorf("%s: truncate_dim is %d, at least 1 is needed", name, *c.TruncateDim)
	case c.DefaultPrompt != nil && c.Prompts[*c.DefaultPrompt] == nil:
		return c, fmt.Errorf("%s: default_prompt_name %.100q is not among the prompts", name, *c.DefaultPrompt)
	}
	return c, nil
}

// prompts returns the prompts for queries and documents. A query has the prompt "query", a document the first
// of "document", "passage", "corpus" (encode_query and encode_document look there); whichever is not named
// has the default prompt, which encode() puts in front of every text without being asked.
func (c *modelConfig) prompts() Prompts {
	// null stands for a prompt that was never filled in, and an empty one for none on purpose: only the
	// first makes room for the default.
	fallback := ""
	if c.DefaultPrompt != nil {
		fallback = *c.Prompts[*c.DefaultPrompt]
	}
	first := func(names ...string) string {
		for _, n := range names {
			if p := c.Prompts[n]; p != nil {
				return *p
			}
		}
		return fallback
	}
	return Prompts{Query: first("query"), Document: first("document", "passage", "corpus")}
}

// named returns all prompts by their names.
func (c *modelConfig) named() map[string]string {
	var all map[string]string
	for name, p := range c.Prompts {
		if p == nil {
			continue
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = *p
	}
	return all
}

// Prompt returns the prompt of a name: none for "text", the one for queries or documents, or another of the folder's.
func (m *Model) Prompt(name string) (string, error) {
	switch name {
	case "text":
		return "", nil
	case "query":
		return m.Prompts.Query, nil
	case "document":
		return m.Prompts.Document, nil
	}
	if p, ok := m.NamedPrompts[name]; ok {
		return p, nil
	}
	return "", fmt.Errorf("there is no prompt %q: known are text, query, document and the folder's %q", name, slices.Sorted(maps.Keys(m.NamedPrompts)))
}

// named returns the prompt that an override names, which must be there.
func (m *Model) named(what string, name *string, prompt *string) error {
	if name == nil {
		return nil
	}
	p, err := m.Prompt(*name)
	if err != nil {
		return fmt.Errorf("config_sentence_transformers.json: for %s: %w", what, err)
	}
	*prompt = p
	return nil
}
