package hub

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// A file is one that the hub lists: its path below the repository's root with slashes, its size in bytes and
// its digest. Size is -1 and digest empty where the listing doesn't say.
type file struct {
	path   string
	size   int64
	digest digest
}

// optional are the files of a model's root that change what a loader does by being there or not. A snapshot
// of which it is unknown whether the repository has them is not to be trusted blindly.
var optional = []string{
	"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
	"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
}

// configFile says what network the weights are of.
const configFile = "config.json"

// plan picks from a repository's files those that a loader needs, sorted by path, and refuses a repository
// that could not be loaded. Of the weights it takes one form, see [weights]. Unusable is why the loader can't use
// weights, or nil.
//
// The rest of a repository (the same weights for other programs, quantised variants, pictures of the model
// card) often makes up more than nine tenths of its bytes.
func plan(files []file, unusable error) ([]file, error) {
	byPath := make(map[string]file, len(files))
	for _, f := range files {
		if err := checkPath(f.path); err != nil {
			return nil, err
		}
		byPath[f.path] = f
	}
	has := func(name string) bool { _, ok := byPath[name]; return ok }
	if err := missing(has); err != nil {
		return nil, err
	}
	isWeight, err := weights(byPath, has, unusable)
	if err != nil {
		return nil, err
	}
	var picked []file
	for _, f := range byPath {
		if isSetting(f.path) || isWeight(f.path) {
			picked = append(picked, f)
		}
	}
	slices.SortFunc(picked, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return picked, nil
}

// missing names what no model can do without. It asks by name only, so that it can judge a listing before the
// first byte is fetched and a folder afterwards by the same rule.
func missing(has func(string) bool) error {
	if !has(configFile) {
		return errors.New("no config.json: this is not a transformers model")
	}
	if !has("tokenizer.json") && !has("vocab.txt") && !has("sentencepiece.bpe.model") {
		return errors.New("no tokenizer.json, vocab.txt or sentencepiece.bpe.model: no tokenizer to read texts with")
	}
	return nil
}

// isSetting reports whether a file is read beside the weights: the root's own settings and each module's
// config.json, one folder deep (1_Pooling/config.json). They are small; one too many does no harm, while one
// too few changes vectors. That is also why everything named tokenizer* comes along.
func isSetting(name string) bool {
	dir, base := path.Split(name)
	switch {
	case dir != "":
		return base == "config.json" && strings.Count(name, "/") == 1
	case strings.HasPrefix(base, "tokenizer"), slices.Contains(optional, base):
		return true
	}
	return slices.Contains([]string{"config.json", "vocab.txt", "sentencepiece.bpe.model"}, base)
}

// weights chooses one form of the weights. Order: safetensors, a file of torch.save (in one file or in shards), whatever
// else is safetensors, then ONNX where text-embeddings-inference looks for it. Weights that are of no use are not taken.
func weights(byPath map[string]file, has func(string) bool, unusable error) (func(string) bool, error) {
	if unusable == nil {
		for _, f := range forms {
			switch {
			case has(f.single):
				return func(name string) bool { return name == f.single || isModuleWeight(name) }, nil
			case has(f.index):
				return func(name string) bool { return name == f.index || f.isShard(name) || isModuleWeight(name) }, nil
			}
		}
		loose := func(name string) bool { return path.Ext(name) == ".safetensors" && path.Dir(name) == "." }
		for name := range byPath {
			if loose(name) {
				return func(name string) bool { return loose(name) || isModuleWeight(name) }, nil
			}
		}
	}
	for _, graph := range graphs {
		if has(graph) {
			return func(name string) bool { return name == graph || isExternalData(name, graph) || isModuleWeight(name) }, nil
		}
	}
	if unusable != nil {
		return nil, fmt.Errorf("%w, and there is no onnx/model.onnx", unusable)
	}
	return nil, noWeights(has)
}

// graphs are the places of an exported graph.
var graphs = []string{"onnx/model.onnx", "model.onnx"}

// A form is a file format of weights: its one file, or an index and its shards.
type form struct{ single, index, prefix string }

// forms are the formats of weights in the order in which transformers looks for them.
var forms = []form{
	{"model.safetensors", "model.safetensors.index.json", "model-"},
	{"pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-"},
}

// isShard reports whether a file is a part of the weights, model-00001-of-00002.safetensors. Which parts there
// must be is in the index, which complete reads once it is on disk.
func (f form) isShard(name string) bool {
	return strings.HasPrefix(name, f.prefix) && path.Ext(name) == path.Ext(f.single) && path.Dir(name) == "."
}

// noWeights words the refusal of a repository without usable weights.
func noWeights(has func(string) bool) error {
	for _, other := range []string{"tf_model.h5", "flax_model.msgpack"} {
		if has(other) {
			return fmt.Errorf("weights only as %s, which this program does not read: convert them to model.safetensors", other)
		}
	}
	return errors.New("neither *.safetensors, pytorch_model.bin nor onnx/model.onnx: no weights to load")
}

// isModuleWeight reports whether a file holds the weights of a sentence-transformers module beside the
// network, as 2_Dense/model.safetensors does.
func isModuleWeight(name string) bool {
	dir, base := path.Split(name)
	return (base == "model.safetensors" || base == "pytorch_model.bin") && len(dir) > 2 && dir[0] >= '0' && dir[0] <= '9' && dir[1] == '_'
}

// isExternalData reports whether a file lies beside the graph as its external data: model.onnx_data by the
// exporters' custom, and files without extension, which is how older ones name single tensors
// (bge-m3 has onnx/Constant_7_attr__value). At the root the latter would be README-like files.
func isExternalData(name, graph string) bool {
	if path.Dir(name) != path.Dir(graph) {
		return false
	}
	return strings.HasPrefix(path.Base(name), "model.onnx_data") || strings.HasPrefix(path.Base(name), "model.onnx.data") ||
		(path.Dir(name) == "onnx" && !strings.Contains(path.Base(name), "."))
}
