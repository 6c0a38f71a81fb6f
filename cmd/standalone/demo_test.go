package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

// TestTheDemoCrawlsADay as `make run DEMO=1 ONCE=1` does: the real scheduler against the imitations, to the
// search.
func TestTheDemoCrawlsADay(t *testing.T) {
	crawler := filepath.Join(t.TempDir(), "scheduler")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", crawler, "../scheduler").CombinedOutput(); err != nil {
		t.Fatalf("building the scheduler: %v: %s", err, out)
	}
	t.Setenv("EMBEDFLEET_DART_LISTED_ONLY", "true") // of the user's own crawls: not for the demonstration
	s := start(t, "--model", testkit.DefaultModel(t), "--data", t.TempDir(), "--http", "127.0.0.1:0", "--scheduler-binary", crawler, "--demo", "--once")
	if status := s.end(); status != 0 {
		t.Fatalf("status %d:\n%s%s", status, s.out.String(), s.err.String())
	}
	out := s.out.String()
	for _, want := range []string{
		"opendart an imitation on https://127.0.0.1:", "crawl    08:00  dart      37 new of 37 listed",
		"crawl    19:00  dart-wide 27 new of 502 listed", "fresh    dart: 502 documents can be searched", "fresh    news: ",
		`search   "대표이사가 바뀐 회사" in 742 documents`, "SCORE",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not on the screen:\n%s", want, out)
		}
	}
	if strings.Contains(out+s.err.String(), demoKey) {
		t.Error("the key is on the screen")
	}
}

func TestTheDemoLeavesARedisInUseAlone(t *testing.T) {
	s := start(t, "--model", testkit.DefaultModel(t), "--data", t.TempDir(), "--redis-url", "redis://127.0.0.1:1", "--demo")
	if status := s.end(); status != boot.StatusUsage || !strings.Contains(s.err.String(), "--redis-url") {
		t.Errorf("status %d:\n%s", status, s.err.String())
	}
}
