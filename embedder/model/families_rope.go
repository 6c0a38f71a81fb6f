package model

import (
	"errors"
	"fmt"
	"math"
)

// Architectures whose positions are rotations of queries and keys.

var modernbert = family{
	epsilon: 1e-5,
	types:   []string{"modernbert"}, classes: []string{"ModernBert"},
	names: names{
		words: "embeddings.tok_embeddings", norm: "embeddings.norm", layer: "layers.%d.",
		packed: "attn.Wqkv", attention: "attn.Wo", attentionIn: "attn_norm", // the first layer has none: the tables' norm is it
		upGate: "mlp.Wi", down: "mlp.Wo", feedIn: "mlp_norm", final: "final_norm",
	},
	traits: func(c *config, n *network) error {
		n.GateFirst = true
		n.Bias.Attention, n.Bias.Up, n.Bias.Down, n.Bias.Norm = biasIf(c.AttentionBias), biasIf(c.FeedBias), biasIf(c.FeedBias), biasIf(c.NormBias)
		n.Rope = rope{Theta: c.theta("full_attention", c.GlobalTheta, 160_000)}
		n.LocalRope = rope{Theta: c.theta("sliding_attention", c.LocalTheta, 10_000)}
		n.Window = positive(c.LocalAttention, 128) / 2
		return c.localLayers(n, func(i int) bool { return i%positive(c.GlobalEvery, 3) != 0 })
	},
}

// nativeNames are those of transformers' own code for what came as code of a repository. It saves the repository's
// names, and files that are written without it have these.
var nativeNames = names{
	words: "embeddings.word_embeddings", types: "embeddings.token_type_embeddings", norm: "embeddings.LayerNorm", layer: "layers.%d.",
	query: "self_attn.q_proj", key: "self_attn.k_proj", value: "self_attn.v_proj", attention: "self_attn.o_proj",
	attentionSum: "post_attention_layernorm", feedSum: "post_mlp_layernorm",
	up: "mlp.up_proj", gate: "mlp.gate_proj", down: "mlp.down_proj",
}

// gte is also NewModel, the name of its authors' code.
var gte = family{
	types: []string{"gte", "new"}, classes: []string{"Gte", "New"}, code: []string{"NewModel"},
	renamed: &nativeNames,
	names: names{
		words: "embeddings.word_embeddings", types: "embeddings.token_type_embeddings", norm: "embeddings.LayerNorm",
		layer: "encoder.layer.%d.", packed: "attention.qkv_proj", attention: "attention.o_proj", attentionSum: "attn_ln",
		upGate: "mlp.up_gate_proj", down: "mlp.down_proj", feedSum: "mlp_ln",
	},
	traits: func(c *config, n *network) error {
		n.Bias.Up = unbiased
		n.Rope.Theta = c.theta("", c.Theta, 10_000)
		if c.TypeVocab == nil {
			n.TypeVocab = 1
		}
		if c.LogScale || c.NormType != "" && c.NormType != "layer_norm" {
			return fmt.Errorf("logn_attention_scale or layer_norm_type %.60q is not known", c.NormType)
		}
		return c.ntk(n)
	},
}

// nomic has the tensors of the flash-attention package.
var nomic = family{
	activation: silu,
	types:      []string{"nomic_bert"}, classes: []string{"NomicBert"}, code: []string{"NomicBertModel"},
	renamed: &nativeNames,
	names: names{
		words: "embeddings.word_embeddings", types: "embeddings.token_type_embeddings", norm: "emb_ln",
		layer: "encoder.layers.%d.", packed: "attn.Wqkv", attention: "attn.out_proj", attentionSum: "norm1",
		up: "mlp.fc11", gate: "mlp.fc12", down: "mlp.fc2", feedSum: "norm2",
	},
	traits: func(c *config, n *network) error {
		n.Bias.Attention, n.Bias.Up, n.Bias.Down = biasIf(c.QKVBias), biasIf(c.FC1Bias), biasIf(c.FC2Bias)
		n.Rope.Theta = c.theta("", c.RotaryBase, 1000)
		if c.RotaryFraction != nil && *c.RotaryFraction != 1 || c.RotaryScaling != nil || c.PreNorm || c.UseRMS || c.Experts > 0 {
			return errors.New("rotary_emb_fraction, rotary_scaling_factor, prenorm, use_rms_norm or num_experts is set to what is not known")
		}
		return c.plainRope()
	},
}

var jinaNames = nativeNames.with(func(n *names) { n.up, n.gate, n.down = "mlp.fc1", "", "mlp.fc2" })

var jina = family{
	epsilon: 1e-5,
	types:   []string{"jina_embeddings_v3", "xlm-roberta-flash"}, classes: []string{"JinaEmbeddingsV3", "XLMRoberta"},
	renamed: &jinaNames,
	names: names{
		words: "embeddings.word_embeddings", types: "embeddings.token_type_embeddings", norm: "emb_ln",
		layer: "encoder.layers.%d.", packed: "mixer.Wqkv", attention: "mixer.out_proj", attentionSum: "norm1",
		up: "mlp.fc1", down: "mlp.fc2", feedSum: "norm2",
	},
	traits: func(c *config, n *network) error {
		n.Rope.Theta = c.theta("", c.RotaryBase, 20_000)
		if c.TypeVocab == nil {
			n.TypeVocab = 1
		}
		return c.plainRope()
	},
}

// llamaNames are those of decoders, which others took over.
var llamaNames = names{
	words: "embed_tokens", layer: "layers.%d.", firstIn: true,
	query: "self_attn.q_proj", key: "self_attn.k_proj", value: "self_attn.v_proj", attention: "self_attn.o_proj",
	up: "mlp.up_proj", gate: "mlp.gate_proj", down: "mlp.down_proj",
	attentionIn: "input_layernorm", feedIn: "post_attention_layernorm", final: "norm",
}

// llamaTraits are what those have in common.
func llamaTraits(c *config, n *network) {
	n.RMS, n.Bias.Norm = true, unbiased
	n.Bias.Attention, n.Bias.Up, n.Bias.Down = biasIf(c.AttentionBias), biasIf(c.FeedBias), biasIf(c.FeedBias)
}

var eurobert = family{
	activation: silu, epsilon: 1e-5,
	types: []string{"eurobert"}, classes: []string{"EuroBert"}, code: []string{"EuroBertModel"}, names: llamaNames,
	traits: func(c *config, n *network) error {
		llamaTraits(c, n)
		n.Rope.Theta = c.theta("", c.Theta, 250_000)
		return c.plainRope()
	},
}

var qwen3 = family{
	activation: silu, epsilon: 1e-6,
	types: []string{"qwen3"}, classes: []string{"Qwen3"}, heads: []string{"ForCausalLM"},
	names: llamaNames.with(func(n *names) { n.queryNorm, n.keyNorm = "self_attn.q_norm", "self_attn.k_norm" }),
	traits: func(c *config, n *network) error {
		llamaTraits(c, n)
		n.Causal = true
		n.Rope.Theta = c.theta("", c.Theta, 1_000_000)
		if c.HeadDim == 0 {
			n.HeadDim = 128 // Qwen3Config's default
		}
		if c.UseWindow {
			return errors.New("use_sliding_window is set: windows of a causal network are not known")
		}
		return c.plainRope()
	},
}

// gemma3 is EmbeddingGemma: a Gemma 3 that sees both ways.
var gemma3 = family{
	activation: geluTanh, epsilon: 1e-6,
	types: []string{"gemma3_text"}, classes: []string{"Gemma3Text", "Gemma3"}, heads: []string{"ForCausalLM"},
	names: llamaNames.with(func(n *names) {
		n.queryNorm, n.keyNorm = "self_attn.q_norm", "self_attn.k_norm"
		n.attentionEnd, n.feedIn, n.feedEnd = "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
	}),
	traits: func(c *config, n *network) error {
		llamaTraits(c, n)
		n.OnePlus, n.Scale = true, float64(float32(math.Sqrt(float64(n.Hidden))))
		n.ScoreScale = 1 / math.Sqrt(c.QueryScalar)
		n.Rope = rope{Theta: c.theta("full_attention", c.Theta, 1_000_000)}
		n.LocalRope = rope{Theta: c.theta("sliding_attention", c.LocalBase, 10_000)}
		n.Window = positive(c.SlidingWindow, 4096) / 2
		switch {
		case !c.Bidirectional:
			return errors.New("use_bidirectional_attention is not set: only Gemma 3 as an embedder is known")
		case c.QueryScalar <= 0:
			return errors.New("query_pre_attn_scalar is missing")
		case c.SoftCap != nil:
			return errors.New("attn_logit_softcapping is set, which is not known")
		}
		pattern := positive(max(c.Pattern, c.OldPattern), 6)
		return c.localLayers(n, func(i int) bool { return (i+1)%pattern != 0 })
	},
}

// positive returns n, or what stands for 0.
func positive(n, otherwise int) int {
	if n > 0 {
		return n
	}
	return otherwise
}
