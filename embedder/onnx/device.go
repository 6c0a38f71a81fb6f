package onnx

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	ort "github.com/yalue/onnxruntime_go"
)

// A Device is where a graph runs. The zero value is the processor.
type Device struct {
	class string // "" is the processor's
	index int    // of several accelerators of one class
}

// ParseDevice reads "cpu", "cuda" or "cuda:1".
func ParseDevice(s string) (Device, error) {
	class, number, numbered := strings.Cut(s, ":")
	d := Device{class: class}
	switch {
	case s == "cpu":
		return Device{}, nil
	case class != "cuda":
		return Device{}, fmt.Errorf("device %q is unknown, want cpu, cuda or cuda:N", s)
	case numbered:
		var err error
		if d.index, err = strconv.Atoi(number); err != nil || d.index < 0 {
			return Device{}, fmt.Errorf("device %q: want a number from 0 behind the colon", s)
		}
	}
	return d, nil
}

// Class is the kind of device, of which vectors depend: those of two classes differ by more than rounding
// allows, those of two devices of one class don't.
func (d Device) Class() string {
	if d.class == "" {
		return "cpu"
	}
	return d.class
}

// Accelerated reports whether the device is another than the processor. Such a device has memory of its own,
// can't use what is prepacked for the processor, and runs one call of a session at a time
// (microsoft/onnxruntime#12049).
func (d Device) Accelerated() bool { return d.class != "" }

func (d Device) String() string {
	if d.index > 0 {
		return fmt.Sprintf("%s:%d", d.class, d.index)
	}
	return d.Class()
}

// attach makes sessions of so run on the device, all of it or not at all: the runtime would otherwise compute
// what the device can't on the processor, and say nothing (qdrant/fastembed#238). A device that is not there
// is an error with the runtime's own reason.
func (d Device) attach(so *ort.SessionOptions) (err error) {
	if !d.Accelerated() {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("using device %s: %w", d, err)
		}
	}()
	cuda, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cuda.Destroy()) }()
	settings := map[string]string{
		"device_id":             strconv.Itoa(d.index),
		"arena_extend_strategy": "kSameAsRequested", // not the next power of two
		"use_tf32":              "0",                // 10 bits of mantissa are another space
	}
	// One after the other: what follows the first failure only repeats it.
	if err := cuda.Update(settings); err != nil {
		return err
	}
	if err := so.AppendExecutionProviderCUDA(cuda); err != nil {
		return err
	}
	return so.AddSessionConfigEntry("session.disable_cpu_ep_fallback", "1")
}

// memoryWords are what the runtime says when memory is short: its arenas, the CUDA libraries, the C++ heap.
// There is no code for it (microsoft/onnxruntime#16307).
var memoryWords = []string{
	"Failed to allocate memory", "out of memory", "ALLOC_FAILED", "Available memory of", "bad allocation", "bad_alloc",
}

// outOfMemory reports whether err of a run says that memory is short.
func outOfMemory(err error) bool {
	for _, words := range memoryWords {
		if strings.Contains(err.Error(), words) {
			return true
		}
	}
	return false
}
