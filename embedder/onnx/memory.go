package onnx

import (
	"path/filepath"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/smaps"
)

// Memory implements [embedder.Measurer]: the mapped weights of a prepared graph, and the process. A plain
// graph's weights are private memory like any other and only part of the process's.
func (s *Session) Memory() embedder.Memory {
	var weights smaps.Use
	process, err := smaps.Process(0)
	if err == nil && s.prepared {
		weights, err = smaps.Files(0, filepath.Join(s.opts.Prepared.Dir, dataName))
	}
	if err != nil {
		return embedder.Memory{Unknown: err.Error()}
	}
	return embedder.Memory{Weights: embedder.MemoryUse(weights), Process: embedder.MemoryUse(process)}
}
