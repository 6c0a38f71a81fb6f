package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestGeneratedIsCurrent fails if tables_generated.go is not what properties.txt gives.
func TestGeneratedIsCurrent(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "tables.go")
	if err := run("properties.txt", out); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../tables_generated.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("tables_generated.go is not what gen makes: run go generate")
	}
}
