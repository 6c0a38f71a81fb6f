package model

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/embedfleet/embedfleet/vector"
)

// mathsVersion is raised whenever a change to the emitted graph changes vectors by more than rounding.
const mathsVersion = 1

// A Runtime says what computes the vectors. Its words are the runtime room's; they are compared, never
// interpreted.
type Runtime struct {
	Name      string // runtime and major version, such as "ort1"
	Provider  string // class of execution provider, "cpu" if empty
	Precision string // number format with its granularity, "fp32" if empty
}

// An Identity lists everything that changes a vector. Two models whose identities differ in any part make
// vectors that must not be compared.
//
// Not part of it: the padding id, batch sizes and threads, which change a vector by rounding at most.
type Identity struct {
	Weights   string // digest of the weights, or of the foreign graph with its external data
	Network   string // what the graph makes of them: architecture, sizes, activation, epsilon
	Tokenizer string // digest of the tokenizer's files
	Text      string // what is done to a text before it gets here
	Lowercase bool
	Prompts   Prompts
	MaxTokens int
	Truncated string // side on which a text that is too long loses tokens
	Pooling   Pooling
	Behind    string // what is between pooling and the last normalisation, and whether a prompt is pooled; most often ""
	Normalize bool
	Dim       int
	Compiler  int // version of the emitted graph's mathematics
	Runtime   Runtime
}

// Identity returns the identity of the vectors that m makes in a runtime.
//
// Text names the composition of conjoining Hangul jamo, which producers do when they take a text in
// (package tasks): without it a Korean text in decomposed form has another vector.
func (m *Model) Identity(r Runtime) Identity {
	if r.Provider == "" {
		r.Provider = "cpu"
	}
	if r.Precision == "" {
		r.Precision = "fp32"
	}
	return Identity{
		Weights: together(m.weightFiles), Network: m.net.String(), Tokenizer: together(m.tokenizerFiles),
		Text: "hangul-composed", Lowercase: m.Lowercase, Prompts: m.Prompts,
		MaxTokens: m.MaxTokens, Truncated: "right",
		Pooling: m.Pooling, Behind: m.head().String(), Normalize: m.Normalize, Dim: m.Dim,
		Compiler: mathsVersion, Runtime: r,
	}
}

// Space returns the space of the vectors that m makes in a runtime.
func (m *Model) Space(r Runtime) vector.Space { return m.Identity(r).Space() }

// Space returns the hex SHA-256 of i's canonical form, which is String's.
func (i Identity) Space() vector.Space {
	sum := sha256.Sum256([]byte(i.String()))
	return vector.Space(hex.EncodeToString(sum[:]))
}

// String returns the canonical form, version 1: a line with the form's name, then a line for each part,
// its name and its value, in this order, "behind" only if there is anything. Free text is quoted as Go quotes it. The form changes only
// together with its number, since every stored vector carries its hash.
func (i Identity) String() string {
	var b strings.Builder
	b.WriteString("embedfleet-space 1\n")
	for _, part := range [][2]string{
		{"weights", i.Weights},
		{"network", i.Network},
		{"tokenizer", i.Tokenizer},
		{"text", i.Text},
		{"lowercase", strconv.FormatBool(i.Lowercase)},
		{"query-prompt", strconv.Quote(i.Prompts.Query)},
		{"document-prompt", strconv.Quote(i.Prompts.Document)},
		{"max-tokens", strconv.Itoa(i.MaxTokens)},
		{"truncated", i.Truncated},
		{"pooling", i.Pooling.String()},
		{"behind", i.Behind},
		{"normalized", strconv.FormatBool(i.Normalize)},
		{"dim", strconv.Itoa(i.Dim)},
		{"compiler", strconv.Itoa(i.Compiler)},
		{"precision", i.Runtime.Precision},
		{"provider", i.Runtime.Provider},
		{"runtime", i.Runtime.Name},
	} {
		if part[0] == "behind" && part[1] == "" {
			continue // the spaces from before there were such modules
		}
		fmt.Fprintf(&b, "%s %s\n", part[0], part[1])
	}
	return b.String()
}
