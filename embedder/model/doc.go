// Package model turns a Hugging Face folder into what a runtime needs: the configuration, the identity of
// the vector space, and a graph that goes from token ids to finished vectors.
//
// [Open] reads the folder as sentence-transformers 6.2 does and refuses, by name, what it doesn't
// understand: a wrong vector is worse than none. [Model.Prepare] writes the graph into a cache once per
// host. For the architectures that a [family] describes the graph is our own, emitted from the weights with
// pooling and what is behind it inside; for others the folder's onnx/model.onnx is taken and
// that is put behind it. Either way it has these inputs and this output:
//
//	input_ids       int64   [batch, sequence]  rows padded on the right
//	attention_mask  int64   [batch, sequence]  1 for a token, 0 for padding
//	token_type_ids  int64   [batch, sequence]  zeros; only if Prepared.TokenTypes
//	prompt_tokens   int64   [batch, 1]         how many are not pooled; only if Model.PromptExcluded
//	embedding       float32 [batch, Model.Dim]
//
// What the project decides where a folder is silent:
//
//   - A folder without modules.json is mean-pooled, as sentence-transformers does, with a warning.
//   - Vectors are normalised if the folder has a Normalize module, and only then. [Overrides] can say
//     otherwise, and both the choice and everything else that changes a vector is part of [Model.Space].
//   - Weights of 16 bits are computed with in 32, also where config.json asks for 16.
//
// The package knows no runtime and no tokenizer: of a tokenizer it reads only the padding id and the digest.
package model
