package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/vector"
)

var update = flag.Bool("update", false, "rewrite testdata")

// call runs the command with an environment and stdin of its own.
func call(t *testing.T, env map[string]string, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(t.Context(), args, streams{
		in: strings.NewReader(stdin), out: &out, err: &err,
		getenv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
	})
	return status, out.String(), err.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	home := map[string]string{"HOME": "/nowhere"}
	for _, tt := range []struct {
		name string
		env  map[string]string
		args []string
		want []string
	}{
		{"no model", home, nil, []string{"--model"}},
		{"unknown flag", home, []string{"--modell", "x"}, []string{"--modell"}},
		{"unknown command", home, []string{"serve"}, []string{"serve"}},
		{"every problem", home, []string{"--concurrency", "0", "--grace", "1ms", "--model", "m"}, []string{"--concurrency", "between 1 and 4096", "--grace"}},
		{"every problem of every kind", home, []string{"--grace", "1ms", "--lanes", "fast", "--alias", "a b", "--redis-url", "x", "--pooling", "best"},
			[]string{"--grace", "--lanes", "--alias", "--redis-url", "--pooling", "--model"}},
		{"environment", map[string]string{"HOME": "/h", "EMBEDFLEET_RUNNERS": "many"}, []string{"--model", "m"}, []string{"$EMBEDFLEET_RUNNERS", "many"}},
		{"lane", home, []string{"--model", "m", "--lanes", "fast", "--onnxruntime", "/x"}, []string{"--lanes", `"fast"`}},
		{"lane twice", home, []string{"--model", "m", "--lanes", "live,live", "--onnxruntime", "/x"}, []string{"named twice"}},
		{"alias", home, []string{"--model", "m", "--alias", "a b", "--onnxruntime", "/x"}, []string{"--alias"}},
		{"redis", home, []string{"--model", "m", "--redis-url", "http://x", "--onnxruntime", "/x"}, []string{"--redis-url"}},
		{"pooling", home, []string{"--model", "m", "--pooling", "best", "--onnxruntime", "/x"}, []string{"--pooling", "best"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			status, out, err := call(t, tt.env, "", tt.args...)
			if status != boot.StatusUsage || out != "" {
				t.Errorf("status %d, stdout %q, stderr %q", status, out, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err, want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
		})
	}
}

func TestByVersion(t *testing.T) {
	t.Parallel()
	if byVersion("/c/onnxruntime/1.9.0/lib", "/c/onnxruntime/1.30.0/lib") >= 0 {
		t.Error("1.9.0 is not older than 1.30.0")
	}
}

// TestHelp pins what --help shows, which is all there is to configure.
func TestHelp(t *testing.T) {
	t.Parallel()
	status, out, _ := call(t, nil, "", "--help")
	golden := filepath.Join("testdata", "help.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || status != 0 || out != string(want) {
		t.Errorf("status %d, %v; run with -update and look at the difference:\n%s", status, err, out)
	}
}

func TestTokenize(t *testing.T) {
	t.Parallel()
	in := "{\"text\":\"hello world\"}\n{\"txt\":\"x\"}\n{\"text\":\"\"}\n"
	want := "{\"ids\":[101,7592,2088,102]}\n" + `{"error":"reading JSON: no \"text\"","line":2}` + "\n" + "{\"ids\":[101,102]}\n"
	for _, dir := range []string{testkit.DefaultModel(t), filepath.Join(testkit.DefaultModel(t), "tokenizer.json")} {
		status, out, err := call(t, nil, in, "tokenize", "--model", dir)
		if status != 1 || out != want || err != "" {
			t.Errorf("%s: status %d\n%s%s", dir, status, out, err)
		}
	}
	if status, out, _ := call(t, nil, "{\"text\":\"hello world\"}\n", "tokenize", "--max", "3", "--model", testkit.DefaultModel(t)); status != 0 || out != "{\"ids\":[101,7592,102]}\n" {
		t.Errorf("cut to 3: status %d %s", status, out)
	}
	if status, _, err := call(t, nil, "", "tokenize", "--model", "/does/not/exist"); status != boot.StatusModel || strings.Count(err, "\n") != 1 || !strings.Contains(err, "/does/not/exist") {
		t.Errorf("a folder that is not there: status %d %q", status, err)
	}
}

// TestEmbed runs the real model on what a filter may meet. It is the only test of this process that loads
// one, since a process has one model.
func TestEmbed(t *testing.T) {
	in := strings.Join([]string{
		`{"text":"a cat sleeps on the sofa"}`,
		`{"text":""}`,
		`{"text":"a kitten naps on the couch"}`,
		`{"text":1}`,
		`{"text":"interest rates rose again"}`,
		"{\"text\":\"\xff\"}",
		`{"text":"` + strings.Repeat("word ", 400_000) + `"}`,
		`{"text":"` + strings.Repeat("x", 100_000) + `"}`,
	}, "\n")
	env := map[string]string{"EMBEDFLEET_CACHE": filepath.Dir(filepath.Dir(testkit.DefaultModel(t))), "ONNXRUNTIME_LIB": testkit.ONNXRuntime(t)}
	status, out, stderr := call(t, env, in, "embed", "--model", testkit.DefaultModel(t))
	if status != 1 || stderr != "" {
		t.Fatalf("status %d, %s", status, stderr)
	}
	var lines []struct {
		Vector    vector.Vector
		Tokens    int
		Truncated bool
		Line      int
		Error     string
	}
	for line := range strings.Lines(out) {
		lines = append(lines, struct {
			Vector    vector.Vector
			Tokens    int
			Truncated bool
			Line      int
			Error     string
		}{})
		if err := json.Unmarshal([]byte(line), &lines[len(lines)-1]); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	if len(lines) != 8 {
		t.Fatalf("%d lines for 8", len(lines))
	}
	for i, l := range lines {
		if bad := i == 1 || i == 3 || i == 5; bad != (l.Error != "") || bad && l.Line != i+1 || !bad && (len(l.Vector) != 384 || math.Abs(l.Vector.Norm()-1) > 1e-5) {
			t.Errorf("line %d: %d values, line %d, error %q", i+1, len(l.Vector), l.Line, l.Error)
		}
	}
	if !lines[6].Truncated || lines[6].Tokens != 256 || lines[0].Truncated || lines[0].Tokens != 8 {
		t.Errorf("tokens: %d (cut %v), %d (cut %v)", lines[6].Tokens, lines[6].Truncated, lines[0].Tokens, lines[0].Truncated)
	}
	if near, far := lines[0].Vector.Dot(lines[2].Vector), lines[0].Vector.Dot(lines[4].Vector); near < 0.5 || far > near-0.3 {
		t.Errorf("cat and kitten %.3f, cat and interest rates %.3f", near, far)
	}
}
