package onnx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// environment serialises the start and the end of the runtime's process-wide environment. The state itself
// lives in the binding's package variables, which it leaves unguarded: this lock is the guard, and the one
// package-level variable of this room.
var environment sync.Mutex

// A Runtime is the process's ONNX Runtime: a loaded library and its environment.
type Runtime struct {
	log       *slog.Logger
	version   string
	operators operators // only where [HasOperators]

	// creating is held while a session is created: one at a time per process.
	creating sync.Mutex

	mu     sync.Mutex // guards the fields below
	open   int        // sessions not yet closed
	closed bool
}

// Init loads the shared library at libraryPath, which must be absolute (a bare name would be searched for
// by the linker, and another library found), and starts the environment with telemetry off. It refuses
// while another Runtime of the process is open. A nil logger discards.
func Init(libraryPath string, log *slog.Logger) (*Runtime, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := checkLibrary(libraryPath); err != nil {
		return nil, err
	}
	environment.Lock()
	defer environment.Unlock()
	if ort.IsInitialized() {
		return nil, errors.New("onnx runtime is already initialised in this process, close the first one before")
	}
	ort.SetSharedLibraryPath(libraryPath)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return nil, fmt.Errorf("initialising the onnx runtime from %s (it must offer C API version 24, that is 1.24 or newer): %w", libraryPath, err)
	}
	if err := ort.DisableTelemetry(); err != nil {
		return nil, errors.Join(fmt.Errorf("switching telemetry off: %w", err), ort.DestroyEnvironment())
	}
	rt := &Runtime{log: log, version: ort.GetVersion()}
	if HasOperators() {
		var err error
		if rt.operators, err = newOperators(libraryPath); err != nil {
			return nil, errors.Join(err, ort.DestroyEnvironment())
		}
	}
	log.Info("onnx runtime initialised", "version", rt.version, "library", libraryPath, "own_operators", HasOperators())
	return rt, nil
}

// checkLibrary refuses what the dynamic linker would answer with a riddle.
func checkLibrary(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("library path %q of the onnx runtime is not absolute", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("looking for the onnx runtime's library: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("library path %q of the onnx runtime is not a file", path)
	}
	return nil
}

// Version is the version that the loaded library reports, for example "1.30.0".
func (rt *Runtime) Version() string { return rt.version }

// Close ends the environment and unloads the library. It refuses, and changes nothing, while a session is
// open. Closing twice is harmless.
func (rt *Runtime) Close() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		return nil
	}
	if rt.open > 0 {
		return fmt.Errorf("%d sessions are still open, close them before the runtime", rt.open)
	}
	environment.Lock()
	defer environment.Unlock()
	if err := ort.DestroyEnvironment(); err != nil {
		return fmt.Errorf("ending the onnx runtime: %w", err)
	}
	rt.closed = true
	trimOperators()
	trim()
	return nil
}

// retain counts a session about to be created, so that Close can't pass between the two.
func (rt *Runtime) retain() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		return errors.New("the onnx runtime is closed")
	}
	rt.open++
	return nil
}

func (rt *Runtime) release() {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.open--
}

// create makes a native session while nobody else does. The runtime can't interrupt the creation: when ctx
// ends meanwhile, create returns after it and the session is freed.
func (rt *Runtime) create(ctx context.Context, path string, names ports, opts *ort.SessionOptions) (*ort.DynamicAdvancedSession, error) {
	rt.creating.Lock()
	defer rt.creating.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("creating a session of %s: %w", path, context.Cause(ctx))
	}
	native, err := ort.NewDynamicAdvancedSession(path, names.inputs, []string{names.output}, opts)
	if err != nil {
		return nil, fmt.Errorf("creating a session of %s: %w", path, err)
	}
	if ctx.Err() != nil {
		return nil, errors.Join(fmt.Errorf("creating a session of %s: %w", path, context.Cause(ctx)), native.Destroy())
	}
	return native, nil
}
