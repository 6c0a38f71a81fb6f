// Gen makes the sample documents that ship with the project out of the shared data folder, so that they can
// be made again and compared. Run it with go generate in the samples folder; where the folder with the data
// is, -data says. SOURCES.md tells where each text comes from and under which licence.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/embedfleet/embedfleet/vector"
)

func main() {
	data := flag.String("data", "../../shared/data", "the shared data folder")
	flag.Parse()
	if err := run(*data, "."); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// run writes the three files into dir.
func run(data, dir string) error {
	for _, part := range []struct {
		name string
		make func(data string) ([]vector.Document, error)
	}{
		{"dart.jsonl", filings},
		{"news.jsonl", news},
		{"english.jsonl", func(data string) ([]vector.Document, error) {
			return english(data, filepath.Join(dir, "gen", "notes.txt"))
		}},
	} {
		docs, err := part.make(data)
		if err != nil {
			return fmt.Errorf("making %s: %w", part.name, err)
		}
		if err := write(filepath.Join(dir, part.name), docs); err != nil {
			return fmt.Errorf("making %s: %w", part.name, err)
		}
		fmt.Printf("%s: %d documents\n", part.name, len(docs))
	}
	return nil
}

// write puts one document on each line, with letters as they are and not as \u003c.
func write(name string, docs []vector.Document) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	for _, d := range docs {
		if err := enc.Encode(d); err != nil {
			return fmt.Errorf("encoding %s: %w", d.ID, err)
		}
	}
	return os.WriteFile(name, out.Bytes(), 0o644)
}
