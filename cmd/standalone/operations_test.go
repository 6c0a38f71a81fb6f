package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/registry"
)

// documented returns the commands of a section of docs/operations.md.
func documented(t *testing.T, section string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("docs/operations.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var list []string
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "    bin/enqueue "); ok {
			list = append(list, strings.TrimSpace(command))
		}
	}
	return list
}

// statusz is what a worker says of itself.
type statusz struct {
	Worker registry.Worker `json:"worker"`
	Engine embedder.Stats  `json:"engine"`
}

// statusOf asks the workers themselves, by name.
func statusOf(t *testing.T, f *fleet.Fleet) map[string]statusz {
	t.Helper()
	list, err := f.Workers.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]statusz{}
	for _, w := range list {
		var s statusz
		if code, body := get(t, "http://"+w.Probes+"/statusz"); code != http.StatusOK || json.Unmarshal([]byte(body), &s) != nil {
			t.Errorf("/statusz of %s: %d %s", w.Name, code, body)
		}
		all[w.Name] = s
	}
	return all
}

// TestChangingARunningFleet runs the commands of docs/operations.md on two real workers, as they stand there,
// and asks each worker's /statusz what holds after each.
func TestChangingARunningFleet(t *testing.T) {
	t.Parallel()
	enqueue := filepath.Join(t.TempDir(), "enqueue")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", enqueue, "../enqueue").CombinedOutput(); err != nil {
		t.Fatalf("building enqueue: %v: %s", err, out)
	}
	s, f := launch(t, settings{
		worker: workerBinary, workers: 2, model: testkit.DefaultModel(t), alias: "minilm",
		environ: []string{"ONNXRUNTIME_LIB=" + testkit.ONNXRuntime(t)},
	})
	both := func() bool {
		list, err := f.Workers.List(t.Context())
		return err == nil && len(list) == 2 && list[0].Serving() && list[1].Serving()
	}
	s.until("both serve", both)
	const seconds = registry.Seconds(time.Second)
	flags := registry.Settings{Concurrency: 512, MaxAccess: 576, AccessTimeout: 30 * seconds}
	of := func(concurrency, access int, timeout registry.Seconds) registry.Settings {
		return registry.Settings{Concurrency: concurrency, MaxAccess: access, AccessTimeout: timeout}
	}
	want := map[string]map[string]registry.Settings{ // after each command, by worker
		"fleet list": {"worker-1": flags, "worker-2": flags},
		"fleet set --worker all --concurrency 8 --max-access 16 --access-timeout 20s": {"worker-1": of(8, 16, 20*seconds), "worker-2": of(8, 16, 20*seconds)},
		"fleet set --model minilm --concurrency 256":                                  {"worker-1": of(256, 16, 20*seconds), "worker-2": of(256, 16, 20*seconds)},
		"fleet set --worker worker-1 --max-access 32":                                 {"worker-1": of(256, 32, 20*seconds), "worker-2": of(256, 16, 20*seconds)},
		"fleet set --model minilm --reset":                                            {"worker-1": flags, "worker-2": flags},
		"fleet drain --worker worker-2":                                               {"worker-1": flags},
		"fleet events":                                                                {"worker-1": flags},
	}
	run := func(command string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), enqueue, strings.Fields(command)...)
		cmd.Env = append(os.Environ(), "REDIS_URL="+s.redis, "USER=kim")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	var out string
	for _, command := range documented(t, "Changing a running fleet") {
		after, ok := want[command]
		if !ok {
			t.Errorf("docs/operations.md has a command that this test does not know: %s", command)
		}
		delete(want, command)
		out = run(command)
		got := map[string]registry.Settings{}
		for name, s := range statusOf(t, f) {
			got[name] = s.Worker.Settings
			if l := s.Engine.Limits; l.MaxAccess != s.Worker.MaxAccess || l.AccessTimeout != time.Duration(s.Worker.AccessTimeout) {
				t.Errorf("%s: the model of %s has other limits: %+v", command, name, l)
			}
		}
		if !maps.Equal(got, after) {
			t.Errorf("after %s: %v, want %v", command, got, after)
		}
	}
	if len(want) > 0 {
		t.Errorf("not in docs/operations.md: %v", want)
	}
	for _, part := range []string{registry.EventReady, registry.EventSettings, registry.EventDrain, "kim@"} {
		if !strings.Contains(out, part) {
			t.Errorf("the events do not tell of %q:\n%s", part, out)
		}
	}
	s.see("worker-2 ended in order and is not started again")

	// Texts are embedded under the tightest limits too.
	run("fleet set --model minilm --concurrency 1 --max-access 1")
	if out := run("--model minilm --wait -- one two three"); !strings.Contains(out, "3 stored, 0 failed") {
		t.Errorf("with one at a time: %s", out)
	}
	s.stop()
	if status := s.end(); status != 0 {
		t.Errorf("stopped with status %d: %s", status, s.err.String())
	}
}
