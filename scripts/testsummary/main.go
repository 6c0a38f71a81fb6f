// Testsummary reads the stream of go test -json on stdin and prints what a person wants of it: one line per
// package as go test does, the output of what failed, every skipped test with its reason, and a last line
// that counts. It ends with status 1 if anything failed or if the stream holds no test at all.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	s := newSummary(os.Stdout)
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
	if !s.finish(time.Now()) {
		os.Exit(1)
	}
}

// An event is a line of go test -json (go doc test2json). Build output carries ImportPath, not Package.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

type summary struct {
	out     io.Writer
	start   time.Time
	output  map[string][]string // lines of a test or package that has not ended
	skipped []string
	tests   map[string]int // number of tests by outcome: pass, fail, skip
	pkgs    map[string]int // number of packages by outcome; skip means without tests
}

func newSummary(out io.Writer) *summary {
	return &summary{
		out: out, start: time.Now(), output: map[string][]string{},
		tests: map[string]int{}, pkgs: map[string]int{},
	}
}

// read takes the events to the end. A line that is no event (a panic of the go command) is passed through.
func (s *summary) read(r io.Reader) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Fprintln(s.out, in.Text())
			continue
		}
		s.take(e)
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("reading the test events: %w", err)
	}
	return nil
}

func (s *summary) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e, s.output[key])
		}
		delete(s.output, key)
	}
}

func (s *summary) endTest(e event, lines []string) {
	s.tests[e.Action]++
	switch e.Action {
	case "fail":
		fmt.Fprint(s.out, strings.Join(lines, ""))
	case "skip":
		s.skipped = append(s.skipped, fmt.Sprintf("%s %s: %s", short(e.Package), e.Test, reason(lines)))
	}
}

// endPackage prints the package's line. The output of a failed one is printed whole, because a panic or a
// race outside a test is found nowhere else; so are tests that never ended, which a timeout leaves behind.
func (s *summary) endPackage(e event) {
	s.pkgs[e.Action]++
	switch e.Action {
	case "pass":
		fmt.Fprintf(s.out, "ok    %-40s %6.1fs\n", short(e.Package), e.Elapsed)
	case "fail":
		for key, lines := range s.output {
			if strings.HasPrefix(key, e.Package+" ") {
				fmt.Fprint(s.out, strings.Join(lines, ""))
				delete(s.output, key)
			}
		}
		fmt.Fprintf(s.out, "FAIL  %-40s %6.1fs\n", short(e.Package), e.Elapsed)
	}
}

// finish prints the end and reports whether all is well.
func (s *summary) finish(now time.Time) bool {
	for _, line := range s.skipped {
		fmt.Fprintln(s.out, "skip ", line)
	}
	fmt.Fprintf(s.out, "%d packages, %d of them failed, in %s\n",
		s.pkgs["pass"]+s.pkgs["fail"], s.pkgs["fail"], now.Sub(s.start).Round(time.Second))
	// The tests' counts stand alone on the last line, for programs that read it.
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.tests["pass"], s.tests["fail"], s.tests["skip"])
	return s.tests["fail"] == 0 && s.pkgs["fail"] == 0 && s.tests["pass"] > 0
}

// reason finds what t.Skip said: the last line that is not test2json's own framing.
func reason(lines []string) string {
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}

// short cuts the module's path off a package's.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/embedfleet/embedfleet/")
}
