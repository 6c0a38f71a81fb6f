package model

import (
	"fmt"
	"strings"
)

// A network is the checked shape of an encoder that we emit a graph for: sizes, and the traits in which
// architectures differ. The zero value of a trait is BERT's. Which norms, biases and tables there are is not said
// here but by the names of their tensors (see [family]).
type network struct {
	Type         string
	Layers       int
	Hidden       int
	Heads        int
	Intermediate int
	Vocab        int
	Positions    int // that the network was made for, not all of which a text can use
	TypeVocab    int
	PadID        int // config.json's, which decides RoBERTa's positions; -1 where it decides nothing
	Epsilon      float64
	Activation   activation

	Embedding int     // width of the word table, which a layer then makes Hidden
	Scale     float64 // of the words' vectors; 0 is 1

	KeyHeads   int     // heads of keys and values, each for Heads/KeyHeads of the queries'
	HeadDim    int     // width of a head
	ScoreScale float64 // of the attention's scores; 0 is 1/sqrt(HeadDim)
	Causal     bool    // a token sees itself and what is before it
	Window     int     // tokens further away are not seen by the layers of Local
	Local      []bool  // by layer; nil is none
	Rope       rope    // of layers that see all
	LocalRope  rope    // of the others
	Buckets    buckets // of relative positions, whose bias is added to the scores

	RMS       bool // norms divide by the root of the mean square, without subtracting the mean
	OnePlus   bool // and multiply by 1 + their weight
	Shared    int  // layers that have the weights of one before: every Shared-th has new ones
	GateFirst bool // where gate and up lie in one tensor, in which order

	Bias struct{ Attention, Up, Down, Norm bias }

	Output string // of a foreign graph, which one is taken
}

// A bias says whether layers or norms have one.
type bias int

const (
	biased bias = iota
	unbiased
)

// biasIf is what a setting of config.json says.
func biasIf(there bool) bias {
	if there {
		return biased
	}
	return unbiased
}

// An activation is the function between the two feed-forward layers.
type activation string

const (
	geluErf  activation = "gelu"      // x Φ(x)
	geluTanh activation = "gelu_tanh" // its approximation by tanh
	relu     activation = "relu"
	silu     activation = "silu" // x σ(x)
)

// activationOf knows transformers' names (activations.py, ACT2FN) of the functions that we emit exactly.
//
// Approximations that transformers offers under other names (quick_gelu, gelu_10) are refused: near is not
// the same.
func activationOf(name string) (activation, error) {
	switch name {
	case "", "gelu", "gelu_python":
		return geluErf, nil
	case "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh":
		return geluTanh, nil
	case "relu":
		return relu, nil
	case "silu", "swish", "swiglu":
		return silu, nil
	case "geglu":
		return geluErf, nil
	}
	return "", fmt.Errorf("hidden_act %.60q is none of gelu, gelu_new, gelu_pytorch_tanh, relu, silu", name)
}

// A rope turns the halves of a query's or key's head by angles that grow with the position: the i-th pair by
// position · Factor · Theta^(-2i/width). Theta 0 is none.
type rope struct {
	Theta  float64
	Factor float64 // 0 is 1
}

// buckets are how relative positions are told apart: by rows of a table, close ones exactly and others by the
// logarithm of their distance.
type buckets struct {
	Kind  string // "" is none; t5 as in MPNet; log as in DeBERTa
	Count int    // rows for a direction (log), or of the table (t5)
	Limit int    // distance from which on there is only one more
	// Of log: the parts of a score that look at positions, and whether layers use their own query and key there.
	ContentToPosition, PositionToContent bool
}

// String names what the weights alone don't say of a network's mathematics. Traits that are BERT's are left out, so
// that a new one changes no space that there is.
func (n network) String() string {
	if n.Activation == "" {
		return fmt.Sprintf("onnx %s output=%s", n.Type, n.Output)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s layers=%d hidden=%d heads=%d act=%s eps=%g pad=%d",
		n.Type, n.Layers, n.Hidden, n.Heads, n.Activation, n.Epsilon, n.PadID)
	for _, trait := range []struct {
		name   string
		differ bool
		value  any
	}{
		{"key-heads", n.KeyHeads != n.Heads, n.KeyHeads},
		{"head-dim", n.HeadDim*n.Heads != n.Hidden, n.HeadDim},
		{"scale", n.Scale != 0, n.Scale},
		{"score-scale", n.ScoreScale != 0, n.ScoreScale},
		{"causal", n.Causal, true},
		{"window", n.Local != nil, n.Window},
		{"local", n.Local != nil, n.Local},
		{"rope", n.Rope != rope{}, n.Rope},
		{"local-rope", n.LocalRope != rope{}, n.LocalRope},
		{"buckets", n.Buckets != buckets{}, n.Buckets},
		{"rms", n.RMS, true},
		{"one-plus", n.OnePlus, true},
		{"shared", n.Shared != 0, n.Shared},
		{"gate-first", n.GateFirst, true},
	} {
		if trait.differ {
			fmt.Fprintf(&b, " %s=%v", trait.name, trait.value)
		}
	}
	return b.String()
}

// reach says what layer i sees.
func (n network) reach(i int) reach {
	if n.Local != nil && n.Local[i] {
		return near
	}
	return everywhere
}
