//go:build !amd64 || !unix

package onnx

import ort "github.com/yalue/onnxruntime_go"

// HasOperators is false: there are none for this processor.
func HasOperators() bool { return false }

type operators struct{}

func newOperators(string) (operators, error) { return operators{}, nil }

func (operators) addTo(*ort.SessionOptions) error { return nil }

func trimOperators() {}
