// Package checkpoint reads the tensors of a model folder's weights as float32: safetensors files and those of
// torch.save, one file or several shards.
//
// It owns the file formats. A safetensors file is eight bytes with the header's length, a JSON header, the data
// (github.com/huggingface/safetensors, README); a file of torch.save is a pickle that names tensors, and their
// content. A pickle is a program that may call anything; here nothing in it is run, and it may name two functions
// and the storages' types. A header is believed only after every tensor's bytes were found inside the file, because
// the next thing done with one is to read what it points at. The package refuses to know what a tensor means, and it
// never holds more of a file in memory than it was asked for.
package checkpoint
