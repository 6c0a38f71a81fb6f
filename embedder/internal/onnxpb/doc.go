// Package onnxpb writes and reads the part of ONNX's protobuf form that embedding graphs need.
//
// It owns the field numbers of github.com/onnx/onnx, onnx/onnx.proto (IR version 8 and later add nothing we
// use), so that neither the schema's generated code nor its 2 GB messages are needed: weights are always
// written as external data, and a foreign file is scanned in place, weights unread. It refuses to know what
// an operator computes.
package onnxpb
