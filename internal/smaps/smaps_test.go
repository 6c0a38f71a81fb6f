package smaps

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const sample = `55e0c8a00000-55e0c8a21000 r--p 00000000 08:01 131                        /usr/bin/worker
Size:                132 kB
Rss:                 128 kB
Pss:                  64 kB
Shared_Clean:        100 kB
Shared_Dirty:          0 kB
Private_Clean:        28 kB
Private_Dirty:         0 kB
VmFlags: rd mr mw me sd
7f1200000000-7f1207a00000 rw-p 00000000 08:01 99                         /cache/a folder/graph.onnx_data (deleted)
Pss:               40000 kB
Shared_Clean:      80000 kB
Shared_Dirty:          1 kB
Private_Clean:        16 kB
Private_Dirty:         4 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0
Pss:                   8 kB
Private_Dirty:         8 kB
`

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		wanted func(string) bool
		want   Use
	}{
		{"a file", func(p string) bool { return p == "/cache/a folder/graph.onnx_data" },
			Use{Private: 20 << 10, Dirty: 4 << 10, Shared: 80001 << 10, Proportional: 40000 << 10}},
		{"no file", func(p string) bool { return p == "" },
			Use{Private: 8 << 10, Dirty: 8 << 10, Proportional: 8 << 10}},
		{"all", func(string) bool { return true },
			Use{Private: 56 << 10, Dirty: 12 << 10, Shared: 80101 << 10, Proportional: 40072 << 10}},
		{"none", func(string) bool { return false }, Use{}},
	} {
		got, err := parse(strings.NewReader(sample), tt.wanted)
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
	if _, err := parse(strings.NewReader("1-2 r--p 0 0 0 /x\nPss: many kB\n"), func(string) bool { return true }); err == nil {
		t.Error("a size that is no number was read")
	}
	if got := (Use{1, 2, 3, 4}).Plus(Use{10, 20, 30, 40}); got != (Use{11, 22, 33, 44}) {
		t.Errorf("Plus = %+v", got)
	}
}

// TestElsewhere checks that a system which does not tell says so.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "linux" {
		t.Skip("Linux tells")
	}
	_, err1 := Files(0, "x")
	if _, err2 := Process(0); !errors.Is(err1, errors.ErrUnsupported) || !errors.Is(err2, errors.ErrUnsupported) {
		t.Errorf("%v and %v, want ErrUnsupported", err1, err2)
	}
}

func TestUnknownProcess(t *testing.T) {
	t.Parallel()
	if _, err := Process(1 << 30); err == nil {
		t.Error("no error for a process that does not exist")
	}
	if _, err := Files(0, filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error for a file that does not exist")
	}
}
