package onnx

import (
	"errors"
	"fmt"

	ort "github.com/yalue/onnxruntime_go"
)

// Options says what a session needs to know of its model. VocabSize and MaxTokens have no default: an id
// or a length beyond the tables is a read outside of them for some operators
// (microsoft/onnxruntime#28205), so every batch is checked before it goes in.
type Options struct {
	VocabSize int   // rows of the embedding table: ids are 0 to VocabSize-1
	MaxTokens int   // longest row the position table can serve
	PadID     int32 // fills a row up to the batch's longest; masked out, but must be a valid id

	// Dim is the vectors' dimension. 0 takes the one the graph declares; a graph that leaves it open and a
	// declaration that differs are refused.
	Dim int

	// Output names the graph's [batch, dimension] output. "" means "embedding".
	Output string

	// Threads of one call. 0 means 1, which is right for several calls at once (one per core): two of one
	// thread beat one of two by 5-40 % on short texts.
	Threads int

	// Device is where the graph runs. The zero value is the processor.
	Device Device

	// Prepared is where [Runtime.Prepack] wrote this graph, for the processor. The zero value loads the plain
	// graph.
	Prepared Prepared
}

func (o Options) withDefaults() Options {
	if o.Output == "" {
		o.Output = "embedding"
	}
	if o.Threads == 0 {
		o.Threads = 1
	}
	return o
}

func (o Options) validate() error {
	switch {
	case o.VocabSize < 1:
		return fmt.Errorf("vocabulary size %d, want at least 1", o.VocabSize)
	case o.MaxTokens < 1:
		return fmt.Errorf("max tokens %d, want at least 1", o.MaxTokens)
	case o.PadID < 0 || int(o.PadID) >= o.VocabSize:
		return fmt.Errorf("padding id %d, want 0 to %d", o.PadID, o.VocabSize-1)
	case o.Dim < 0:
		return fmt.Errorf("dimension %d, want at least 1", o.Dim)
	case o.Threads < 0:
		return fmt.Errorf("%d threads, want at least 1", o.Threads)
	case o.Device.Accelerated() && o.Prepared != Prepared{}:
		return fmt.Errorf("a graph prepared for the processor on device %s, want the plain one", o.Device)
	}
	return nil
}

// sessionOptions makes the runtime's options of one session: the given number of threads that sleep when
// idle instead of spinning, one operator at a time, no plan of memory kept per input shape (every batch
// has another), an arena that keeps freed tensors for the next call (without one, calls were up to twice as
// slow here and the process grew larger), errors only on standard error, our own operators. The caller destroys
// the result.
func (rt *Runtime) sessionOptions(threads int) (_ *ort.SessionOptions, err error) {
	so, err := ort.NewSessionOptions()
	if err != nil {
		return nil, fmt.Errorf("making session options: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("setting session options: %w", err), so.Destroy())
		}
	}()
	if HasOperators() {
		if err := rt.operators.addTo(so); err != nil {
			return nil, err
		}
	}
	return so, errors.Join(
		so.SetIntraOpNumThreads(threads),
		so.SetInterOpNumThreads(1),
		so.SetExecutionMode(ort.ExecutionModeSequential),
		so.SetMemPattern(false),
		so.SetCpuMemArena(true),
		so.SetLogSeverityLevel(ort.LoggingLevelError),
		so.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		so.AddSessionConfigEntry("session.inter_op.allow_spinning", "0"),
	)
}
