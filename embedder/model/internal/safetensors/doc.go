// Package safetensors reads tensors from safetensors files, one file or several shards, as float32.
//
// It owns the file format: eight bytes with the header's length, a JSON header, the data (the format's own
// description: github.com/huggingface/safetensors, README). A header is believed only after every tensor's
// bytes were found inside the file, because the next thing done with one is to read what it points at. It
// refuses to know what a tensor means, and it never holds more of a file in memory than it was asked for.
package safetensors
