package boot_test

import (
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

func TestListen(t *testing.T) {
	t.Parallel()
	first, err := boot.Address{HostPort: "127.0.0.1:0"}.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	busy := first.Addr().String()

	if _, err := (boot.Address{HostPort: busy}).Listen(t.Context()); err == nil || !strings.Contains(err.Error(), busy) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a busy port that was asked for: %v", err)
	}
	second, err := boot.Address{HostPort: busy, Spare: true}.Listen(t.Context())
	if err != nil {
		t.Fatalf("a busy default port: %v", err)
	}
	defer second.Close()
	if second.Addr().String() == busy {
		t.Error("two listeners on one port")
	}
	if _, err := (boot.Address{HostPort: "nonsense", Spare: true}).Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a bad address: %v", err)
	}
}

func TestAlias(t *testing.T) {
	t.Parallel()
	for model, want := range map[string]string{
		"/cache/models/all-MiniLM-L6-v2/": "all-minilm-l6-v2",
		"intfloat/multilingual-e5-small":  "multilingual-e5-small",
		"BAAI/bge-m3@5617a9f":             "bge-m3",
		"acme/tiny@refs/pr/1":             "tiny",
		".":                               "boot",
		"./My Model (2)":                  "my-model--2",
	} {
		if got := boot.Alias(model); got != want {
			t.Errorf("Alias(%q) = %q, want %q", model, got, want)
		}
	}
}
