package deploy_test

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// An image is what a stage of the Dockerfile leaves for a container.
type image struct {
	entrypoint, cmd []string
	env             map[string]string
	user, workdir   string
	files           []string // where COPY puts things; a folder ends in a slash
}

// read returns a file of the repository.
func read(t testing.TB, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{testkit.Root(t)}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// stages parses the Dockerfile as BuildKit does, with all of its checks on.
func stages(t testing.TB) []instructions.Stage {
	t.Helper()
	result, err := parser.Parse(strings.NewReader(read(t, "Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range result.Warnings {
		t.Errorf("Dockerfile: %s", w.Short)
	}
	checks := linter.New(&linter.Config{Warn: func(rule, _, _, msg string, at []parser.Range) {
		t.Errorf("Dockerfile:%d: %s: %s", at[0].Start.Line, rule, msg)
	}})
	list, _, err := instructions.Parse(result.AST, checks)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// images returns what the stages leave, by name. A stage begins with what the one it stands on left.
func images(t testing.TB) map[string]image {
	t.Helper()
	all := map[string]image{}
	for _, stage := range stages(t) {
		base := all[stage.BaseName]
		img := image{
			entrypoint: base.entrypoint, cmd: base.cmd, env: maps.Clone(base.env), user: base.user, workdir: base.workdir,
			files: slices.Clone(base.files),
		}
		if img.env == nil {
			img.env = map[string]string{}
		}
		for _, c := range stage.Commands {
			switch c := c.(type) {
			case *instructions.EnvCommand:
				for _, kv := range c.Env {
					img.env[kv.Key] = kv.Value
				}
			case *instructions.EntrypointCommand:
				img.entrypoint, img.cmd = c.CmdLine, nil
			case *instructions.CmdCommand:
				img.cmd = c.CmdLine
			case *instructions.UserCommand:
				img.user = c.User
			case *instructions.WorkdirCommand:
				img.workdir = c.Path
			case *instructions.CopyCommand:
				img.files = append(img.files, c.DestPath)
			}
		}
		all[stage.Name] = img
	}
	return all
}

// Every path that the Dockerfile copies is there: from the checkout, not kept out by .dockerignore, or from an
// earlier stage that makes it.
func TestDockerfileCopiesWhatIsThere(t *testing.T) {
	t.Parallel()
	text := read(t, "Dockerfile")
	ignored := strings.Fields(regexp.MustCompile(`(?m)^#.*$`).ReplaceAllString(read(t, ".dockerignore"), ""))
	names := map[string]bool{}
	for _, stage := range stages(t) {
		for _, c := range stage.Commands {
			copied, ok := c.(*instructions.CopyCommand)
			if !ok {
				continue
			}
			for _, source := range copied.SourcePaths {
				if copied.From != "" {
					if !names[copied.From] {
						t.Errorf("COPY --from=%s: no earlier stage has that name", copied.From)
					}
					if made := strings.TrimSuffix(source, "/"); strings.Count(text, made) < 2 {
						t.Errorf("COPY --from=%s %s: nothing makes it", copied.From, source)
					}
					continue
				}
				if _, err := os.Stat(filepath.Join(testkit.Root(t), source)); err != nil {
					t.Errorf("COPY %s: %v", source, err)
				}
				for _, pattern := range ignored {
					if ok, _ := path.Match(strings.Trim(strings.TrimPrefix(pattern, "**/"), "/"), path.Clean(source)); ok {
						t.Errorf("COPY %s: .dockerignore keeps it out by %s", source, pattern)
					}
				}
			}
		}
		names[stage.Name] = true
	}
}

// builds are the commands that the Dockerfile builds, as ./cmd/worker.
func builds(t testing.TB) []string {
	t.Helper()
	return regexp.MustCompile(`\./cmd/[a-z]+`).FindAllString(read(t, "Dockerfile"), -1)
}

// Every program the Dockerfile builds is one of ours, and each role but the one for a single machine is built.
func TestDockerfileBuildsEveryRole(t *testing.T) {
	t.Parallel()
	built := map[string]bool{}
	for _, folder := range builds(t) {
		built[filepath.Base(folder)] = true
		if _, err := os.Stat(filepath.Join(testkit.Root(t), folder, "main.go")); err != nil {
			t.Errorf("the Dockerfile builds %s: %v", folder, err)
		}
	}
	roles, err := filepath.Glob(filepath.Join(testkit.Root(t), "cmd", "*", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		name := filepath.Base(filepath.Dir(role))
		alone := slices.Contains([]string{"standalone", "bench", "chaos"}, name) // for one machine, and for trials on one
		if built[name] == alone {
			t.Errorf("cmd/%s: built %v", name, built[name])
		}
	}
}

func TestImagesRunAsNobodySpecial(t *testing.T) {
	t.Parallel()
	all := images(t)
	for _, name := range []string{"worker", "fleet"} {
		img := all[name]
		if img.user != "10001:10001" {
			t.Errorf("%s runs as %q", name, img.user)
		}
		for _, c := range [][]string{img.entrypoint, img.cmd} {
			if len(c) > 0 && strings.HasPrefix(c[0], "/bin/sh") {
				t.Errorf("%s: a shell stands between the runtime's signals and the process: %q", name, c)
			}
		}
	}
	if lib := all["worker"].env["ONNXRUNTIME_LIB"]; !slices.Contains(all["worker"].files, lib) {
		t.Errorf("worker: ONNXRUNTIME_LIB is %q, and COPY makes %q", lib, all["worker"].files)
	}
	if dir := all["worker"].env["EMBEDFLEET_CACHE"]; dir != "/cache" || all["worker"].env["HOME"] != dir {
		t.Errorf("worker: the cache is %q", dir)
	}
}

// The Go that builds the image is the one of go.mod, and what the library's step reads is copied.
func TestDockerfileMatchesTheProject(t *testing.T) {
	t.Parallel()
	text := read(t, "Dockerfile")
	version := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if !strings.Contains(text, "golang:"+version+"-") {
		t.Errorf("the Dockerfile does not build with go %s", version)
	}
	for _, name := range []string{"setup.sh", "versions.env"} {
		if !strings.Contains(text, "scripts/"+name) {
			t.Errorf("the stage onnxruntime lacks scripts/%s", name)
		}
	}
	if !strings.Contains(read(t, "scripts", "setup.sh"), "\n  onnxruntime)\n") {
		t.Error("scripts/setup.sh does not know the argument onnxruntime")
	}
}
