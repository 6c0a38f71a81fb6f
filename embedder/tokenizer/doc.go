// Package tokenizer turns a text into the token ids of one model, exactly as Hugging Face's tokenizers does.
//
// It owns: reading a tokenizer.json (or BERT's older vocab.txt, or XLM-R's sentencepiece.bpe.model), refusing
// what it does not understand, and the models that embedding models use: WordPiece, Unigram, and BPE of bytes
// or of characters, behind any of Hugging Face's normalisers and pre-tokenisers that real files combine.
// It refuses to know: how long a text a model takes (the caller says so in each call; the truncation and
// padding that tokenizer.json carries are left-overs of somebody's training run and are never applied),
// decoding, and composing Hangul (a step of ingest: Hugging Face doesn't do it, so neither does this package).
//
// The rules, down to their oddities, are those of Hugging Face's tokenizers 0.23.2 and the crates it is
// built from; NOTICE credits them. Conformance cases made by its own code are under testdata, and TestOracle
// asks it where it is installed. All character properties are tables in this package (see gen), so a newer Go
// with a newer Unicode changes no id.
//
// A text goes through four steps: special tokens written out in it are found (added.go), what lies between
// them is normalised (normalizer.go, normalform.go, charsmap.go), split into words (splitter.go, with the
// regular expressions of regex.go) and each word into pieces of the vocabulary (wordpiece.go, unigram.go,
// bpe.go). composed.go puts the steps together as a file has them; what most models combine, BERT's steps and
// XLM-R's, is done in one pass (bert.go, metaspace.go). Every step works on as much text as the caller's limit
// needs and no more. Special tokens go around one text (postprocessor.go) or two (pair.go).
package tokenizer
