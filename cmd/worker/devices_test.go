package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

// TestModelInOperations runs the commands of the section about the model in docs/operations.md as they stand
// there, with a smaller model, and compares the table of limits with the defaults. It is not parallel: a
// process has one runtime.
func TestModelInOperations(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(raw), "\n## The model, its limits and devices\n")
	section, _, _ = strings.Cut(section, "\n## ")
	model := filepath.Join(testkit.Root(t), "embedder", "model", "testdata", "bert-mean")
	env := map[string]string{"EMBEDFLEET_CACHE": t.TempDir(), "ONNXRUNTIME_LIB": testkit.ONNXRuntime(t)}
	commands := 0
	for line := range strings.Lines(section) {
		command, ok := strings.CutPrefix(line, "    bin/worker ")
		if !ok {
			continue
		}
		commands++
		command, _, _ = strings.Cut(command, " #")
		args := strings.Fields(strings.ReplaceAll(command, "/models/all-MiniLM-L6-v2", model))
		if status, out, stderr := call(t, env, `{"text":"hello"}`, args...); status != 0 || out == "" {
			t.Errorf("%s: status %d, %q, %s", line, status, out, stderr)
		}
	}
	if commands != 2 {
		t.Errorf("%d commands in the section, want 2", commands)
	}
	m, err := embedder.NewManager(func(context.Context, string) (*embedder.Engine, error) {
		return nil, errors.New("not asked for")
	}, &embedder.ManagerOptions{Slot: new(embedder.Slot)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	l := m.Stats().Limits
	for _, row := range []string{
		fmt.Sprintf("| callers inside the model | %d (", l.MaxAccess),
		fmt.Sprintf("| callers waiting | %d |", l.MaxWaiting),
		fmt.Sprintf("| access timeout | %v |", l.AccessTimeout),
		fmt.Sprintf("| wait timeout (for the model to be ready) | %v |", l.WaitTimeout),
		fmt.Sprintf("| load timeout | %v (", l.LoadTimeout),
	} {
		if !strings.Contains(section, row) {
			t.Errorf("docs/operations.md lacks %q", row)
		}
	}
}
