package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

// TestPrepare prepares a model in an empty cache, finds everything there the second time, and repairs what
// was tampered with in between. It is not parallel: a process has one runtime.
func TestPrepare(t *testing.T) {
	model := filepath.Join(testkit.Root(t), "embedder", "model", "testdata", "bert-mean")
	cache := t.TempDir()
	env := map[string]string{"EMBEDFLEET_CACHE": cache, "ONNXRUNTIME_LIB": testkit.ONNXRuntime(t)}
	prepare := func(want string) (folder string) {
		status, out, stderr := call(t, env, "", "prepare", model, "--log-level", "info")
		if status != 0 || !strings.Contains(out, "is prepared in "+cache) || !strings.Contains(out, ", space ") {
			t.Fatalf("status %d, %q, %s", status, out, stderr)
		}
		if wrote := strings.Contains(stderr, `msg="graph prepared"`); wrote != (want == "written") {
			t.Errorf("the prepacked folder was written: %t, want it %s\n%s", wrote, want, stderr)
		}
		_, rest, _ := strings.Cut(out, "is prepared in ")
		folder, _, _ = strings.Cut(rest, " (")
		return folder
	}
	folder := prepare("written")
	if again := prepare("kept"); again != folder {
		t.Errorf("%s, then %s", folder, again)
	}
	data := filepath.Join(folder, "graph.onnx_data")
	if err := os.Truncate(data, 10); err != nil {
		t.Fatal(err)
	}
	prepare("written")
	if info, err := os.Stat(data); err != nil || info.Size() <= 10 {
		t.Errorf("the weights were not written again: %v", err)
	}
	if status, _, stderr := call(t, env, "", "prepare", "/no/such/folder"); status != boot.StatusModel || !strings.Contains(stderr, "there is no folder /no/such/folder") {
		t.Errorf("status %d, %s; want %d and the reason", status, stderr, boot.StatusModel)
	}
	if status, _, stderr := call(t, env, "", "prepare", model, "--device", "gpu"); status != boot.StatusUsage || !strings.Contains(stderr, "want cpu, cuda or cuda:N") {
		t.Errorf("status %d, %s; want %d and the devices there are", status, stderr, boot.StatusUsage)
	}
}
