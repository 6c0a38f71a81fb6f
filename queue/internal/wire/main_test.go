package wire

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// TestAsynqVersion fails when asynq is raised: its message, key and script formats are private, so whoever
// raises it must compare them with this room, queue's enqueue.lua, and consumer's lease.lua and settle.lua.
func TestAsynqVersion(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(testkit.Root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/hibiken/asynq " + AsynqVersion + "\n"; !strings.Contains(
		strings.ReplaceAll(string(mod), " // indirect", ""), want) {
		t.Errorf("go.mod does not name %q", strings.TrimSpace(want))
	}
}
