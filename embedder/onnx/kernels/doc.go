// Package kernels is the arithmetic of an encoder's layers in C, for processors with AVX-512: dense layers with what
// follows them done while the sums are still in registers, attention text by text, and no row of padding anywhere.
// It knows matrices and refuses to know graphs, runtimes and files. Where it is not available, graphs are made of
// ordinary operators.
//
// kernels.h is the interface; package onnx hands it to ONNX Runtime. The functions here are for tests and measurements
// on one thread.
package kernels
