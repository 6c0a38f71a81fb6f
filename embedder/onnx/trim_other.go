//go:build !linux

package onnx

// trim does nothing: only glibc must be asked.
func trim() {}
