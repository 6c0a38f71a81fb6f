package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/embedfleet/embedfleet/vector"
)

// A span is rows of the benchmark's file, and how many sentences to take of them, evenly spread.
type span struct {
	genre       string
	first, last int
	take        int
}

// spans leave out the parts whose owner wants terms accepted first (rows 0-249, MSR-Video, and 1000-1249,
// MSR-Paraphrase) or every author named (625-999, Stack Exchange). Their borders follow from the order of
// the benchmark, which lists its sources one after the other, and were read off the file.
var spans = []span{
	{genre: "captions", first: 250, last: 624, take: 200},
	{genre: "headlines", first: 1250, last: 1499, take: 100},
}

// english takes sentences of the STS benchmark's development set and the notes, which are our own.
func english(data, notes string) ([]vector.Document, error) {
	rows, err := readRows(filepath.Join(data, "stsb", "stsb-en-dev.csv"))
	if err != nil {
		return nil, err
	}
	var docs []vector.Document
	for _, s := range spans {
		docs = append(docs, s.sentences(rows)...)
	}
	own, err := ownNotes(notes)
	return append(docs, own...), err
}

// sentences returns distinct sentences of the span. Both sides of a row are candidates, since pairs that say
// nearly the same are what a search should find together.
func (s span) sentences(rows [][]string) []vector.Document {
	var all []vector.Document
	seen := map[string]bool{}
	for i := s.first; i <= s.last; i++ {
		for side, text := range rows[i][:2] {
			text = strings.TrimSpace(text)
			if key := strings.ToLower(strings.TrimRight(text, ".")); text == "" || seen[key] {
				continue
			} else {
				seen[key] = true
			}
			all = append(all, vector.Document{
				ID: fmt.Sprintf("stsb:dev-%04d-%d", i, side+1), Text: text, Source: "stsb",
				Fields: map[string]string{"genre": s.genre},
			})
		}
	}
	picked := make([]vector.Document, 0, s.take)
	for i := range s.take {
		picked = append(picked, all[i*len(all)/s.take])
	}
	return picked
}

// ownNotes reads texts that begin with a line "# title".
func ownNotes(name string) ([]vector.Document, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var docs []vector.Document
	for i, part := range strings.Split("\n"+string(b), "\n# ")[1:] {
		title, text, _ := strings.Cut(part, "\n")
		docs = append(docs, vector.Document{
			ID: fmt.Sprintf("note:%d", i+1), Title: title, Text: strings.TrimSpace(text), Source: "note",
		})
	}
	return docs, nil
}
