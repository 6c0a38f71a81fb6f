package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/embedfleet/embedfleet/embedder/model/internal/checkpoint"
)

type (
	// linear is y = x Wᵀ + b; the weight has the shape [out, in]. It has no bias if that has no name.
	linear struct{ weight, bias checkpoint.Tensor }

	// norm is a normalisation. It has no shift if that has no name, and is not there without a scale.
	norm struct{ scale, shift checkpoint.Tensor }

	// layer is one encoder layer; see [names] for where its norms stand.
	layer struct {
		name                                    string // of its constants: layers that share weights have one
		query, key, value, attention            linear // attention is the projection behind the heads
		queryNorm, keyNorm                      norm
		up, gate, down                          linear // the feed-forward layers
		attentionIn, attentionEnd, attentionSum norm
		feedIn, feedEnd, feedSum                norm
	}

	// weights are the tensors of an encoder.
	weights struct {
		words, positions, types, relative checkpoint.Tensor
		norm, relativeNorm, final         norm
		project                           linear
		layers                            []layer
	}
)

func (l linear) there() bool { return l.weight.Name != "" }
func (n norm) there() bool   { return n.scale.Name != "" }

// A finder looks up tensors by the names that a family gives them, behind a prefix, and keeps the
// first error.
type finder struct {
	set    *checkpoint.Set
	find   func(name string, shape []int) (checkpoint.Tensor, bool) // in the set; the shape is what it should be
	net    network
	names  names
	prefix string
	used   map[string]bool
	err    error
}

// findWeights finds every tensor that n wants, each in the shape it should have. What else lies beside them
// is returned as unused: transformers ignores it silently, and it is most often a sign that
// config.json belongs to another network.
func findWeights(set *checkpoint.Set, n network) (w weights, unused []string, err error) {
	family := familyOf(n.Type)
	f := newFinder(set, n, family.names)
	if f.prefix, err = findPrefix(set, f.names.words+".weight"); err != nil {
		return w, nil, err
	}
	if other := family.renamed; other != nil && f.has(f.prefix+other.of(0)+other.attention+".weight") {
		f.names = *other
	}
	w = f.weights()
	return w, f.unused(), f.err
}

func newFinder(set *checkpoint.Set, n network, names names) *finder {
	f := &finder{set: set, net: n, names: names, used: make(map[string]bool)}
	f.find = func(name string, _ []int) (checkpoint.Tensor, bool) {
		t, ok := set.Tensors[name]
		return t, ok
	}
	return f
}

// weights finds all that there should be.
func (f *finder) weights() (w weights) {
	n := f.net
	w.words = f.tensor(f.names.words+".weight", n.Vocab, n.Embedding)
	w.positions = f.table(f.names.positions, n.Positions, n.Embedding)
	if n.TypeVocab > 0 {
		w.types = f.table(f.names.types, n.TypeVocab, n.Embedding)
	}
	width := n.Embedding
	if f.names.projectFirst {
		width = n.Hidden
	}
	w.norm = f.norm(f.names.norm, width)
	// ALBERT has the projection also where nothing is to be changed.
	if full := f.prefix + f.names.project + ".weight"; n.Embedding != n.Hidden || f.names.project != "" && f.has(full) {
		w.project = f.linear(f.names.project, n.Hidden, n.Embedding, f.names.projectBias)
	}
	w.relative, w.relativeNorm = f.relative()
	for i := 0; i < n.Layers && f.err == nil; i++ { // num_hidden_layers may claim anything
		at := i
		if n.Shared > 0 {
			at = i / n.Shared
		}
		w.layers = append(w.layers, f.layer(at))
	}
	w.final = f.norm(f.names.final, n.Hidden)
	return w
}

// findPrefix returns what stands before the names: nothing, "bert.", "roberta.", "0.auto_model." or
// whatever else, as long as there is only one such network in the files.
func findPrefix(set *checkpoint.Set, name string) (string, error) {
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

func (f *finder) has(name string) bool { _, ok := f.set.Tensors[name]; return ok }

// relative finds the table of relative positions, which is as long as there are buckets.
func (f *finder) relative() (t checkpoint.Tensor, n norm) {
	switch b := f.net.Buckets; b.Kind {
	case bucketsT5:
		t = f.table(f.names.relative, b.Count, f.net.Heads)
	case bucketsLog:
		t = f.table(f.names.relative, 2*b.Count, f.net.Hidden)
		n = f.norm(f.names.relativeNorm, f.net.Hidden)
	}
	return t, n
}

// layer finds the tensors of the i-th of the layers that have weights of their own.
func (f *finder) layer(i int) layer {
	n, has := f.net, f.net.Bias
	p := f.names.of(i)
	name := func(s string) string {
		if s == "" {
			return ""
		}
		return p + s
	}
	queries, keys := n.Heads*n.HeadDim, n.KeyHeads*n.HeadDim
	l := layer{
		name:         fmt.Sprintf("layer%d", i),
		query:        f.linear(name(f.names.query), queries, n.Hidden, has.Attention),
		key:          f.linear(name(f.names.key), keys, n.Hidden, has.Attention),
		value:        f.linear(name(f.names.value), keys, n.Hidden, has.Attention),
		attention:    f.linear(name(f.names.attention), n.Hidden, queries, has.Attention),
		queryNorm:    f.norm(name(f.names.queryNorm), n.HeadDim),
		keyNorm:      f.norm(name(f.names.keyNorm), n.HeadDim),
		up:           f.linear(name(f.names.up), n.Intermediate, n.Hidden, has.Up),
		gate:         f.linear(name(f.names.gate), n.Intermediate, n.Hidden, has.Up),
		down:         f.linear(name(f.names.down), n.Hidden, n.Intermediate, has.Down),
		attentionEnd: f.norm(name(f.names.attentionEnd), n.Hidden),
		attentionSum: f.norm(name(f.names.attentionSum), n.Hidden),
		feedIn:       f.norm(name(f.names.feedIn), n.Hidden),
		feedEnd:      f.norm(name(f.names.feedEnd), n.Hidden),
		feedSum:      f.norm(name(f.names.feedSum), n.Hidden),
	}
	if i > 0 || f.names.firstIn {
		l.attentionIn = f.norm(name(f.names.attentionIn), n.Hidden)
	}
	if f.names.packed != "" {
		all := f.linear(name(f.names.packed), queries+2*keys, n.Hidden, has.Attention)
		l.query, l.key, l.value = all.rows(0, queries), all.rows(queries, keys), all.rows(queries+keys, keys)
	}
	if f.names.upGate != "" {
		both := f.linear(name(f.names.upGate), 2*n.Intermediate, n.Hidden, has.Up)
		l.up, l.gate = both.rows(0, n.Intermediate), both.rows(n.Intermediate, n.Intermediate)
		if n.GateFirst {
			l.up, l.gate = l.gate, l.up
		}
	}
	return l
}

// rows returns some outputs of a layer as a layer. Without a weight, after an error, it returns none.
func (l linear) rows(from, count int) linear {
	return linear{l.weight.Rows(from, count), l.bias.Rows(from, count)}
}

func (f *finder) linear(name string, out, in int, b bias) (l linear) {
	if name == "" {
		return l
	}
	l.weight = f.tensor(name+".weight", out, in)
	if b == biased {
		l.bias = f.tensor(name+".bias", out)
	}
	return l
}

// table finds a table, if it has a name.
func (f *finder) table(name string, rows, width int) (t checkpoint.Tensor) {
	if name == "" {
		return t
	}
	return f.tensor(name+".weight", rows, width)
}

// norm also knows the names gamma and beta, of checkpoints that once came from TensorFlow.
func (f *finder) norm(name string, width int) (n norm) {
	scale, shift := ".weight", ".bias"
	switch {
	case name == "":
		return n
	case f.has(f.prefix + name + ".gamma"):
		scale, shift = ".gamma", ".beta"
	}
	n.scale = f.tensor(name+scale, width)
	if f.net.Bias.Norm == biased {
		n.shift = f.tensor(name+shift, width)
	}
	return n
}

// tensor looks up one tensor and checks its shape and number format.
func (f *finder) tensor(name string, shape ...int) checkpoint.Tensor {
	name = f.prefix + name
	t, ok := f.find(name, shape)
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
	if f.err != nil {
		return checkpoint.Tensor{}
	}
	return t
}

// unused lists the tensors that were not asked for and lie beside those that were, "embeddings." and "encoder."
// for example. The heads, which make no token vectors, lie elsewhere; the buffer of position ids that older versions
// saved, and that of rotations, belong there.
func (f *finder) unused() []string {
	ours := make(map[string]bool)
	part := func(name string) string {
		rest, below := strings.CutPrefix(name, f.prefix)
		first, _, deeper := strings.Cut(rest, ".")
		if !below || !deeper {
			return ""
		}
		return first
	}
	for name := range f.used {
		ours[part(name)] = true
	}
	var names []string
	for name := range f.set.Tensors {
		buffer := strings.HasSuffix(name, ".position_ids") || strings.HasSuffix(name, ".inv_freq")
		if first := part(name); first != "" && ours[first] && !f.used[name] && !buffer {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
