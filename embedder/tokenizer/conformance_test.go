package tokenizer_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/embedder/tokenizer"
)

// A testCase is one line of a cases file: a text and the ids that Hugging Face's own code makes of it, cut
// at Max ids with special tokens counted. B64 stands instead of Text where the text is not UTF-8.
type testCase struct {
	Cat, Src, Text string
	B64            []byte
	Max            int
	IDs            []int32
}

func (c *testCase) text() string {
	if c.B64 != nil {
		return string(c.B64)
	}
	return c.Text
}

// publicNames are the small tokenizers that were made for this project.
var publicNames = []string{"wordpiece-cased", "wordpiece-uncased", "unigram-e5", "unigram-bge"}

func TestConformancePublic(t *testing.T) {
	t.Parallel()
	for _, name := range publicNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tk := open(t, "testdata/public/tokenizers/"+name+".json")
			checkCases(t, tk, "testdata/public/cases-"+name+".jsonl.gz", 4736)
		})
	}
}

// TestConformancePrivate runs the cases made of third-party texts and real vocabularies, which may not be
// part of this repository and lie in the folder "shared" beside it.
func TestConformancePrivate(t *testing.T) {
	t.Parallel()
	dir := shared(t, "data/tokenizers/private")
	for _, name := range []string{"klue-roberta", "all-minilm-l6-v2", "bge-m3-head28k", "xlmr-head28k-e5"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tk := fromBytes(t, readGzip(t, filepath.Join(dir, "tokenizers", name+".tokenizer.json.gz")))
			checkCases(t, tk, filepath.Join(dir, "cases-"+name+".jsonl.gz"), 7086)
		})
	}
}

// checkCases compares ids, the report of truncation, and that a limit only ever cuts.
func checkCases(t *testing.T, tk *tokenizer.Tokenizer, file string, atLeast int) {
	t.Helper()
	cases := readCases(t, file)
	if len(cases) < atLeast {
		t.Fatalf("%s has %d cases, want at least %d", file, len(cases), atLeast)
	}
	failed := 0
	var ids, all []int32
	for i, c := range cases {
		var truncated bool
		ids, truncated = tk.Encode(ids[:0], c.text(), c.Max)
		all, _ = tk.Encode(all[:0], c.text(), 0)
		if !slices.Equal(ids, c.IDs) {
			t.Errorf("case %d (%s, %s), %d ids at most:\n got %v\nwant %v\ntext %q", i, c.Cat, c.Src, c.Max, ids, c.IDs, c.text())
			failed++
		}
		if truncated != (len(all) > c.Max) {
			t.Errorf("case %d (%s): truncated is %t, but without a limit there are %d ids, with %d", i, c.Cat, truncated, len(all), c.Max)
			failed++
		}
		if failed >= 5 {
			t.Fatalf("too many mismatches, stopping at case %d of %d", i, len(cases))
		}
	}
}

func readCases(tb testing.TB, file string) (cases []testCase) {
	tb.Helper()
	sc := bufio.NewScanner(strings.NewReader(string(readGzip(tb, file))))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var c testCase
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			tb.Fatalf("%s, line %d: %v", file, len(cases)+1, err)
		}
		cases = append(cases, c)
	}
	if err := sc.Err(); err != nil {
		tb.Fatal(err)
	}
	return cases
}

func readGzip(tb testing.TB, file string) []byte {
	tb.Helper()
	f, err := os.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := io.ReadAll(zr)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func open(tb testing.TB, path string) *tokenizer.Tokenizer {
	tb.Helper()
	tk, err := tokenizer.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	return tk
}

func fromBytes(tb testing.TB, data []byte) *tokenizer.Tokenizer {
	tb.Helper()
	tk, err := tokenizer.New(data)
	if err != nil {
		tb.Fatal(err)
	}
	return tk
}

// shared returns a path in the folder "shared" beside the repository, and skips the test if it isn't there.
func shared(tb testing.TB, path string) string {
	tb.Helper()
	root, err := repositoryRoot()
	if err != nil {
		tb.Fatal(err)
	}
	full := filepath.Join(filepath.Dir(root), "shared", filepath.FromSlash(path))
	if _, err := os.Stat(full); errors.Is(err, fs.ErrNotExist) {
		tb.Skipf("skipped: ../shared/%s is not beside the repository", path)
	}
	return full
}

// repositoryRoot is the nearest folder above with a go.mod.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above %s", dir)
		}
		dir = up
	}
}
