//go:build unix

package onnx

/*
#cgo CFLAGS: -I${SRCDIR}/kernels
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "operators.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/embedfleet/embedfleet/embedder/onnx/kernels"
)

// HasOperators reports whether this processor can run graphs with the operators of [OperatorDomain].
func HasOperators() bool { return kernels.Available() }

// An operators is the domain of our own operators, made for a loaded library. Its memory, a few hundred bytes, is
// never freed: sessions may outlive whoever would.
type operators struct{ domain unsafe.Pointer }

// newOperators makes the domain for the library at a path, which must have been loaded.
func newOperators(library string) (operators, error) {
	var o operators
	path, name := C.CString(library), C.CString(OperatorDomain)
	defer C.free(unsafe.Pointer(path))
	// The runtime keeps the name's characters, not the pointer.
	defer C.free(unsafe.Pointer(name))
	if err := problem(C.ef_domain(path, name, &o.domain)); err != nil {
		return o, fmt.Errorf("making the encoder's operators: %w", err)
	}
	return o, nil
}

// addTo makes a session's options know the operators. The binding has no function for that, and keeps the options'
// C pointer in a field of its own, which is read here. Any other layout of the struct is an error.
func (o operators) addTo(so *ort.SessionOptions) error {
	field := reflect.ValueOf(so).Elem().FieldByName("o")
	if !field.IsValid() || field.Kind() != reflect.Pointer || field.IsNil() {
		return errors.New("adding the encoder's operators: this version of the binding keeps its options elsewhere")
	}
	if err := problem(C.ef_add_domain(field.UnsafePointer(), o.domain)); err != nil {
		return fmt.Errorf("adding the encoder's operators: %w", err)
	}
	return nil
}

// problem turns an error's text, which it frees, into an error.
func problem(text *C.char) error {
	if text == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(text))
	return errors.New(C.GoString(text))
}

// trimOperators frees the memory that the operators keep between calls.
func trimOperators() { kernels.Trim() }
