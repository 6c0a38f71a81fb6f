package model

import (
	"fmt"
	"slices"
	"strings"
)

// A Mode is one way to make one vector of a text's token vectors.
type Mode string

// The modes, by the names that sentence-transformers gives them since 6.0.
const (
	CLS          Mode = "cls"                  // the first token's vector
	Max          Mode = "max"                  // the largest value of each dimension
	Mean         Mode = "mean"                 // the average
	MeanSqrt     Mode = "mean_sqrt_len_tokens" // the sum divided by the root of the number of tokens
	WeightedMean Mode = "weightedmean"         // the average in which the n-th token counts n-fold
	LastToken    Mode = "lasttoken"            // the last token's vector
)

// modes lists every mode in the order in which an old 1_Pooling/config.json, a set of booleans, means
// several of them to be concatenated.
var modes = [...]Mode{CLS, Max, Mean, MeanSqrt, WeightedMean, LastToken}

// A Pooling is one mode or several whose vectors are concatenated in this order.
type Pooling []Mode

// ParsePooling reads what [Pooling.String] writes, such as "mean" or "cls+mean".
func ParsePooling(s string) (Pooling, error) {
	var p Pooling
	for name := range strings.SplitSeq(s, "+") {
		p = append(p, Mode(strings.TrimSpace(name)))
	}
	return p, p.check()
}

func (p Pooling) String() string {
	names := make([]string, len(p))
	for i, m := range p {
		names[i] = string(m)
	}
	return strings.Join(names, "+")
}

func (p Pooling) check() error {
	if len(p) == 0 {
		return fmt.Errorf("no pooling mode is named")
	}
	for i, m := range p {
		if !slices.Contains(modes[:], m) {
			return fmt.Errorf("pooling mode %q is unknown, known are %s", m, Pooling(modes[:]))
		}
		if slices.Contains(p[:i], m) {
			return fmt.Errorf("pooling mode %q is named twice", m)
		}
	}
	return nil
}

// poolingConfig is 1_Pooling/config.json in its old form (booleans) and its new one (names).
type poolingConfig struct {
	OldDimension  int   `json:"word_embedding_dimension"`
	NewDimension  int   `json:"embedding_dimension"`
	IncludePrompt *bool `json:"include_prompt"`

	Names oneOrMany `json:"pooling_mode"`

	CLS          bool `json:"pooling_mode_cls_token"`
	Max          bool `json:"pooling_mode_max_tokens"`
	Mean         bool `json:"pooling_mode_mean_tokens"`
	MeanSqrt     bool `json:"pooling_mode_mean_sqrt_len_tokens"`
	WeightedMean bool `json:"pooling_mode_weightedmean_tokens"`
	LastToken    bool `json:"pooling_mode_lasttoken"`
}

// pooling returns the modes that c asks for. Names win over booleans, and no boolean set means mean.
func (c *poolingConfig) pooling() (Pooling, error) {
	if len(c.Names) > 0 {
		var p Pooling
		for _, n := range c.Names {
			p = append(p, Mode(n))
		}
		return p, p.check()
	}
	var p Pooling
	for i, set := range []bool{c.CLS, c.Max, c.Mean, c.MeanSqrt, c.WeightedMean, c.LastToken} {
		if set {
			p = append(p, modes[i])
		}
	}
	if len(p) == 0 {
		p = Pooling{Mean}
	}
	return p, nil
}
