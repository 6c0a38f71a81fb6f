// Package tokenizer turns a text into the token ids of one model, exactly as Hugging Face's tokenizers does.
//
// It owns: reading a tokenizer.json (or BERT's older vocab.txt), refusing what it does not understand, and
// the three encoders that embedding models use: BERT WordPiece, XLM-R Unigram and byte-level BPE (RoBERTa).
// It refuses to know: how long a text a model takes (the caller says so in each call; the truncation and
// padding that tokenizer.json carries are left-overs of somebody's training run and are never applied),
// decoding, sentence pairs, and composing Hangul (a step of ingest: Hugging Face doesn't do it, so neither
// does this package).
//
// The rules, down to their oddities, are those of Hugging Face's tokenizers 0.23.2 and the crates it is
// built from; NOTICE credits them. Conformance cases made by its own code are under testdata. All character
// properties are tables in this package (see gen), so a newer Go with a newer Unicode changes no id.
//
// A text goes through four steps: special tokens written out in it are found (added.go), what lies between
// them is normalised (bert.go, charsmap.go), split into words (bert.go, metaspace.go, bytelevel.go) and each
// word into pieces of the vocabulary (wordpiece.go, unigram.go, bpe.go). Every step works on as much text as
// the caller's limit needs and no more.
package tokenizer
