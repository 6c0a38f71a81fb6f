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

// plan picks from a repository's files those that a loader needs, sorted by path, and refuses a repository
// that could not be loaded. Of the weights it takes safetensors, and an ONNX graph only without them: other
// forms (pickles) can run code when they are read.
//
// The rest of a repository (the same weights for other programs, quantised variants, pictures of the model
// card) often makes up more than nine tenths of its bytes.
func plan(files []file) ([]file, error) {
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
	isWeight, err := weights(byPath, has)
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
	if !has("config.json") {
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

// weights chooses one form of the weights. Order: a single file, its shards, whatever else is safetensors,
// then ONNX where text-embeddings-inference looks for it.
func weights(byPath map[string]file, has func(string) bool) (func(string) bool, error) {
	single, index := "model.safetensors", "model.safetensors.index.json"
	switch {
	case has(single):
		return func(name string) bool { return name == single || isModuleWeight(name) }, nil
	case has(index):
		return func(name string) bool { return name == index || isShard(name) || isModuleWeight(name) }, nil
	}
	loose := func(name string) bool { return path.Ext(name) == ".safetensors" && path.Dir(name) == "." }
	for name := range byPath {
		if loose(name) {
			return func(name string) bool { return loose(name) || isModuleWeight(name) }, nil
		}
	}
	for _, graph := range []string{"onnx/model.onnx", "model.onnx"} {
		if has(graph) {
			return func(name string) bool { return name == graph || isExternalData(name, graph) }, nil
		}
	}
	return nil, noWeights(has)
}

// noWeights words the refusal of a repository without usable weights. Many of the older Korean models are
// published as a pickle only, so this is a line that people will read.
func noWeights(has func(string) bool) error {
	for _, other := range []string{"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"} {
		if has(other) {
			return fmt.Errorf("weights only as %s, which this program does not read: convert them to model.safetensors", other)
		}
	}
	return errors.New("neither *.safetensors nor onnx/model.onnx: no weights to load")
}

// isShard reports whether a file is a part of the weights, model-00001-of-00002.safetensors. Which parts there
// must be is in the index, which complete reads once it is on disk.
func isShard(name string) bool {
	return strings.HasPrefix(name, "model-") && path.Ext(name) == ".safetensors" && path.Dir(name) == "."
}

// isModuleWeight reports whether a file holds the weights of a sentence-transformers module beside the
// network, as 2_Dense/model.safetensors does.
func isModuleWeight(name string) bool {
	dir, base := path.Split(name)
	return base == "model.safetensors" && len(dir) > 2 && dir[0] >= '0' && dir[0] <= '9' && dir[1] == '_'
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
