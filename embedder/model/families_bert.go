package model

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Architectures with learned or relative positions and the norm behind each sum, as in transformers'
// modeling_bert.py and its descendants.

var bertNames = names{
	words: "embeddings.word_embeddings", positions: "embeddings.position_embeddings", types: "embeddings.token_type_embeddings",
	norm: "embeddings.LayerNorm", layer: "encoder.layer.%d.",
	query: "attention.self.query", key: "attention.self.key", value: "attention.self.value",
	attention: "attention.output.dense", attentionSum: "attention.output.LayerNorm",
	up: "intermediate.dense", down: "output.dense", feedSum: "output.LayerNorm",
}

var bert = family{types: []string{"bert"}, classes: []string{"Bert"}, names: bertNames}

var roberta = family{
	types: []string{"roberta", "xlm-roberta", "camembert"}, classes: []string{"Roberta", "XLMRoberta", "Camembert"},
	fromPad: true, names: bertNames,
}

var distilbert = family{
	types: []string{"distilbert"}, classes: []string{"DistilBert"},
	names: names{
		words: "embeddings.word_embeddings", positions: "embeddings.position_embeddings", norm: "embeddings.LayerNorm",
		layer: "transformer.layer.%d.", query: "attention.q_lin", key: "attention.k_lin", value: "attention.v_lin",
		attention: "attention.out_lin", attentionSum: "sa_layer_norm",
		up: "ffn.lin1", down: "ffn.lin2", feedSum: "output_layer_norm",
	},
	traits: func(_ *config, n *network) error {
		n.Epsilon = 1e-12 // written in modeling_distilbert.py, whatever config.json says
		return nil
	},
}

var electra = family{
	types: []string{"electra"}, classes: []string{"Electra"},
	names: bertNames.with(func(n *names) { n.project = "embeddings_project" }),
}

var albert = family{
	activation: geluTanh,
	types:      []string{"albert"}, classes: []string{"Albert"},
	names: bertNames.with(func(n *names) {
		n.project = "encoder.embedding_hidden_mapping_in"
		n.layer = "encoder.albert_layer_groups.%d.albert_layers.0."
		n.query, n.key, n.value = "attention.query", "attention.key", "attention.value"
		n.attention, n.attentionSum = "attention.dense", "attention.LayerNorm"
		n.up, n.down, n.feedSum = "ffn", "ffn_output", "full_layer_layer_norm"
	}),
	traits: func(c *config, n *network) error {
		groups := max(1, c.Groups)
		if c.InnerGroups > 1 || n.Layers%groups != 0 {
			return fmt.Errorf("num_hidden_layers %d in num_hidden_groups %d of inner_group_num %d: only equal groups of one layer are known", n.Layers, groups, c.InnerGroups)
		}
		n.Shared = n.Layers / groups
		if c.Embedding == 0 {
			n.Embedding = 128 // AlbertConfig's default, which is not hidden_size
		}
		return nil
	},
}

var mpnet = family{
	types: []string{"mpnet"}, classes: []string{"MPNet"}, fromPad: true,
	names: bertNames.with(func(n *names) {
		n.types, n.relative = "", "encoder.relative_attention_bias"
		n.query, n.key, n.value = "attention.attn.q", "attention.attn.k", "attention.attn.v"
		n.attention, n.attentionSum = "attention.attn.o", "attention.LayerNorm"
	}),
	traits: func(c *config, n *network) error {
		n.Buckets = buckets{Kind: bucketsT5, Count: positive(c.RelativeBuckets, t5Buckets), Limit: 128}
		if n.Buckets.Count < t5Buckets {
			return fmt.Errorf("relative_attention_num_buckets is %d, modeling_mpnet.py uses %d", n.Buckets.Count, t5Buckets)
		}
		return nil
	},
}

var deberta = family{
	epsilon: 1e-7,
	types:   []string{"deberta-v2"}, classes: []string{"DebertaV2"},
	names: bertNames.with(func(n *names) {
		n.query, n.key, n.value = "attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"
		n.positions, n.project, n.projectFirst, n.projectBias = "", "embeddings.embed_proj", true, unbiased
		n.relative, n.relativeNorm = "encoder.rel_embeddings", "encoder.LayerNorm"
	}),
	traits: debertaTraits,
}

// debertaTraits reads how DeBERTa looks at positions. Of the older ways of writing it down, pos_att_type may be one
// text with bars.
func debertaTraits(c *config, n *network) error {
	var parts []string
	for _, p := range c.PositionAttention {
		parts = append(parts, strings.Split(strings.ToLower(strings.TrimSpace(p)), "|")...)
	}
	if c.TypeVocab == nil {
		n.TypeVocab = 0 // DebertaV2Config's default
	}
	b := buckets{Kind: bucketsLog, Count: c.PositionBuckets, Limit: c.MaxRelative}
	b.ContentToPosition, b.PositionToContent = slices.Contains(parts, "c2p"), slices.Contains(parts, "p2c")
	if b.Limit < 1 {
		b.Limit = n.Positions
	}
	if b.Count < 1 {
		b.Count = b.Limit
	}
	switch {
	case !c.RelativeAttention:
		return errors.New("relative_attention is not set: only DeBERTa with relative positions is known")
	case !c.ShareAttentionKey:
		return errors.New("share_att_key is not set: projections of their own for positions are not known")
	case c.ConvKernel > 0:
		return fmt.Errorf("conv_kernel_size is %d: a convolution behind the first layer is not known", c.ConvKernel)
	case c.PositionBiased == nil || *c.PositionBiased:
		return errors.New("position_biased_input is set: positions in the input beside relative ones are not known")
	case c.NormRelative != "layer_norm":
		return fmt.Errorf("norm_rel_ebd is %.60q: only layer_norm is known", c.NormRelative)
	case b.Count > 1<<14 || b.Limit > 1<<17 || b.Limit < 2:
		return fmt.Errorf("position_buckets %d or max_relative_positions %d is out of range", b.Count, b.Limit)
	}
	terms := 1.0
	for _, on := range []bool{b.ContentToPosition, b.PositionToContent} {
		if on {
			terms++
		}
	}
	n.Buckets, n.ScoreScale = b, 1/math.Sqrt(float64(n.HeadDim)*terms)
	return nil
}

// with returns a changed copy.
func (n names) with(change func(*names)) names {
	change(&n)
	return n
}
