package testkit

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// Root returns the absolute path of the repository: the nearest folder above the test with a go.mod.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("finding the repository: %v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("finding the repository: no go.mod in any folder above the test")
		}
		dir = parent
	}
}

// Shared returns the path of a file or folder in "shared", the folder beside the checkout that holds what
// must not be committed. The test is skipped where it does not exist, also with CI=true: a public clone
// never has it.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{filepath.Dir(Root(t)), "shared"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no %s beside the checkout", filepath.Join(append([]string{"shared"}, elem...)...))
	}
	return path
}

// ONNXRuntime returns the path of the ONNX Runtime library: ONNXRUNTIME_LIB, or the last version that
// `make setup` left in the cache, in the order of the names.
func ONNXRuntime(t testing.TB) string {
	t.Helper()
	if lib := os.Getenv("ONNXRUNTIME_LIB"); lib != "" {
		return lib
	}
	pattern := "libonnxruntime.so*"
	if runtime.GOOS == "darwin" {
		pattern = "libonnxruntime*.dylib"
	}
	libs, _ := filepath.Glob(filepath.Join(cacheDir(t), "onnxruntime", "*", pattern)) // the pattern is valid
	if len(libs) == 0 {
		t.Fatal("no ONNX Runtime library in the cache: run `make setup`")
	}
	return slices.Max(libs)
}

// DefaultModel returns the folder of the default model, all-MiniLM-L6-v2, that `make setup` left in the
// cache.
func DefaultModel(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(cacheDir(t), "models", "all-MiniLM-L6-v2")
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err != nil {
		t.Fatal("no all-MiniLM-L6-v2 in the cache: run `make setup`")
	}
	return dir
}

// cacheDir returns the folder that `make setup` fills.
func cacheDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("EMBEDFLEET_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "embedfleet")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatalf("finding the cache folder: %v", err)
	}
	return filepath.Join(home, ".cache", "embedfleet")
}
