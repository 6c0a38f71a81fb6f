package simulation

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// An edit is a change of a source.
type edit struct{ file, old, new string }

// mutations put back what was once wrong, in the source. If a line is not there any more, whoever changed it says
// here how the same mistake would look now.
var mutations = []struct {
	name      string
	invariant string // that must break
	edits     []edit
}{
	{"no reaper (T2)", comesBack, []edit{
		{"queue/upkeep/reaper.go", "	ids, err := l.abandoned(ctx, crashed)\n", "	var ids []string\n	var err error\n"},
	}},
	{"leases are not renewed", ackedOnce, []edit{
		{"queue/consumer/keeper.go", "		for l, runs := range byLane {\n", "		for l, runs := range map[*lane][]*run{} {\n"},
	}},
	{"ack before store", oneOutcome, []edit{
		{"tasks/batch.go", "	stored, errs := b.parts.Store.PutMany(ctx, recs)\n",
			"	go func() { _, _ = b.parts.Store.PutMany(context.WithoutCancel(ctx), recs) }()\n	stored, errs := make([]bool, len(recs)), make([]error, len(recs))\n"},
	}},
	{"a settlement that failed is not repeated", worldComesEnd, []edit{
		{"queue/consumer/settler.go", "			if list = left; len(list) == 0 {\n", "			if list = left; true {\n"},
	}},
	{"slot released before the native call returns", runnersHold, []edit{
		{"embedder/runner.go", "	vectors, err := e.model.Run(ctx, b)\n", `	var vectors []vector.Vector
	var err error
	done := make(chan struct{})
	go func() { defer close(done); vectors, err = e.model.Run(ctx, b) }()
	select {
	case <-done:
	case <-ctx.Done():
		vectors, err = nil, context.Cause(ctx)
	}
`},
	}},
}

// TestMutationsAreCaught builds this package against the fleet with one mistake in it, and expects its seeds to
// find that. One after the other: a build takes all processors.
func TestMutationsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the fleet for each")
	}
	root := testkit.Root(t)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			dir := t.TempDir()
			binary := filepath.Join(dir, "simulation.test")
			build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", overlay(t, root, dir, m.edits),
				"-o", binary, "./internal/simulation")
			build.Dir = root
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("building: %v\n%s", err, out)
			}
			out, err := exec.CommandContext(t.Context(), binary, "-test.run", "^TestSeeds$", "-seeds", "300").CombinedOutput()
			if err == nil {
				t.Fatal("300 seeds find nothing wrong")
			}
			if !bytes.Contains(out, []byte("BROKEN "+m.invariant)) {
				t.Errorf("it is not %q that they find broken:\n%s", m.invariant, out)
			}
			report, _, _ := strings.Cut(string(out), "FAIL\n")
			t.Log(report)
		})
	}
}

// overlay returns a file that has go build take changed sources for those in the repository.
func overlay(t *testing.T, root, dir string, edits []edit) string {
	t.Helper()
	replace := map[string]string{}
	for i, e := range edits {
		path := filepath.Join(root, e.file)
		source, err := os.ReadFile(cmp.Or(replace[path], path)) // changed already, maybe
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(source, []byte(e.old)); n != 1 {
			t.Fatalf("%s has %d times\n%s", e.file, n, e.old)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("changed%d.go", i))
		if err := os.WriteFile(replace[path], bytes.Replace(source, []byte(e.old), []byte(e.new), 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
