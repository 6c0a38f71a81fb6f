// Package embedtest has fakes of a model and a tokenizer whose vectors can be read back: [Quote] returns
// the text that a vector stands for, so a test can say which text it expects instead of comparing numbers.
// It knows nothing of any real model.
//
// [Model] and [Tokenizer] drive a real [embedder.Engine]; [Faulty] makes a model fail or hang where a test
// wants it; [Embedder] is the smallest thing that handlers and servers can be tested with.
package embedtest
