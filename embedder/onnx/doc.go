// Package onnx runs an embedding graph with ONNX Runtime. It is the only room that knows the runtime: its
// shared library, its process-wide environment, its sessions, tensors and files. It refuses to know texts,
// tokenizers, batching policies and where models come from; it is handed token ids and a graph on disk.
//
// # Ownership
//
// The runtime's environment belongs to the process, not to a value, so there is one [Runtime] per process:
// [Init] refuses a second. A Runtime creates sessions one at a time, because concurrent creation is not
// promised to be safe (microsoft/onnxruntime#27089). Releasing goes strictly backwards: a session waits for
// the calls inside it, the Runtime refuses to close while a session is open.
//
// # Cancelling
//
// A run is told to stop through its own RunOptions. The runtime looks at that flag between two operators,
// so a cancelled [Session.Run] returns one operator later, and never before the native code has let go of
// the tensors it was given.
//
// # Prepared graphs
//
// A session that loads a plain graph copies every weight into private memory in the layout that its matrix
// kernels like ("prepacking"). [Runtime.Prepack] does that once and keeps the outcome beside the optimised
// graph, in a file that every worker on the host maps: one copy in the page cache instead of one per
// process. The layout depends on the runtime's build and the processor, and the runtime repacks silently
// when they differ, so a prepared folder carries a manifest and is used only if all of it matches.
package onnx
