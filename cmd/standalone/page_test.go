package main

import (
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// Whoever starts a fleet sees it: the page is up beside the workers, and shows the one that serves.
func TestThePageIsThere(t *testing.T) {
	monitor := filepath.Join(t.TempDir(), "monitor")
	if out, err := exec.Command("go", "build", "-o", monitor, "../monitor").CombinedOutput(); err != nil {
		t.Fatalf("building the monitor: %v\n%s", err, out)
	}
	s := start(t, "--model", testkit.DefaultModel(t), "--alias", "shown", "--data", t.TempDir(), "--no-sample",
		"--http", "127.0.0.1:0", "--page", "127.0.0.1:0", "--monitor-binary", monitor)
	address := s.see(`page +(http://\S+/)`)
	s.see(`(serving) +until Ctrl-C`)
	var page string
	for deadline := time.Now().Add(time.Minute); !strings.Contains(page, "1 of 1 worker serving"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the page never showed the worker:\n%s\n%s", page, s.err.String())
		}
		page = peek(t, address)
	}
	if !strings.Contains(page, "shown") {
		t.Error("the page does not name the model")
	}
	s.stop()
	if status := s.end(); status != 0 {
		t.Errorf("status %d:\n%s%s", status, s.out.String(), s.err.String())
	}
}

// peek returns what is answered, "" while nobody does.
func peek(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // half a page is looked at again
	return string(body)
}
