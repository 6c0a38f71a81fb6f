package onnx

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
)

func TestParseDevice(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		device      Device
		class, name string
	}{
		"cpu":    {Device{}, "cpu", "cpu"},
		"cuda":   {Device{class: "cuda"}, "cuda", "cuda"},
		"cuda:0": {Device{class: "cuda"}, "cuda", "cuda"},
		"cuda:3": {Device{class: "cuda", index: 3}, "cuda", "cuda:3"},
	} {
		d, err := ParseDevice(in)
		if err != nil || d != want.device || d.Class() != want.class || d.String() != want.name || d.Accelerated() == (in == "cpu") {
			t.Errorf("%q: %+v (%s, %s), %v; want %+v", in, d, d.Class(), d, err, want)
		}
	}
	for in, want := range map[string]string{
		"": "unknown", "gpu": "want cpu, cuda or cuda:N", "CUDA": "unknown", "cpu:1": "unknown",
		"cuda:": "want a number", "cuda:-1": "want a number", "cuda:x": "want a number",
	} {
		if _, err := ParseDevice(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error that says %q", in, err, want)
		}
	}
}

// TestDeviceIsNotThere asks for a device that the library at hand can't serve. The runtime's own reason must
// come out, in one line, nothing is left open, and the processor serves afterwards.
func TestDeviceIsNotThere(t *testing.T) {
	t.Parallel()
	opts := counts
	opts.Device = Device{class: "cuda"}
	rt := start(t)
	s, err := rt.Open(t.Context(), graphPath(t, "counts.onnx"), opts)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
		t.Skip("there is a CUDA device here")
	}
	if !strings.HasPrefix(err.Error(), "using device cuda: ") || len(err.Error()) < 40 || strings.Contains(err.Error(), "\n") {
		t.Errorf("err = %q, want one line with the runtime's reason", err)
	}
	open(t, "counts.onnx", counts)

	opts.Prepared = Prepared{Dir: "/prepared", Source: "x"}
	if _, err := rt.Open(t.Context(), graphPath(t, "counts.onnx"), opts); err == nil || !strings.Contains(err.Error(), "want the plain one") {
		t.Errorf("a graph prepared for the processor: %v, want a refusal", err)
	}
}

// TestOutOfMemory has the messages that people have met.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 8589934592": true, // onnxruntime#14474
		"CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);":                                    true,
		"CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0":                                                          true,
		"Non-zero status code returned while running MatMul node. std::bad_alloc":                                       true,
		"Available memory of 1048576 is smaller than requested bytes of 8388608":                                        true,
		"Non-zero status code returned while running Gather node. indices element out of data bounds, idx=40 must be":   false,
		"Exiting due to terminate flag being set to true.":                                                              false,
	} {
		if got := outOfMemory(errors.New(text)); got != want {
			t.Errorf("outOfMemory(%q) = %t, want %t", text, got, want)
		}
	}
}

// TestMemory checks that a prepared session's weights are found in its mapping and a plain one's are not.
func TestMemory(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	opts := slow
	opts.Prepared = p
	var memory [2]embedder.Memory
	for i, o := range []Options{opts, slow} {
		s := open(t, "slow.onnx", o)
		if _, err := s.Run(t.Context(), embedder.Batch{Rows: [][]int32{{1, 2, 3}}}); err != nil { // touches the weights
			t.Fatal(err)
		}
		memory[i] = s.Memory()
	}
	prepared, plain := memory[0], memory[1]
	if runtime.GOOS != "linux" {
		if prepared.Unknown == "" {
			t.Errorf("%+v, want a reason for the missing figures", prepared)
		}
		return
	}
	if w := prepared.Weights; w.Private+w.Shared == 0 || w.Proportional == 0 {
		t.Errorf("weights of the prepared graph: %+v, want some", w)
	}
	if plain.Weights != (embedder.MemoryUse{}) {
		t.Errorf("mapped weights of the plain graph: %+v, want none", plain.Weights)
	}
	if prepared.Process.Private <= 0 || prepared.Process.Proportional <= 0 || prepared.Unknown != "" {
		t.Errorf("process: %+v", prepared)
	}
	p.Dir += "-gone"
	gone := Session{opts: Options{Prepared: p}, prepared: true}
	if m := gone.Memory(); m.Unknown == "" || m.Process.Private != 0 {
		t.Errorf("a file that is gone: %+v, want a reason and no figures", m)
	}
}
