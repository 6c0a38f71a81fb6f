package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

type (
	// linear is y = x Wᵀ + b; the weight has the shape [out, in].
	linear struct{ weight, bias checkpoint.Tensor }

	// norm is a layer normalisation.
	norm struct{ scale, shift checkpoint.Tensor }

	// layer is one encoder layer.
	layer struct {
		query, key, value, attention linear // attention is the projection behind the heads
		attentionNorm                norm
		up, down                     linear // the two feed-forward layers
		outputNorm                   norm
	}

	// weights are the tensors of an encoder.
	weights struct {
		words, positions, types checkpoint.Tensor
		norm                    norm
		layers                  []layer
	}
)

// A finder looks up tensors by the names that transformers gives them, behind a prefix, and keeps the
// first error.
type finder struct {
	set    *checkpoint.Set
	prefix string
	used   map[string]bool
	err    error
}

// findWeights finds every tensor that n wants, each in the shape it should have. What else lies below the
// prefix is returned as unused: transformers ignores it silently, and it is most often a sign that
// config.json belongs to another network.
func findWeights(set *checkpoint.Set, n network) (w weights, unused []string, err error) {
	prefix, err := findPrefix(set)
	if err != nil {
		return w, nil, err
	}
	f := &finder{set: set, prefix: prefix, used: make(map[string]bool)}
	w.words = f.tensor("embeddings.word_embeddings.weight", n.Vocab, n.Hidden)
	w.positions = f.tensor("embeddings.position_embeddings.weight", n.Positions, n.Hidden)
	w.types = f.tensor("embeddings.token_type_embeddings.weight", n.TypeVocab, n.Hidden)
	w.norm = f.norm("embeddings.LayerNorm", n.Hidden)
	for i := 0; i < n.Layers && f.err == nil; i++ { // num_hidden_layers may claim anything
		w.layers = append(w.layers, f.layer(fmt.Sprintf("encoder.layer.%d.", i), n))
	}
	return w, f.unused(), f.err
}

// findPrefix returns what stands before the names: nothing, "bert.", "roberta.", "0.auto_model." or
// whatever else, as long as there is only one such network in the files.
func findPrefix(set *checkpoint.Set) (string, error) {
	const name = "embeddings.word_embeddings.weight"
	var prefixes []string
	for full := range set.Tensors {
		if p, ok := strings.CutSuffix(full, name); ok && (p == "" || strings.HasSuffix(p, ".")) {
			prefixes = append(prefixes, p)
		}
	}
	switch len(prefixes) {
	case 0:
		return "", fmt.Errorf("%s: tensor %q is missing", set.Files[0], name)
	case 1:
		return prefixes[0], nil
	}
	slices.Sort(prefixes)
	return "", fmt.Errorf("%s: several networks lie in the files, below %q", set.Files[0], prefixes)
}

func (f *finder) layer(p string, n network) layer {
	return layer{
		query:         f.linear(p+"attention.self.query", n.Hidden, n.Hidden),
		key:           f.linear(p+"attention.self.key", n.Hidden, n.Hidden),
		value:         f.linear(p+"attention.self.value", n.Hidden, n.Hidden),
		attention:     f.linear(p+"attention.output.dense", n.Hidden, n.Hidden),
		attentionNorm: f.norm(p+"attention.output.LayerNorm", n.Hidden),
		up:            f.linear(p+"intermediate.dense", n.Intermediate, n.Hidden),
		down:          f.linear(p+"output.dense", n.Hidden, n.Intermediate),
		outputNorm:    f.norm(p+"output.LayerNorm", n.Hidden),
	}
}

func (f *finder) linear(name string, out, in int) linear {
	return linear{f.tensor(name+".weight", out, in), f.tensor(name+".bias", out)}
}

// norm also knows the names gamma and beta, of checkpoints that once came from TensorFlow.
func (f *finder) norm(name string, width int) norm {
	if _, old := f.set.Tensors[f.prefix+name+".gamma"]; old {
		return norm{f.tensor(name+".gamma", width), f.tensor(name+".beta", width)}
	}
	return norm{f.tensor(name+".weight", width), f.tensor(name+".bias", width)}
}

// tensor looks up one tensor and checks its shape and number format.
func (f *finder) tensor(name string, shape ...int) checkpoint.Tensor {
	name = f.prefix + name
	t, ok := f.set.Tensors[name]
	f.used[name] = true
	switch {
	case f.err != nil:
	case !ok:
		f.err = fmt.Errorf("%s: tensor %q is missing", strings.Join(f.set.Files, ", "), name)
	case !slices.Equal(t.Shape, shape):
		f.err = fmt.Errorf("%s: tensor %q has the shape %v, config.json wants %v", t.File, name, t.Shape, shape)
	case t.DType != checkpoint.F32 && t.DType != checkpoint.F16 && t.DType != checkpoint.BF16:
		f.err = fmt.Errorf("%s: tensor %q holds %s, only F32, F16 and BF16 are read", t.File, name, t.DType)
	}
	return t
}

// unused lists the tensors of the network that were not asked for. The pooler, which makes no sentence
// vectors, and the buffer of position ids that older versions saved belong there.
func (f *finder) unused() []string {
	var names []string
	for name := range f.set.Tensors {
		rest, below := strings.CutPrefix(name, f.prefix)
		ours := strings.HasPrefix(rest, "embeddings.") || strings.HasPrefix(rest, "encoder.")
		if below && ours && !f.used[name] && !strings.HasSuffix(name, ".position_ids") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
