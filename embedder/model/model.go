package model

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
	"github.com/embedfleet/embedfleet/internal/fingerprint"
)

// Overrides replace what a folder says. The zero value replaces nothing.
type Overrides struct {
	Pooling        Pooling // nil follows the folder
	Normalize      *bool   // nil follows the folder
	MaxTokens      int     // special tokens included; 0 follows the folder
	QueryPrompt    *string // nil follows the folder
	DocumentPrompt *string // nil follows the folder

	// The prompts of these names, of the folder's. What is written out above counts more.
	QueryPromptName, DocumentPromptName *string
	// Dimensions keeps only so many of a vector's first, of a model that was trained for it; 0 follows the folder.
	Dimensions int
}

// Options are how a folder is opened. The zero value and nil take it as it is.
type Options struct {
	Overrides
	// Digests knows the digests of files that have not changed since they were read. nil reads every file.
	Digests *fingerprint.Digests
	// Kernels says what graphs may be made of. The zero value is what every machine can run.
	Kernels Kernels
}

// Kernels are operators that only some machines have.
type Kernels int

const (
	// Standard are ONNX's operators and its runtime's own.
	Standard Kernels = iota
	// AVX512 are those of [KernelDomain], in the place of the encoder's layers.
	AVX512
)

// A Model is an opened folder. Its fields are to be read only.
type Model struct {
	Dir          string // absolute
	TokenizerDir string // absolute; where the tokenizer's files lie, Dir or a folder in it

	Architecture string // config.json's model_type
	Compiled     bool   // the graph is ours; false if the folder's own is taken
	Packed       bool   // the graph is made of [AVX512] kernels, which compute no padding
	Layers       int    // 0 where a foreign graph's config.json doesn't say; so with the next two
	Hidden       int
	Heads        int
	VocabSize    int // token ids must be below; 0 where a foreign graph's config.json doesn't say

	Pooling   Pooling // nil if a foreign graph pools by itself
	Normalize bool    // vectors have the length 1
	Dim       int     // of a vector
	MaxTokens int     // of a text, special tokens included
	PadID     int     // for the padding of rows, from the tokenizer; any id will do, padding is masked
	Lowercase bool    // texts are lower-cased before they are tokenised; see Input
	Prompts   Prompts

	NamedPrompts   map[string]string // all prompts of the folder
	PromptExcluded bool              // a prompt's tokens are read but not pooled: the graph asks for their number

	Files    []File   // that the model was made from, each with its digest
	Warnings []string // what a person should know but nothing fails for, one line each

	known          *fingerprint.Digests
	net            network
	behind         []step
	cut            int
	source         source
	weightFiles    []File
	tokenizerFiles []File
}

// A source is where the graph comes from.
type source interface {
	files() []string // with the weights, relative to the folder
	tokenTypes() bool
	write(ctx context.Context, dir string, h head) error
}

// Open reads the Hugging Face folder dir. It reads every file that the model is made from once, for the
// digests, unless these are known, and none of the weights into memory. An error is one line that names the
// folder, the file and what is wrong with it.
func Open(ctx context.Context, dir string, o *Options) (*Model, error) {
	if o == nil {
		o = &Options{}
	}
	m, err := open(ctx, dir, o)
	if err != nil {
		return nil, fmt.Errorf("opening model folder %s: %w", dir, err)
	}
	return m, nil
}

func open(ctx context.Context, dir string, o *Options) (*Model, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(abs); err != nil {
		return nil, plain(err)
	} else if !info.IsDir() {
		return nil, errors.New("it is not a folder")
	}
	// Configuration first, the gigabytes of the digests last: most mistakes are found in milliseconds.
	d := folder(abs)
	l, err := readLayout(d)
	if err != nil {
		return nil, err
	}
	m := &Model{Dir: abs, TokenizerDir: d.path(l.transformer), known: o.Digests}
	c, err := m.readNetwork(d, l.transformer)
	if err != nil {
		return nil, err
	}
	if g, ours := m.source.(*compiledGraph); ours && o.Kernels == AVX512 && m.net.packs() {
		m.Packed, g.kernels = true, AVX512
	}
	mc, err := readModelConfig(d)
	if err != nil {
		return nil, err
	}
	if err := m.setHead(l, mc, &o.Overrides); err != nil {
		return nil, err
	}
	if err := m.setText(d, l, c, mc, &o.Overrides); err != nil {
		return nil, err
	}
	return m, m.readFiles(ctx, d, l)
}

// readNetwork reads config.json and finds the weights or the graph.
func (m *Model) readNetwork(d folder, dir string) (*config, error) {
	name := path.Join(dir, "config.json")
	c := new(config)
	found, err := d.read(name, c)
	switch {
	case err != nil:
		return nil, err
	case !found && d.has(path.Join("refs", "main")) && dir == "":
		return nil, errors.New("it is a repository's folder in the hub's cache, not a model's: name the repository's id, or the folder below snapshots")
	case !found:
		return nil, fmt.Errorf("%s is missing: not a Hugging Face model folder", name)
	case strings.ContainsFunc(c.ModelType, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, fmt.Errorf("%s: model_type %.60q is no name", name, c.ModelType)
	case d.has(path.Join(dir, "adapter_config.json")):
		return nil, fmt.Errorf("%s: adapters are not supported, merge them into the weights", path.Join(dir, "adapter_config.json"))
	}
	// Two kinds of refusal: what we can't compile may still come as a graph, but damage is damage.
	net, refused := c.network()
	var set *checkpoint.Set
	if refused != nil {
		refused = fmt.Errorf("%s: %w", name, refused)
	} else if set, err = checkpoint.Find(d.path(dir)); errors.Is(err, fs.ErrNotExist) {
		refused = fmt.Errorf("%s is missing, and pytorch_model.bin too", path.Join(dir, checkpoint.SingleFile))
	} else if err != nil { // damaged weights are an error also where a graph lies beside them
		return nil, err
	}
	if refused != nil {
		net, err = m.useForeign(d, dir, c, refused)
	} else {
		err = m.compile(dir, net, set)
	}
	m.net, m.Architecture = net, c.ModelType
	m.Layers, m.Hidden, m.Heads, m.VocabSize = net.Layers, net.Hidden, net.Heads, net.Vocab
	return c, err
}

// useForeign takes the folder's own graph, since ours was refused.
func (m *Model) useForeign(d folder, dir string, c *config, refused error) (network, error) {
	net := c.describe()
	name := findForeign(d, dir)
	if name == "" {
		return net, fmt.Errorf("%w, and there is no onnx/model.onnx", refused)
	}
	g, err := openForeign(d, name, net.Hidden)
	if err != nil {
		return net, err
	}
	m.warn("%s is used as it is: %v", name, refused)
	m.source = g
	net.Output, net.Hidden = g.output, g.width
	return net, nil
}

// compile takes the weights for a graph of our own.
func (m *Model) compile(dir string, net network, set *checkpoint.Set) error {
	w, unused, err := findWeights(set, net)
	if err != nil {
		return err
	}
	// transformers drops them silently. We go on, as it does, but somebody should look: a layer too many
	// in the file is a config.json of another model.
	if len(unused) > 0 {
		m.warn("%d tensors of the network are not used, the first is %s", len(unused), unused[0])
	}
	m.source, m.Compiled = &compiledGraph{dir: dir, net: net, weights: w, set: set}, true
	return nil
}

// setHead decides about pooling, what is behind it, normalisation and with them the dimension.
func (m *Model) setHead(l layout, mc modelConfig, o *Overrides) error {
	m.Pooling, m.Dim, m.behind = l.pooling, m.Hidden, l.behind
	for len(m.behind) > 0 && m.behind[len(m.behind)-1].normalize { // the last one can be chosen
		m.behind, m.Normalize = m.behind[:len(m.behind)-1], true
	}
	if o.Normalize != nil {
		m.Normalize = *o.Normalize
	}
	g, foreign := m.source.(*foreignGraph)
	switch {
	// A pooled output can be normalised again without harm, but never pooled otherwise. The exporter has put all
	// modules into such a graph.
	case foreign && g.pooled && o.Pooling != nil:
		return fmt.Errorf("%s: pooling %s can't be had, the graph pools by itself", g.name, o.Pooling)
	case foreign && g.pooled && l.promptExcluded:
		return fmt.Errorf("%s: include_prompt false can't be had, the graph pools by itself", g.name)
	case foreign && g.pooled:
		m.Pooling, m.behind = nil, nil
	default:
		if err := m.setPooling(l, o); err != nil {
			return err
		}
	}
	for _, s := range m.behind {
		if s.dense == nil {
			continue
		}
		if s.dense.in != m.Dim {
			return fmt.Errorf("%s: in_features is %d, what comes in has %d dimensions", path.Join(s.dense.dir, "config.json"), s.dense.in, m.Dim)
		}
		m.Dim = s.dense.out
	}
	return m.setCut(mc, o)
}

// setPooling decides how token vectors become one.
func (m *Model) setPooling(l layout, o *Overrides) error {
	m.PromptExcluded = l.promptExcluded
	if o.Pooling != nil {
		if err := o.Pooling.check(); err != nil {
			return err
		}
		m.Pooling = o.Pooling
	} else if l.poolingFrom == "" {
		m.warn("no modules.json says how token vectors become one: mean pooling is assumed")
	}
	if l.poolingDim != 0 && l.poolingDim != m.Hidden {
		return fmt.Errorf("%s: made for %d dimensions, the network has %d", l.poolingFrom, l.poolingDim, m.Hidden)
	}
	m.Dim = m.Hidden * len(m.Pooling)
	return nil
}

// setCut decides how many of the first dimensions are kept. That a model was trained for it is said by whoever names
// a number, in the folder or as an override.
func (m *Model) setCut(mc modelConfig, o *Overrides) error {
	keep, from := o.Dimensions, "dimensions"
	if keep == 0 && mc.TruncateDim != nil {
		keep, from = *mc.TruncateDim, "config_sentence_transformers.json: truncate_dim"
	}
	switch {
	case keep < 0 || keep > m.Dim:
		return fmt.Errorf("%s: %d dimensions were asked for, a vector has %d", from, keep, m.Dim)
	case keep > 0 && keep < m.Dim:
		m.cut, m.Dim = keep, keep
	}
	return nil
}

// head returns what is put behind the network.
func (m *Model) head() head {
	return head{pooling: m.Pooling, promptExcluded: m.PromptExcluded, behind: m.behind, cut: m.cut, normalize: m.Normalize, dim: m.Dim}
}

// setText decides what happens to a text before the network: prompt, case, length, padding.
func (m *Model) setText(d folder, l layout, c *config, mc modelConfig, o *Overrides) (err error) {
	m.Prompts, m.NamedPrompts = mc.prompts(), mc.named()
	if err := m.named("queries", o.QueryPromptName, &m.Prompts.Query); err != nil {
		return err
	}
	if err := m.named("documents", o.DocumentPromptName, &m.Prompts.Document); err != nil {
		return err
	}
	if o.QueryPrompt != nil {
		m.Prompts.Query = *o.QueryPrompt
	}
	if o.DocumentPrompt != nil {
		m.Prompts.Document = *o.DocumentPrompt
	}
	sc, from, err := readSentence(d, l.transformer)
	if err != nil {
		return err
	}
	tc, err := readTokenizerConfig(d, l.transformer)
	if err != nil {
		return err
	}
	m.Lowercase = sc.Lowercase
	if m.PadID, err = padID(d, l.transformer, tc.Pad); err != nil {
		return err
	}
	if m.PadID < 0 {
		m.PadID = c.pad()
		m.warn("the tokenizer names no padding token: id %d is used", m.PadID)
	}
	if m.VocabSize > 0 && m.PadID >= m.VocabSize {
		return fmt.Errorf("the tokenizer's padding id %d is outside config.json's vocab_size %d", m.PadID, m.VocabSize)
	}
	return m.setMaxTokens(sc, from, tc, c.usable(), o.MaxTokens)
}

// setMaxTokens takes the override, else max_seq_length, else model_max_length, and never more than there
// are positions: one token too many would read behind the position table.
func (m *Model) setMaxTokens(sc sentenceConfig, from string, tc tokenizerConfig, positions, override int) error {
	// An override that can't be met is somebody's mistake and an error. A folder that promises too much is
	// common (max_seq_length 514 of a RoBERTa) and works up to the positions there are.
	limit := positions
	switch {
	case override < 0 || (positions > 0 && override > positions):
		return fmt.Errorf("at most %d tokens were asked for, the network reads 1 to %d", override, positions)
	case override > 0:
		limit = override
	case sc.MaxLength != nil:
		limit = *sc.MaxLength
	case tc.MaxLength != nil && *tc.MaxLength >= 1 && *tc.MaxLength < 1e9:
		from, limit = "tokenizer_config.json", int(*tc.MaxLength)
	}
	if positions > 0 && limit > positions {
		m.warn("%s allows %d tokens, the network has positions for %d", from, limit, positions)
		limit = positions
	}
	if limit < 1 {
		return errors.New("no file says how many tokens a text may have: max_seq_length, model_max_length or max_position_embeddings is needed")
	}
	m.MaxTokens = limit
	return nil
}

// readFiles digests the files.
func (m *Model) readFiles(ctx context.Context, d folder, l layout) (err error) {
	add := func(names []string) (files []File) {
		for _, name := range names {
			if err != nil {
				return nil
			}
			var f File
			f, err = m.digest(ctx, d, name)
			files = append(files, f)
		}
		m.Files = append(m.Files, files...)
		return files
	}
	// The small files are digested for people who compare two folders. Of the space only their meaning is
	// part, so that a comment in config.json makes no new one.
	names := []string{path.Join(l.transformer, "config.json")}
	settings := []string{"modules.json", l.poolingFrom, "config_sentence_transformers.json"}
	weights := m.source.files()
	for _, s := range m.behind {
		if s.dense != nil {
			settings, weights = append(settings, path.Join(s.dense.dir, "config.json")), append(weights, s.dense.files()...)
		}
	}
	for _, name := range settings {
		if name != "" && d.has(name) {
			names = append(names, name)
		}
	}
	add(names)
	tokenizer, err2 := tokenizerFiles(d, l.transformer)
	if err2 != nil {
		return err2
	}
	m.tokenizerFiles = add(tokenizer)
	m.weightFiles = add(weights)
	return err
}

func (m *Model) warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}
