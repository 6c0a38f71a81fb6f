package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
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

	// Of one family or some. Which of them count is the family's to say.
	Embedding         int       `json:"embedding_size"`
	KeyHeads          int       `json:"num_key_value_heads"`
	HeadDim           int       `json:"head_dim"`
	Groups            int       `json:"num_hidden_groups"`
	InnerGroups       int       `json:"inner_group_num"`
	RelativeBuckets   int       `json:"relative_attention_num_buckets"`
	RelativeAttention bool      `json:"relative_attention"`
	PositionBuckets   int       `json:"position_buckets"`
	MaxRelative       int       `json:"max_relative_positions"`
	PositionAttention oneOrMany `json:"pos_att_type"`
	ShareAttentionKey bool      `json:"share_att_key"`
	NormRelative      string    `json:"norm_rel_ebd"`
	PositionBiased    *bool     `json:"position_biased_input"`
	ConvKernel        int       `json:"conv_kernel_size"`
	AttentionBias     bool      `json:"attention_bias"`
	FeedBias          bool      `json:"mlp_bias"`
	NormBias          bool      `json:"norm_bias"`
	QKVBias           bool      `json:"qkv_proj_bias"`
	FC1Bias           bool      `json:"mlp_fc1_bias"`
	FC2Bias           bool      `json:"mlp_fc2_bias"`
	LayerTypes        []string  `json:"layer_types"`
	GlobalEvery       int       `json:"global_attn_every_n_layers"`
	LocalAttention    int       `json:"local_attention"`
	SlidingWindow     int       `json:"sliding_window"`
	UseWindow         bool      `json:"use_sliding_window"`
	Pattern           int       `json:"sliding_window_pattern"`
	OldPattern        int       `json:"_sliding_window_pattern"`
	Bidirectional     bool      `json:"use_bidirectional_attention"`
	QueryScalar       float64   `json:"query_pre_attn_scalar"`
	SoftCap           *float64  `json:"attn_logit_softcapping"`
	LogScale          bool      `json:"logn_attention_scale"`
	NormType          string    `json:"layer_norm_type"`
	PreNorm           bool      `json:"prenorm"`
	UseRMS            bool      `json:"use_rms_norm"`
	Experts           int       `json:"num_experts"`

	Theta          float64        `json:"rope_theta"`
	GlobalTheta    float64        `json:"global_rope_theta"`
	LocalTheta     float64        `json:"local_rope_theta"`
	LocalBase      float64        `json:"rope_local_base_freq"`
	RotaryBase     float64        `json:"rotary_emb_base"`
	RotaryFraction *float64       `json:"rotary_emb_fraction"`
	RotaryScaling  *float64       `json:"rotary_scaling_factor"`
	Ropes          ropeParameters `json:"rope_parameters"` // since transformers 5
	RopeScaling    *ropeConfig    `json:"rope_scaling"`    // before
}

// aliases are other names of a field, by which some architectures call it.
var aliases = map[string][]string{
	"hidden_size":             {"dim", "n_embd", "d_model"},
	"num_hidden_layers":       {"n_layers", "n_layer"},
	"num_attention_heads":     {"n_heads", "n_head"},
	"intermediate_size":       {"hidden_dim", "n_inner"},
	"max_position_embeddings": {"n_positions"},
	"layer_norm_eps":          {"rms_norm_eps", "norm_eps", "layer_norm_epsilon"},
	"hidden_act":              {"hidden_activation", "activation", "activation_function"},
}

// UnmarshalJSON reads a config.json, a field also by its other names.
func (c *config) UnmarshalJSON(b []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	there := func(name string) bool { raw, ok := fields[name]; return ok && string(raw) != "null" }
	for name, others := range aliases {
		for _, other := range others {
			if !there(name) && there(other) {
				fields[name] = fields[other]
			}
		}
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	type plain config // without this method
	return json.Unmarshal(b, (*plain)(c))
}

// ropeConfig is how positions become rotations.
type ropeConfig struct {
	Theta  float64 `json:"rope_theta"`
	Kind   string  `json:"rope_type"`
	Old    string  `json:"type"`
	Factor float64 `json:"factor"`
	MixedB any     `json:"mixed_b"`
}

// ropeParameters is one for all layers, under the name "", or one for each kind of layer.
type ropeParameters map[string]ropeConfig

func (p *ropeParameters) UnmarshalJSON(b []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	*p = make(ropeParameters)
	if _, flat := fields["rope_theta"]; flat || fields["rope_type"] != nil {
		var one ropeConfig
		err := json.Unmarshal(b, &one)
		(*p)[""] = one
		return err
	}
	for kind, raw := range fields {
		var one ropeConfig
		if err := json.Unmarshal(raw, &one); err != nil {
			return err
		}
		(*p)[kind] = one
	}
	return nil
}

// theta returns the base of a kind of layer's rotations: rope_parameters', else old, which is where it was before
// them, else the architecture's default.
func (c *config) theta(kind string, old, standard float64) float64 {
	for _, v := range []float64{c.Ropes[kind].Theta, old, standard} {
		if v > 0 {
			return v
		}
	}
	return 0
}

// plainRope refuses rotations that are scaled.
func (c *config) plainRope() error {
	for _, r := range c.Ropes {
		if r.Kind != "" && r.Kind != "default" {
			return fmt.Errorf("rope_parameters of rope_type %.60q are not known", r.Kind)
		}
	}
	if c.RopeScaling != nil {
		return fmt.Errorf("rope_scaling of type %.60q is not known", c.RopeScaling.Kind+c.RopeScaling.Old)
	}
	return nil
}

// ntk is plainRope that also knows the scaling of GTE's own code: the base times the factor, and all angles divided by
// factor^(2/width).
func (c *config) ntk(n *network) error {
	s := c.RopeScaling
	if s == nil || s.Old != "ntk" && s.Kind != "ntk" {
		return c.plainRope()
	}
	if s.MixedB != nil || !(s.Factor >= 1 && s.Factor < 1e6) {
		return fmt.Errorf("rope_scaling of type ntk with factor %v and mixed_b %v is not known", s.Factor, s.MixedB)
	}
	if s.Factor > 1 {
		n.Rope = rope{Theta: n.Rope.Theta * s.Factor, Factor: math.Pow(s.Factor, -2/float64(n.HeadDim))}
	}
	return nil
}

// localLayers sets which layers see only what is near: those of layer_types, or before there was that, of isLocal.
func (c *config) localLayers(n *network, isLocal func(int) bool) error {
	if len(c.LayerTypes) > 0 && len(c.LayerTypes) != n.Layers {
		return fmt.Errorf("layer_types has %d entries, there are %d layers", len(c.LayerTypes), n.Layers)
	}
	n.Local = make([]bool, n.Layers)
	for i := range n.Local {
		if len(c.LayerTypes) == 0 {
			n.Local[i] = isLocal(i)
			continue
		}
		switch c.LayerTypes[i] {
		case "sliding_attention":
			n.Local[i] = true
		case "full_attention":
		default:
			return fmt.Errorf("layer_types names %.60q, known are full_attention and sliding_attention", c.LayerTypes[i])
		}
	}
	return c.plainRope()
}

// countsFromPad reports whether an architecture's positions begin behind its padding id, so that it reads
// pad + 1 tokens less than it has positions (transformers, create_position_ids_from_input_ids and its
// copies). Those of no family can only come as foreign graphs.
func countsFromPad(modelType string) bool {
	switch modelType {
	case "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text", "ibert", "xmod", "longformer", "luke":
		return true
	}
	f := familyOf(modelType)
	return f != nil && f.fromPad
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

// network checks that c describes an encoder we can emit and returns its shape.
func (c *config) network() (network, error) {
	f, err := c.family()
	if err != nil {
		return network{}, err
	}
	if err := c.checkSizes(); err != nil {
		return network{}, err
	}
	n, err := c.basics(f)
	if err == nil && f.traits != nil {
		err = f.traits(c, &n)
	}
	if err == nil {
		err = n.check(c)
	}
	return n, err
}

// basics returns the shape with the traits of a BERT. Absent fields have the family's defaults, sizes
// excepted: those must be there.
func (c *config) basics(f *family) (network, error) {
	act, err := activationOf(c.Activation)
	n := network{
		Type: c.ModelType, Layers: c.Layers, Hidden: c.Hidden, Heads: c.Heads, Intermediate: c.Intermediate,
		Vocab: c.VocabSize, Positions: c.Positions, TypeVocab: 2, PadID: -1, Epsilon: 1e-12, Activation: act,
		Embedding: positive(c.Embedding, c.Hidden), KeyHeads: positive(c.KeyHeads, c.Heads), HeadDim: positive(c.HeadDim, c.Hidden/c.Heads),
	}
	if c.TypeVocab != nil {
		n.TypeVocab = *c.TypeVocab
	}
	if f.epsilon != 0 {
		n.Epsilon = f.epsilon
	}
	if c.Epsilon != nil {
		n.Epsilon = *c.Epsilon
	}
	if c.Activation == "" && f.activation != "" {
		n.Activation = f.activation
	}
	// Of a BERT the padding id decides nothing, since its positions count padding too; leaving it out keeps
	// it out of the space.
	if countsFromPad(c.ModelType) {
		n.PadID = c.pad()
	}
	return n, err
}

// check looks at what no part of config.json can be right about alone.
func (n network) check(c *config) error {
	switch {
	case n.TypeVocab < 0 || n.TypeVocab == 0 && familyOf(n.Type).names.types != "" && n.Buckets.Kind != "log":
		return fmt.Errorf("type_vocab_size is %d, at least 1 is needed", n.TypeVocab)
	case !(n.Epsilon > 0 && n.Epsilon < 1) || math.IsNaN(n.Epsilon):
		return fmt.Errorf("layer_norm_eps is %v, expected is a small positive number", n.Epsilon)
	case n.PadID < -1 || n.PadID >= n.Vocab:
		return fmt.Errorf("pad_token_id is %d, outside the vocabulary of %d", n.PadID, n.Vocab)
	case c.usable() < 1:
		return fmt.Errorf("max_position_embeddings %d leaves no position behind pad_token_id %d", n.Positions, n.PadID)
	case n.Heads%n.KeyHeads != 0:
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", n.Heads, n.KeyHeads)
	case n.Rope.Theta > 0 && n.HeadDim%2 != 0:
		return fmt.Errorf("head_dim %d is odd, rotations turn pairs", n.HeadDim)
	case n.Embedding > 1<<24 || n.HeadDim > 1<<16 || n.Layers > 1<<16:
		return errors.New("embedding_size, head_dim or num_hidden_layers is out of range")
	}
	return nil
}

// family refuses what would need other mathematics than the family's.
func (c *config) family() (*family, error) {
	f := familyOf(c.ModelType)
	switch {
	case c.ModelType == "":
		return nil, errors.New("model_type is missing")
	case f == nil:
		return nil, fmt.Errorf("architecture %s is none of %s", c.ModelType, known())
	case c.IsDecoder || c.CrossAttention:
		return nil, errors.New("is_decoder or add_cross_attention is set: only encoders make embeddings here")
	case c.PositionType != "" && c.PositionType != "absolute" && (f.names.positions != "" || c.PositionType != "rope" && c.PositionType != "rotary"):
		return nil, fmt.Errorf("position_embedding_type %.60q is not absolute", c.PositionType)
	case len(c.Quantization) > 0:
		return nil, errors.New("quantization_config is set: only unquantised weights are read")
	case len(c.PrunedHeads) > 0:
		return nil, errors.New("pruned_heads is set: layers of different width are not supported")
	case c.AutoMap["AutoModel"] != nil && !f.runs(c.AutoMap["AutoModel"]):
		return nil, fmt.Errorf("auto_map names code of its own (%.100q), which is not run", fmt.Sprint(c.AutoMap["AutoModel"]))
	}
	// An older config.json may name no class at all; the type alone is then believed.
	for _, a := range c.Architectures {
		if !f.encoderClass(a) {
			return nil, fmt.Errorf("architecture %.100q is not a text encoder with token vectors", a)
		}
	}
	return f, nil
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
	if c.Hidden%c.Heads != 0 && c.HeadDim == 0 {
		return fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d", c.Hidden, c.Heads)
	}
	return nil
}

// describe fills in what is known of an architecture that we don't emit.
func (c *config) describe() network {
	return network{
		Type: c.ModelType, Layers: c.Layers, Hidden: c.Hidden, Heads: c.Heads,
		Vocab: c.VocabSize, Positions: c.Positions, PadID: -1,
	}
}
