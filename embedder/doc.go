// Package embedder turns texts into vectors with one loaded model, for many callers at once.
//
// [Engine] is the work: it cuts long documents into chunks, tokenises in the caller's goroutine, and lets
// the rows of all callers wait together, so that batches can be made of texts of equal length. [Manager]
// is the guard in front of it: one model, loaded once, with limits on who may be inside and for how long.
//
// The package refuses to know what runs the model ([Model]), what makes token ids ([Tokenizer]), where
// texts come from, where vectors go and how either is retried. It tells its callers what an error means
// for a retry by two small behaviours instead: `Permanent() bool` and `Overloaded() bool`.
//
// # How batches are made
//
// A model reads a batch as a rectangle: rows times the longest row. Padding is computed like text, so a
// batch of texts as they come wastes most of the machine, while rows of equal length waste nothing. The
// engine therefore works in generations: everything that waits is sorted longest first and divided into
// batches within a token budget, where it costs least; what arrives meanwhile forms the next generation.
// When less than a full batch for each runner is left, it is divided into smaller ones, so that all end together.
// No row can be overtaken for ever, since a generation ends before the next begins. Search queries, whose
// callers wait, have a generation of their own, which goes first, and a runner of their own.
package embedder
